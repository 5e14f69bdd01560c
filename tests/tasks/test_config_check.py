import sys

import pytest
import torch
import yaml

from espnet_spike.errors import UserError
from espnet_spike.tasks import config_check
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.config import read_training_config
from espnet_spike.tasks.config_check import check_asr_config, check_training_config
from espnet_spike.tasks.lm import SpikeLMTask
from tests.conftest import ROOT
from tests.helpers.configs import GOOD, changed


def check(config, extra="", task=SpikeASRTask, **more):
    return check_training_config(task, config, "c.yaml", extra, **more)


def test_good():
    args = check(GOOD).args
    assert args.input_size == 80 and len(args.token_list) == 30
    check(GOOD, "--max_epoch 3 --encoder_conf output_size=32")
    check(GOOD, "--freeze_param encoder.embed ctc.ctc_lo.bias")


def test_options_of_the_command_are_weaker_than_those_of_the_user():
    words = ["--token_list", "tokens.txt", "--seed", "1", "--ngpu", "3"]
    args, model = check(GOOD, "--seed 2", words=words, vocab_size=12)
    assert (args.token_list, args.seed, args.ngpu) == ("tokens.txt", 2, 3)
    assert model.vocab_size == 12 and next(model.parameters()).is_meta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encodr": "transformer"}, "unknown key encodr .did you mean 'encoder'"),
        (
            {"encoder": "transfomer"},
            "encoder: unknown value 'transfomer' .did you mean 'transformer'",
        ),
        ({"encoder": 5}, "encoder: unknown value 5"),
        (
            {"encoder_conf.output_siz": 1},
            "encoder_conf: unknown key output_siz .did you mean 'output_size'",
        ),
        ({"encoder_conf.input_size": 80}, "encoder_conf.input_size is given by the task"),
        ({"encoder_conf.output_size": "64"}, "encoder_conf.output_size: must be int, not '64'"),
        ({"encoder_conf": [1]}, "encoder_conf: must be a mapping"),
        ({"decoder_conf.num_block": 1}, "did you mean 'num_blocks'"),
        ({"decoder": "speech_mmba"}, "decoder: unknown .* .did you mean 'speech_mamba'"),
        (
            {"decoder": "speech_mamba", "decoder_conf": {"d_stat": 16}},
            "decoder_conf: unknown key d_stat .did you mean 'd_state'.*SpeechMambaDecoder takes",
        ),
        (
            {"decoder": "speech_mamba", "decoder_conf": {"d_state": "16"}},
            "decoder_conf.d_state: must be int, not '16'",
        ),
        (
            {"decoder": "speech_mamba", "decoder_conf": {"num_blocks": 0}},
            "decoder_conf: num_blocks: 0 is out of range",
        ),
        ({"encoder_conf.num_blocks": 0}, "encoder_conf: num_blocks: 0 is out of range"),
        (
            {"encoder": "iml_spikeformer", "encoder_conf": {"hdm_r": 1e9}},
            r"the model cannot be built: ValueError: hdm_r: 1000000000\.0 is out of range",
        ),
        (
            {
                "encoder": "iml_spikeformer",
                "encoder_conf": {"neuron": "ilif", "neuron_conf": {"divide": "no"}},
            },
            "encoder_conf.neuron_conf.divide: must be bool, not 'no'",
        ),
        (
            {
                "encoder": "iml_spikeformer",
                "encoder_conf": {"neuron": ["imls"], "neuron_conf": {"T": 4}},
            },
            r"encoder_conf.neuron: must be str, not \['imls'\]",
        ),
        (
            {"scheduler": "warmuplr", "scheduler_conf": {"warmup_steps": 0}},
            "warmuplr must not be 0",
        ),
        (
            {"encoder": "iml_spikeformer", "encoder_conf": {"neuron_conf": {"divide": True}}},
            "encoder_conf.neuron_conf: unknown key divide.*IMLS takes T, alpha_init",
        ),
        (
            {"encoder": "speech_mamba", "encoder_conf": {"dt_rank": 0}},
            "the model cannot be built: ValueError: dt_rank: 0 is out of range",
        ),
        ({"model": "spike_ars"}, "did you mean 'spike_asr'"),
        ({"model_conf.ctc_wieght": 1}, "did you mean 'ctc_weight'"),
        ({"model_conf.ctc_weight": 1.5}, r"must lie in \[0, 1\]"),
        ({"model_conf.augment": {"vtpl": {}}}, "augment: unknown key vtpl .did you mean 'vtlp'"),
        ({"model_conf.augment": {"vtlp": {"alfa": [1, 1]}}}, "augment.vtlp: unknown key alfa"),
        ({"model_conf.augment": {"noise": {"snr": 5}}}, "augment.noise.snr: must be"),
        ({"model_conf.augment": {"features": {}, "vtlp": {}}}, "Spectrum needs kind"),
        ({"model_conf.augment": {"vtlp": {}}}, "have to know the features"),
        ({"ctc_conf": {"dropout": 0.1}}, "did you mean 'dropout_rate'"),
        ({"specaug": "specaug", "specaug_conf": {"apply_tim_warp": 1}}, "did you mean"),
        ({"specaug": "specaugment"}, "did you mean 'specaug'"),
        ({"normalize": "mvn"}, "normalize: unknown"),
        ({"optim": "adamm"}, "optim: unknown .*did you mean 'adam"),
        ({"optim_conf.lr": "2e-3"}, "optim_conf.lr: YAML reads 2e-3 as text.*write 0.002"),
        ({"optim_conf.learning_rate": 1}, "optim_conf: unknown key learning_rate"),
        ({"optim_conf.lr": -1.0}, "optim_conf: lr: -?[0-9.]+ is out of range"),
        ({"scheduler": "warmup"}, "scheduler: unknown .*did you mean 'warmuplr'"),
        ({"scheduler_conf.warmup_step": 5}, "did you mean 'warmup_steps'"),
        ({"scheduler": "exponentiallr", "scheduler_conf": {}}, "needs gamma"),
        ({"scheduler": None}, "scheduler_conf is given, but scheduler is null"),
        (
            {
                "scheduler": "onecyclelr",
                "scheduler_conf": {"max_lr": 0.01, "total_steps": 10, "pct_start": 0.1},
            },
            "scheduler_conf: .* rises or falls within one update .total_steps 10.; train longer",
        ),
        ({"batch_type": "nummel"}, "batch_type: unknown value 'nummel' .did you mean 'numel'"),
        ({"batch_bins": 1.5}, "batch_bins: must be a whole number"),
        ({"batch_bins": "many"}, "batch_bins: must be a whole number"),
        ({"batch_bins": "4e6"}, "batch_bins: YAML reads 4e6 as text, .* write 4000000$"),
        ({"specaug": "specaug", "specaug_conf": {"num_time_mask": "1e1"}}, "write 10$"),
        ({"use_amp": "maybe"}, "use_amp: must be true or false"),
        ({"max_epoch": None}, "max_epoch: null is not possible"),
        ({"max_epoch": True}, "max_epoch: must be a whole number"),
        ({"keep_nbest_models": "3"}, "keep_nbest_models: must be a list"),
        ({"best_model_criterion": ["valid", "acc", "max"]}, "best_model_criterion: each entry"),
        ({"best_model_criterion": [["valid", "acc", "most"]]}, "min or max"),
        ({"early_stopping_criterion": ["valid", "loss"]}, "must be a list of 3"),
        ({"frontend": "default"}, "frontend: default takes audio"),
        ({"rir_scp": "rir.scp"}, "rir_scp: works on audio, but training reads features"),
        ({"noise_scp": "noise.scp"}, "noise_scp: works on audio"),
        ({"speech_volume_normalize": 1.0}, "speech_volume_normalize: works on audio"),
        ({"cleaner": "tacotron"}, "cleaner: changes the text of the training alone"),
        ({"non_linguistic_symbols": "nlsyms.txt"}, "non_linguistic_symbols: changes the text"),
        ({"frontend_conf": {"n_fft": 512}}, "frontend_conf: there is no front end"),
        ({"seed": 777}, "seed does not belong here; it is set by --seed"),
        ({"token_type": "char"}, "token_type does not belong here"),
        ({"input_size": 40}, "input_size: 40, but features have 80"),
        ({"decoder": None, "decoder_conf": {}}, "decoder: null needs model_conf.ctc_weight 1.0"),
        ({"model_conf.ctc_weight": 0.0}, "reports none of valid cer_ctc .*ctc_weight is 0"),
        ({"model_conf.interctc_weight": 0.3}, "needs encoder_conf.interctc_layer_idx"),
        ({"encoder_conf.attention_heads": 3}, "the model cannot be built"),
        ({"encoder_conf.input_layer": "conv3d"}, "cannot be built: .*conv3d"),
    ],
)
def test_mistakes(change, message):
    with pytest.raises(UserError, match=f"(?s)c.yaml.*{message}"):
        check(changed(change))


@pytest.mark.parametrize(
    ("missing", "change", "message"),
    [
        ("wandb", {"use_wandb": True}, "use_wandb: the package wandb is not installed"),
        (
            "warprnnt_pytorch",
            {
                "decoder": "transducer",
                "decoder_conf": {},
                "joint_net_conf": {"joint_space_size": 8},
            },
            "needs a package that is not installed: .*warp",
        ),
    ],
)
def test_what_needs_a_missing_package_is_refused_by_name(monkeypatch, missing, change, message):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(config_check, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"(?s)c.yaml.*{message}"):
        check(changed(change))


def test_what_argparse_converts_is_no_mistake():
    args = check(changed({"grad_clip": "5e0", "encoder": "Transformer", "use_amp": "false"})).args
    assert (args.grad_clip, args.encoder, args.use_amp) == (5.0, "transformer", False)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as info:
        check(changed({"encodr": 1, "max_epoch": "x", "batch_type": "y"}))
    assert all(key in str(info.value) for key in ("encodr", "max_epoch", "batch_type"))


def test_values_of_our_encoder_are_checked_when_it_is_built():
    ours = {"encoder": "iml_spikeformer", "encoder_conf": {"output_size": 16, "num_blocks": 1}}
    check(GOOD | ours)
    with pytest.raises(UserError, match="neuron"):
        check(GOOD | ours, "--encoder_conf neuron=lifff")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--best_model_criterion valid,acc,mix", "best_model_criterion: .* min or max"),
        ("--early_stopping_criterion valid loss low", "early_stopping_criterion: .* min or max"),
        (
            "--freeze_param encoder.embd",
            "no parameters encoder.embd .*encoder.embed",
        ),
        (
            "--freeze_param encoder ctc decoder",
            "freeze_param: no parameter is left to train",
        ),
        ("--freeze_param encoder ctc.", "freeze_param: .*no parameters ctc\\."),
        ("--max_epochs 3", "unrecognized arguments: --max_epochs.*did you mean 'max_epoch'"),
        ("--max_epoch three", "argument --max_epoch: invalid int value"),
        ("--max_ep 3", "unrecognized arguments"),
        ("--encoder_conf output_siz=64", "did you mean 'output_size'"),
        ("--optim_conf lr=2e-3", "write 0.002"),
        ("--batch_type 'numel", "cannot split"),
        ("--config x.yaml", "--config cannot be given"),
        ("--output_dir=elsewhere", "--output_dir=elsewhere cannot be given"),
    ],
)
def test_mistakes_in_options(extra, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        check(GOOD, extra)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_criteria_that_name_both_branches_fit_every_model(weight):
    both = [["valid", "cer_ctc", "min"], ["valid", "acc", "max"]]
    check(changed({"model_conf.ctc_weight": weight, "best_model_criterion": both}))


def test_global_mvn_needs_no_statistics_yet():
    assert check(GOOD | {"normalize": "global_mvn"}).model.normalize is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {},
            "null, but the data are raw audio .* write frontend: NAME in the YAML, one of default",
        ),
        (
            {"frontend": "s3prl"},
            "s3prl needs the package s3prl, and downloads its model; name one without .* default",
        ),
        ({"frontend": "whisper"}, "whisper needs the package openai-whisper"),
        ({"frontend": "huggingface"}, "huggingface needs the package transformers"),
        ({"frontend": "espnet_ssl"}, "espnet_ssl needs a model"),
        ({"frontend": "defualt"}, "did you mean 'default'"),
        ({"frontend": "default", "frontend_conf": {"n_mel": 80}}, "did you mean 'n_mels'"),
        ({"frontend": "default", "frontend_conf": {"hop_length": "1e2"}}, "hop_length"),
        ({"frontend": "fused"}, "fused joins that of s3prl"),
        ({"frontend": "default", "input_size": 40}, "input_size: 40, but the front end says it"),
        (
            {"frontend": "default", "model_conf.augment": {"noise": {"folder": "noises"}}},
            "augment.noise.folder: holds features",
        ),
    ],
)
def test_front_ends_of_raw_audio_are_checked_by_name(change, message):
    with pytest.raises(UserError, match=f"(?s)c.yaml.*{message}"):
        check_training_config(SpikeASRTask, changed(change), "c.yaml", input_size=None)


FRONT_ENDS = {
    "default": {"frontend_conf": {"n_mels": 20}},
    "sliding_window": {"preencoder": "sinc"},
    "wav2vec_cnn": {
        "frontend_conf": {"norm_mode": "layer_norm", "conv_mode": "standard", "bias": False},
    },
}


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_front_ends_that_need_nothing_more_train(name):
    change = {"frontend": name, "normalize": None, "encoder": "iml_spikeformer"} | FRONT_ENDS[name]
    config = changed(change)
    args, model = check_training_config(SpikeASRTask, config, "c.yaml", input_size=None)
    assert args.input_size is None
    assert next(model.parameters()).is_meta
    torch.manual_seed(0)
    model = SpikeASRTask.build_model(args)
    wave, lengths = 0.1 * torch.randn(2, 12000), torch.tensor([12000, 9000])
    text = torch.tensor([[3, 4, 5], [6, 7, -1]])
    loss, _, _ = model(wave, lengths, text, torch.tensor([3, 2]))
    loss.backward()
    grads = [p.grad for n, p in model.named_parameters() if n.startswith("encoder")]
    assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"utterances": 0}, "spike_meta.sparsify: utterances: 0 is out of range"),
        ({"oder": "network"}, "unknown key 'oder' .did you mean 'order'"),
        ({"finetune": {"optm_conf": {}}}, "finetune: unknown key optm_conf"),
        ({"finetune": {"max_epoch": 0}}, "sparsify.finetune: max_epoch: 0 is out of range"),
        ({"finetune": {"encoder_conf": {"lambda_act": -5.0}}}, "finetune.*lambda_act: -5.0 is out"),
    ],
)
def test_the_stage_after_the_training_is_checked_before_it(tmp_path, change, said):
    config = yaml.safe_load((ROOT / "egs/fsdd/conf/train_event_speech_mamba.yaml").read_text())
    config["spike_meta"]["sparsify"] |= change
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=rf"(?s)c\.yaml.*{said}"):
        check_asr_config(path)


SPARSE = [p for p in sorted(ROOT.glob("**/conf/train_*.yaml")) if "sparsify:" in p.read_text()]


@pytest.mark.parametrize("path", SPARSE, ids=lambda p: f"{p.parts[-3]}/{p.stem}")
def test_what_ships_is_good_for_both_trainings(path):
    check_asr_config(path)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("train_*.yaml")), ids=lambda p: p.stem)
def test_shared_training_configs(path):
    config, meta = read_training_config(path)
    check(config, vocab_size=meta["vocab_size"], input_size=meta["input_size"])


def test_lm_config():
    config, _ = read_training_config(ROOT / "conf" / "lm.yaml")
    check(config, task=SpikeLMTask, input_size=None)
    with pytest.raises(UserError, match="cleaner: changes the text of the training alone"):
        check(config, "--cleaner tacotron", task=SpikeLMTask, input_size=None)
    config["lm_conf"]["layers"] = 2
    with pytest.raises(UserError, match=r"lm_conf: unknown key layers .did you mean 'layer'"):
        check(config, task=SpikeLMTask, input_size=None)


CYCLE = {"scheduler": "onecyclelr", "num_iters_per_epoch": 7, "accum_grad": 2, "max_epoch": 4}


def cycle(steps, **more):
    return {**GOOD, **CYCLE, "scheduler_conf": {"max_lr": 0.01, "total_steps": steps}, **more}


def test_a_cycle_is_as_long_as_the_training():
    """Seven batches are three updates of two; torch raises at the one after ``total_steps``."""
    assert check(cycle(12)).args.scheduler_conf["total_steps"] == 12
    assert check(cycle(40)).args.scheduler_conf["total_steps"] == 40
    # as long as its own training: it follows a longer one
    for extra, steps in (("--max_epoch 5", 15), ("--accum_grad 1", 28), ("--max_epoch 2", 12)):
        assert check(cycle(12), extra).args.scheduler_conf["total_steps"] == steps
    given = "--max_epoch 5 --scheduler_conf total_steps=14"
    for steps, extra in ((11, ""), (13, "--max_epoch 5"), (14, given)):
        with pytest.raises(UserError, match=rf"scheduler_conf.total_steps: {steps}, but max_epoch"):
            check(cycle(12 if extra == given else steps), extra)
    assert check(cycle("auto")).args.scheduler_conf == {"max_lr": 0.01, "total_steps": 12}
    assert check(cycle("auto"), "--max_epoch 50").args.scheduler_conf["total_steps"] == 150
    longer = check(cycle(12), "--max_epoch 50 --scheduler_conf total_steps=auto").args
    assert longer.scheduler_conf == {"max_lr": 0.01, "total_steps": 150}
    with pytest.raises(UserError, match="auto needs num_iters_per_epoch"):
        check(cycle("auto", num_iters_per_epoch=None))
    weights = [torch.nn.Parameter(torch.zeros(1))]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.SGD(weights), **check(cycle("auto")).args.scheduler_conf
    )
    for _ in range(12):
        schedule.optimizer.step()
        schedule.step()
    with pytest.raises(ValueError, match="Tried to step 13 times"):
        schedule.step()


def test_a_schedule_of_epochs_that_ends_elsewhere_than_the_training_is_warned_of(caplog):
    def told(scheduler, conf, extra):
        caplog.clear()
        config = {**GOOD, "scheduler": scheduler, "scheduler_conf": conf, "max_epoch": 4}
        check(config, extra)
        return [message for message in caplog.messages if "scheduler_conf" in message]

    assert told("cosineannealinglr", {"T_max": 4}, "") == []
    (longer,) = told("cosineannealinglr", {"T_max": 4}, "--max_epoch 8")
    assert longer.startswith("scheduler_conf.T_max: 4, but max_epoch is 8: the learning rate rises")
    (shorter,) = told("cosineannealinglr", {"T_max": 4}, "--max_epoch 3")
    assert "does not come down" in shorter
    assert told("multisteplr", {"milestones": [2, 3]}, "") == []
    (late,) = told("multisteplr", {"milestones": [2, 4, 6]}, "")
    assert late.startswith("scheduler_conf.milestones: [4, 6], but max_epoch is 4")
    assert told("steplr", {"step_size": 2}, "--max_epoch 8") == []


def test_a_scan_that_cannot_run_here_is_found_at_the_check(monkeypatch):
    config, _ = read_training_config(ROOT / "conf" / "train_speech_mamba_aishell.yaml")
    for value in ("0", "-1", "true"):
        with pytest.raises(UserError, match=r"scan_memory: \S+ is out of range|scan_memory: must"):
            check(config, f"--encoder_conf scan_memory={value}")
    check(config, "--encoder_conf scan_memory=100")
    for there in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        if there:
            check(config, "--encoder_conf scan_backend=triton")
            continue
        with pytest.raises(UserError, match=r"encoder_conf\.scan_backend: triton needs a CUDA GPU"):
            check(config, "--encoder_conf scan_backend=triton")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amp_dtype": "bfloat16"}, "amp_dtype: has no effect without use_amp: true"),
        ({"use_amp": True, "amp_dtype": "bf16"}, "amp_dtype: .*bf16"),
        ({"use_amp": True, "amp_dtype": "float16"}, "amp_dtype: float16 needs a CUDA GPU"),
    ],
)
def test_a_mixed_precision_that_cannot_be(change, message):
    with pytest.raises(UserError, match=message):
        check(changed(change), words=["--ngpu", "0"])


def test_a_mixed_precision_that_can_be(monkeypatch):
    args = check(changed({"use_amp": True, "amp_dtype": "bfloat16"})).args
    assert args.use_amp and args.amp_dtype == "bfloat16"
    check(changed({"use_amp": True}), task=SpikeASRTask)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check(changed({"use_amp": True, "amp_dtype": "float16"}), words=["--ngpu", "1"])
    with pytest.raises(UserError, match="float16 needs a CUDA GPU"):
        check(changed({"use_amp": True, "amp_dtype": "float16"}), words=["--ngpu", "0"])


@pytest.mark.parametrize(
    ("encoder", "change", "message"),
    [
        ("iml_spikeformer", {}, "iml_spikeformer is not trained compiled, only speech_mamba"),
        ("conformer", {}, "conformer is not trained compiled"),
        ("speech_mamba", {"gradient_checkpointing": True}, "not with .*gradient_checkpointing"),
    ],
)
def test_an_encoder_that_cannot_be_trained_compiled(encoder, change, message):
    config = {"encoder": encoder, "encoder_conf": change, "compile_encoder": True}
    with pytest.raises(UserError, match=f"compile_encoder: {message}"):
        check(config)


def test_a_compiled_encoder_needs_a_compiler(monkeypatch):
    config = {"encoder": "speech_mamba", "encoder_conf": {"num_blocks": 1}, "compile_encoder": True}
    config["model_conf"] = {"ctc_weight": 1.0}
    monkeypatch.setattr(torch, "__file__", "/my env/torch/__init__.py")
    with pytest.raises(UserError, match="compile_encoder: /my env/torch has a space"):
        check(config)
    monkeypatch.setattr(torch, "__file__", "/env/torch/__init__.py")
    assert check(config).args.compile_encoder
    monkeypatch.setenv("CXX", "gone++")
    with pytest.raises(UserError, match=r"compile_encoder: needs the C\+\+ compiler gone\+\+"):
        check(config)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check(config)
