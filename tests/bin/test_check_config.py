import pytest
import yaml

from espnet_spike.bin import check_config
from espnet_spike.errors import UserError
from tests.conftest import ROOT
from tests.helpers.configs import GOOD, changed


def test_command_checks_every_file_and_remembers(tmp_path, monkeypatch):
    asr, decode, cache = (tmp_path / n for n in ("asr.yaml", "decode.yaml", "made/cache.json"))
    asr.write_text(yaml.safe_dump(GOOD))
    decode.write_text("beam_size: 5\nctc_weight: 0.5\n")
    argv = ["--asr_config", str(asr), "--inference_config", str(decode), "--cache", str(cache)]
    argv += ["--fbank_config", str(ROOT / "conf" / "fbank.yaml")]
    check_config.main([*argv, "--keep_cache"])
    assert not cache.parent.exists()
    check_config.main(argv)

    def unexpected(options):
        raise AssertionError("checked again")

    with monkeypatch.context() as patch:
        patch.setattr(check_config, "check", unexpected)
        check_config.main(argv)
        with pytest.raises(AssertionError):
            check_config.main([*argv, "--asr_args", "--max_epoch 3"])
    decode.write_text("beam_sise: 5\n")
    with pytest.raises(UserError, match=r"unknown key beam_sise .did you mean 'beam_size'"):
        check_config.main(argv)
    decode.write_text("beam_size: 5\n")
    with pytest.raises(UserError, match="unknown option --penaltyy"):
        check_config.main([*argv, "--inference_args", "--penaltyy 1"])


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--energy_model", "operations: {mac: 0", r"operations: mac: 0 is out of range"),
        ("--hardware", "clock_mhz: 0", r"clock_mhz: 0 is out of range"),
        ("--inference_config", "maxlenratio: 50", r"maxlenratio: 50 is out of range"),
    ],
)
def test_values_are_checked_before_work(tmp_path, option, text, said):
    path = tmp_path / "x.yaml"
    good = (ROOT / "conf/energy/horowitz45_fp32.yaml").read_text()
    path.write_text(good.replace("operations: {mac: 4.6", text) if "mac" in text else text)
    with pytest.raises(UserError, match=rf"x\.yaml: {said}"):
        check_config.main([option, str(path)])


IML = {"encoder": "iml_spikeformer", "encoder_conf.input_layer": "conv2d"}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"spike_meta": {"sparsify": {}}}, [], "encoder transformer .* has no FATReLU point"),
        ({"spike_meta": {"init_from": "twin"}}, [], "encoder transformer is dense, it has no twin"),
        (
            {**IML, "encoder_conf.neuron": "lif", "spike_meta": {"init_from": "twin"}},
            [],
            "no threshold for each channel in .* such as .*; write per_channel: true",
        ),
        ({}, ["--naive_sparsity", "0.2"], "--naive_sparsity with encoder transformer"),
    ],
)
def test_what_a_later_stage_refuses_is_refused_before_the_training(tmp_path, change, options, said):
    path = tmp_path / "asr.yaml"
    path.write_text(yaml.safe_dump(changed(change)))
    with pytest.raises(UserError, match=said):
        check_config.main(["--asr_config", str(path), *options])


def test_options_of_the_search_are_checked_too():
    with pytest.raises(UserError, match="beam_size: 0 is out of range"):
        check_config.main(["--inference_args", "--beam_size 0"])
    with pytest.raises(UserError, match="unrecognized arguments: beam_size"):
        check_config.main(["--inference_args", "beam_size 5"])


def test_what_is_doubtful_is_told_also_from_the_cache(tmp_path, caplog):
    feats = tmp_path / "feats"
    feats.mkdir()
    (feats / "feats_shape").write_text("a 3000,13\n")
    (feats / "text").write_text("a one two\n")
    words = ["--asr_config", str(ROOT / "conf/train_iml_spikeformer.yaml"), "--nbpe", "500"]
    words += ["--train_dir", str(feats), "--cache", str(tmp_path / "cache.json")]
    for _ in range(2):
        caplog.clear()
        check_config.main(words)
        assert "the warm-up of 5000 updates is longer than the training of 60" in caplog.text
        assert "cover up to 27 dims, and features have 13" in caplog.text
        assert "500 pieces are more than 2 words of text can teach" in caplog.text


def test_the_front_end_has_to_be_of_the_rate_that_is_asked_for():
    config = str(ROOT / "egs/mini_an4/conf/train_iml_spikeformer_frontend.yaml")
    words = ["--asr_config", config, "--feats_type", "raw", "--fs"]
    check_config.main([*words, "16000"])
    check_config.main([*words, "8000", "--asr_args", "--frontend_conf fs=8k"])
    with pytest.raises(UserError, match=r"frontend_conf\.fs: 16000 Hz, but audio of --fs 8000"):
        check_config.main([*words, "8000"])


def test_a_front_end_is_written_in_the_yaml():
    words = ["--asr_config", str(ROOT / "egs/mini_an4/conf/train_iml_spikeformer.yaml")]
    with pytest.raises(UserError, match="--frontend cannot be given") as info:
        check_config.main([*words, "--feats_type", "raw", "--asr_args", "--frontend default"])
    assert "write it in the YAML" in info.value.hint
