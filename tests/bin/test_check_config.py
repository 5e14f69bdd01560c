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


def from_dense(tmp_path, **twin):
    path = ROOT / "egs/an4/conf/train_spiking_speech_mamba_from_dense_ilif_cepstra.yaml"
    config = yaml.safe_load(path.read_text())
    config["spike_meta"]["twin"] |= twin
    (tmp_path / "asr.yaml").write_text(yaml.safe_dump(config))
    return ["--asr_config", str(tmp_path / "asr.yaml")]


def test_impulse_responses_have_to_be_there_before_a_training_on_audio(tmp_path):
    path = ROOT / "egs/mini_an4/conf/train_iml_spikeformer_frontend.yaml"
    words = [
        "--asr_config",
        str(path),
        "--feats_type",
        "raw",
        "--asr_args",
        f"--rir_scp {tmp_path}/r",
    ]
    check_config.main(words)
    with pytest.raises(UserError, match=r"rir_scp: no such file: \S*/r$"):
        check_config.main([*words, "--trains"])
    (tmp_path / "r").touch()
    check_config.main([*words, "--trains"])


def test_a_weight_of_an_n_gram_is_for_a_decoding_with_one():
    words = ["--inference_args", "--ngram_weight 0.5"]
    with pytest.raises(UserError, match="there is no n-gram: --use_ngram true"):
        check_config.main(words)
    check_config.main([*words, "--use_ngram"])


def test_the_configuration_of_the_twin_is_checked_before_it_is_trained(tmp_path, caplog):
    where = r"asr\.yaml, with spike_meta\.twin its dense twin: "
    with pytest.raises(UserError, match=where + "unknown key optm .did you mean 'optim'"):
        check_config.main(from_dense(tmp_path, optm="adam"))
    with pytest.raises(UserError, match=where + "encoder_conf: unknown key tau"):
        check_config.main(from_dense(tmp_path, encoder_conf={"tau": 3.0}))
    with pytest.raises(UserError, match=r"init_param and spike_meta\.init_from"):
        check_config.main([*from_dense(tmp_path), "--asr_args", "--init_param a.pth"])
    config = yaml.safe_load((tmp_path / "asr.yaml").read_text())
    config["spike_meta"] = {"distill": {"from": str(tmp_path / "asr_none")}}
    (tmp_path / "named.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"spike_meta\.distill: no trained twin in \S*asr_none"):
        check_config.main(["--asr_config", str(tmp_path / "named.yaml"), "--trains"])
    check_config.main(["--asr_config", str(tmp_path / "named.yaml")])  # what decodes needs none
    typed = ["--asr_args", f"--init_param {tmp_path}/gone.pth:encoder:encoder"]
    plain = ["--asr_config", str(ROOT / "conf/train_iml_spikeformer.yaml"), *typed]
    with pytest.raises(UserError, match=r"init_param: no such file: \S*/gone\.pth$"):
        check_config.main([*plain, "--trains"])
    check_config.main(plain)
    noise = f"noise: {{folder: {tmp_path}/babble, snr: [5, 20]}}"
    typed = f"--model_conf 'augment={{features: {{kind: log_mel}}, {noise}}}'"
    plain = ["--asr_config", str(ROOT / "conf/train_iml_spikeformer.yaml"), "--asr_args", typed]
    with pytest.raises(UserError, match=r"babble/feats\.scp: no such file, but noise is to be"):
        check_config.main([*plain, "--trains"])
    check_config.main(plain)
    # what the spiking model alone has, and what no YAML can hold, is no mistake of the twin
    typed = "--encoder_conf surrogate_alpha=3.0 --ngpu 0 --dist_world_size 2 --dist_rank 0"
    check_config.main([*from_dense(tmp_path), "--asr_args", typed])
    caplog.clear()
    check_config.main(from_dense(tmp_path, scheduler_conf={"total_steps": 9000}))
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1 and "spike_meta.twin: the schedule has 9000 updates" in told[0]


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
