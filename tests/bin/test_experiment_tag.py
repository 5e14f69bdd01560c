from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.bin.experiment_tag import RESUMABLE_KEYS, arguments_tag, experiment_tag


def test_the_config_and_the_suffixes_name_the_experiment():
    tag = experiment_tag("conf/train_iml_spikeformer.yaml", "", ["fbank_bpe_unigram30", "sp"])
    assert tag == "iml_spikeformer_fbank_bpe_unigram30_sp"


def test_a_longer_training_stays_in_its_folder():
    assert arguments_tag("--max_epoch 90") == ""
    assert arguments_tag("--max_epoch=90 --patience 3") == ""
    assert arguments_tag("--encoder_conf T=4 --max_epoch 9") == "_encoder_confT=4"


@given(st.text(alphabet="abc /\\'\"=-_.ü\n", max_size=30))
def test_a_tag_is_one_folder_name(value):
    import shlex

    tag = arguments_tag(f"--key {shlex.quote(value)}")
    assert "/" not in tag and "\n" not in tag and " " not in tag


def test_resumable_keys_are_spelled_as_espnet_does():
    assert all(key.islower() and "-" not in key for key in RESUMABLE_KEYS)
