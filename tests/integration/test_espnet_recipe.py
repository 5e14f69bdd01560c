"""ESPnet's own arguments, as its recipes call the training, and its inference behind it."""

import pytest
import yaml

from espnet_spike.bin import asr_inference, asr_train
from espnet_spike.errors import UserError
from espnet_spike.tasks.arguments import is_stock, without_meta
from tests.helpers.tiny_training import CONFIG, write_data

ENCODER = {
    "encoder": "iml_spikeformer",
    "encoder_conf": {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1},
        **{"conv_channels": 4},
    },
}


def arguments(folder, **change):
    config = CONFIG | ENCODER | {"max_epoch": 1, "frontend": None} | change
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    words = f"--config {folder}/c.yaml --token_type char --token_list {folder}/tokens.txt".split()
    for part, name in (("train", "train"), ("valid", "dev")):
        for file in ("feats.scp,speech,kaldi_ark", "text,text,text"):
            words += [f"--{part}_data_path_and_name_and_type", f"{folder}/{name}/{file}"]
    return [*words, "--input_size", "80"]


def test_a_recipe_of_espnet_trains_and_decodes(tmp_path):
    write_data(tmp_path)
    words = arguments(tmp_path)
    assert "spike_meta" in (tmp_path / "c.yaml").read_text()
    stats = tmp_path / "stats"
    shapes = [
        f"--{p}_shape_file={tmp_path}/{n}/feats_shape"
        for p, n in (("train", "train"), ("valid", "dev"))
    ]
    collect = ["--collect_stats", "true", "--normalize", "null", "--output_dir", str(stats)]
    asr_train.main([*words, *collect, *shapes])
    shapes = [
        f"--{part}_shape_file={stats}/{part}/{kind}_shape"
        for part in ("train", "valid")
        for kind in ("speech", "text")
    ]
    exp = tmp_path / "exp"
    asr_train.main([*words, "--output_dir", str(exp), *shapes])
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert (config["encoder"], config["model"]) == ("iml_spikeformer", "spike_asr")
    decode = [
        *("--asr_train_config", f"{exp}/config.yaml", "--asr_model_file", f"{exp}/1epoch.pth"),
        *("--data_path_and_name_and_type", f"{tmp_path}/dev/feats.scp,speech,kaldi_ark"),
        *("--output_dir", f"{exp}/decode", "--beam_size", "2", "--maxlenratio", "0.2"),
    ]
    asr_inference.main(decode)
    text = (exp / "decode/1best_recog/text").read_text().splitlines()
    assert [line.split()[0] for line in text] == ["v1", "v2"]


def test_stages_that_only_run_sh_has_are_refused(tmp_path):
    words = arguments(tmp_path, spike_meta={"vocab_size": 7, "sparsify": {"utterances": 3}})
    with pytest.raises(UserError, match=r"c\.yaml: spike_meta: sparsify is for run.sh"):
        without_meta(words, tmp_path)


def test_whose_arguments_they_are():
    assert is_stock(["--config", "c.yaml", "--train_data_path_and_name_and_type=a,b,c"])
    assert is_stock(["--print_config"])
    assert not is_stock(["--config", "c.yaml", "--train_dir", "dump/train"])
