"""From the trained dense twin to spikes."""

import copy
import json
import shutil
from argparse import Namespace

import pytest
import torch
import yaml

from espnet_spike.bin import asr_train, collect_stats
from espnet_spike.errors import UserError
from espnet_spike.experiment import best_checkpoint, read_config, read_epochs
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.nn.neurons.factory import NormedNeuron
from espnet_spike.nn.neurons.frame_lif import FrameReLU
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.config import read_training_config
from espnet_spike.tasks.loading import build
from espnet_spike.training.passes import load_batches
from espnet_spike.training.request import asr_request
from espnet_spike.training.train import check
from espnet_spike.training.twin import become_identity, build_spiking, convert, set_thresholds
from tests.helpers.features import write_features, write_tokens

FORMER = {
    "encoder": "iml_spikeformer",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1,
                     "conv_channels": 4, "dropout_rate": 0.0, "positional_dropout_rate": 0.0,
                     "conv_module": True, "conv_module_kernel": 3},
}  # fmt: skip
MAMBA = {
    "encoder": "spiking_speech_mamba",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "d_state": 2,
                     "conv_channels": 4, "conv_skip": True, "dropout_rate": 0.0,
                     "positional_dropout_rate": 0.0, "per_channel": True},
}  # fmt: skip
RELUS = {"encoder": MAMBA["encoder"], "encoder_conf": MAMBA["encoder_conf"] | {"neuron": "relu"}}
TRAINING = {
    "model_conf": {"ctc_weight": 1.0},
    "normalize": "utterance_mvn",
    "optim": "adam",
    "optim_conf": {"lr": 0.01},
    "batch_type": "unsorted",
    "batch_size": 5,
    "num_workers": 0,
    "max_epoch": 1,
    "num_iters_per_epoch": 12,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
    "best_model_criterion": [["valid", "loss", "min"]],
    "keep_nbest_models": 1,
}
TRAIN = {f"u{i}": text for i, text in enumerate(["ab", "bc a", "cab", "abc b", "ca"])}


class Folder:
    """Data, statistics and trainings of one test module."""

    def __init__(self, path):
        self.path = path
        write_features(path / "train", TRAIN, size=20)
        write_features(path / "dev", {"v1": "ba", "v2": "cab"}, size=20, seed=1)
        write_tokens(path / "tokens.txt")
        data = ["--train_dir", str(path / "train"), "--valid_dir", str(path / "dev")]
        self.data = [*data, "--token_list", str(path / "tokens.txt"), "--token_type", "char"]
        config = self.config("stats", FORMER)
        words = ["--asr_config", config, *self.data, "--output_dir", str(path / "stats")]
        collect_stats.main(words)

    def config(self, name, *parts):
        """Write a YAML of parts and `TRAINING`; return its path."""
        content = dict(TRAINING)
        for part in parts:
            content |= part
        path = self.path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    def train(self, config, exp, *more):
        """Train; return the experiment."""
        words = ["--config", config, *self.data, "--stats_dir", str(self.path / "stats")]
        asr_train.main([*words, "--output_dir", str(self.path / exp), *more])
        return self.path / exp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data, with the twins of both encoders."""
    torch.set_num_threads(1)
    folder = Folder(tmp_path_factory.mktemp("twin"))
    with_relus = MAMBA | {"spike_meta": {"init_from": "twin", "twin": RELUS}}
    for name, part in (("former", FORMER), ("mamba", MAMBA), ("relus", with_relus)):
        folder.train(folder.config(name, part), f"asr_{name}_twin", "--twin")
    return folder


def spiking_arguments(folder, exp, part, **conf):
    """Return twin, its folder, and the arguments of a spiking model of its sizes."""
    args = Namespace(**read_config(folder.path / exp))
    dense = build(args, best_checkpoint(folder.path / exp)).eval()
    own = copy.deepcopy(args)
    own.encoder, own.encoder_conf = part["encoder"], part["encoder_conf"] | conf
    return dense, folder.path / exp, own


def posteriors(model, batches):
    found = []
    with torch.no_grad():
        for batch in batches:
            xs, lengths = model.encode(batch["speech"].clone(), batch["speech_lengths"])
            probabilities = model.ctc.softmax(xs)
            found += [p[:n] for p, n in zip(probabilities, lengths, strict=True)]
    return torch.cat(found)


CASES = {
    "imls": ("asr_former_twin", FORMER, {"neuron": "imls", "T": 6}),
    "imls of utterances": ("asr_former_twin", FORMER, {"neuron": "imls", "imls_stat": "utt"}),
    "imls with a running level": ("asr_former_twin", FORMER, {"imls_stat": "ema"}),
    "ternary": ("asr_former_twin", FORMER, {"neuron": "ternary", "T": 3}),
    "ilif": ("asr_former_twin", FORMER, {"neuron": "ilif", "neuron_conf": {"per_channel": True}}),
    "lif": ("asr_former_twin", FORMER,
            {"neuron": "lif", "T": 4, "neuron_conf": {"per_channel": True}}),
    "spiking mamba": ("asr_mamba_twin", MAMBA, {}),
    "spiking mamba of I-LIF": ("asr_mamba_twin", MAMBA, {"neuron": "ilif", "T": 4}),
    "spiking mamba from ReLUs": ("asr_relus_twin", MAMBA, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_converted_model_is_nearer_to_its_twin_than_a_random_start(folder, name):
    exp, part, conf = CASES[name]
    dense, exp, args = spiking_arguments(folder, exp, part, **conf)
    batches = load_batches(args, folder.path / "train", {utt: 60 for utt in TRAIN})
    torch.manual_seed(1)
    random = SpikeASRTask.build_model(args).eval()
    model = build_spiking(args, dense, exp)
    rows = set_thresholds(model, dense, batches)
    assert sorted(row["neuron"] for row in rows) == sorted(named_neurons(model.encoder))
    assert all(len(row["thresholds"]) == n.dim for row, n in _with_neurons(rows, model))
    assert all(0 <= row["lost"] <= row["lost_most"] for row in rows)
    truth = posteriors(dense, batches)
    distance, other = ((posteriors(m, batches) - truth).norm() for m in (model, random))
    assert distance < 0.6 * other
    # without the thresholds the parameters alone are no conversion
    bare = build_spiking(args, dense, exp)
    assert distance < (posteriors(bare, batches) - truth).norm()


def test_spiking_mamba_has_a_target_for_every_neuron_in_its_form_with_relus(folder):
    dense, exp, args = spiking_arguments(folder, "asr_relus_twin", MAMBA)
    model = build_spiking(args, dense, exp)
    theirs = dict(dense.encoder.named_modules())
    places = {n: model.encoder.twin_place(n, dense.encoder) for n in named_neurons(model.encoder)}
    assert len(set(places.values())) == len(places) == 3 + 5 + 2 * 4
    assert all(isinstance(theirs[p], FrameReLU | NormedNeuron) for p in places.values())


def _with_neurons(rows, model):
    neurons = named_neurons(model.encoder)
    return [(row, neurons[row["neuron"]]) for row in rows]


def test_more_levels_lose_less(folder):
    lost = []
    for T in (2, 6, 24):
        dense, exp, args = spiking_arguments(folder, "asr_former_twin", FORMER, neuron="imls", T=T)
        batches = load_batches(args, folder.path / "train", {utt: 60 for utt in TRAIN})
        rows = set_thresholds(build_spiking(args, dense, exp), dense, batches)
        lost.append(rows[0]["lost"])  # of the first: later ones read what it lost
    assert lost[0] > lost[1] > lost[2] < 0.02


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"neuron": "ilif"}, r"embed\S+: ILIF has one threshold for all channels"),
        ({"output_size": 24}, r"is \(16,?.*\) in the twin, \(24,?.*\) in the spiking model"),
        ({"num_blocks": 2}, r"encoders\.1\S* is not in the twin"),
        ({"conv_module": False}, r"conv\S* has no place in the spiking model"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(folder, conf, message):
    dense, exp, args = spiking_arguments(folder, "asr_former_twin", FORMER, **conf)
    batches = load_batches(args, folder.path / "train", {"u1": 48})
    with pytest.raises(UserError, match=message):
        set_thresholds(build_spiking(args, dense, exp), dense, batches)


def test_a_spiking_model_is_no_twin(folder):
    dense, exp, args = spiking_arguments(folder, "asr_former_twin", FORMER, neuron="imls")
    spiking = build_spiking(args, dense, exp)
    with pytest.raises(UserError, match="is no dense twin: embed"):
        build_spiking(args, spiking, exp)


def test_a_batch_norm_becomes_the_identity():
    norm = MaskedBatchNorm(3)
    x = torch.randn(2, 5, 3) * torch.tensor([1.0, 3.0, 0.1]) + 2
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    x[1, 2:] = 100  # padding has no say
    with torch.no_grad():
        become_identity(norm, [(x, mask)])
    for training in (False, True):
        y = norm.train(training)(x, mask)
        assert torch.allclose(y[mask], x[mask], atol=1e-4)


def test_twin_conversion_and_training_in_their_turn(folder, caplog):
    meta = {
        "init_from": {"from": "twin", "utterances": 4},
        "distill": {"from": "twin", "weight": 0.5, "temperature": 2.0},
        "twin": {"num_iters_per_epoch": 6},
    }
    config = folder.config("whole", FORMER, {"spike_meta": meta, "optim_conf": {"lr": 0.001}})
    with pytest.raises(UserError, match=r"init_from: no trained twin in \S*asr_whole_twin"):
        folder.train(config, "asr_whole")
    twin = folder.train(config, "asr_whole_twin", "--twin")
    assert read_config(twin)["encoder_conf"]["neuron"] == "relu"
    assert read_config(twin)["num_iters_per_epoch"] == 6
    assert not read_config(twin)["init_param"] and "distill" not in read_config(twin)["model_conf"]
    caplog.set_level("INFO")
    exp = folder.train(config, "asr_whole")
    assert "loss of the twin" in caplog.text and "conv.neuron_depthwise" in caplog.text
    record = read_epochs(exp)[0]
    assert record["train"]["loss_distill"] > 0
    assert "loss_distill" not in record["valid"]
    report = json.loads((exp / "conversion" / "init.json").read_text())
    start = record["probe_loss"][0]
    assert start < 2 * report["loss"]["twin"] + 5  # it begins where the twin ended
    state = torch.load(best_checkpoint(exp), weights_only=True)
    assert not any(name.startswith("teacher") for name in state)
    # the same again is finished; longer goes on from what was converted
    folder.train(config, "asr_whole")
    assert "already finished" in caplog.text and len(read_epochs(exp)) == 1
    caplog.clear()
    folder.train(config, "asr_whole", "--asr_args", "--max_epoch 2")
    assert "already converted" in caplog.text and len(read_epochs(exp)) == 2
    # so are other utterances to set thresholds on
    other = meta | {"init_from": {"from": "twin", "utterances": 3}}
    changed = folder.config("other", FORMER, {"spike_meta": other, "optim_conf": {"lr": 0.001}})
    with pytest.raises(UserError, match=r"data: init_from.utterances: 4 -> 3"):
        folder.train(changed, "asr_whole", "--asr_args", "--max_epoch 2")
    # another twin is another start
    torch.save(state | {"x": torch.ones(1)}, best_checkpoint(twin))
    with pytest.raises(UserError, match=r"data: init_from \(content\)"):
        folder.train(config, "asr_whole", "--asr_args", "--max_epoch 3")
    # what was trained decodes without its teacher
    assert build(Namespace(**read_config(exp)), best_checkpoint(exp)).teacher.model is None


def test_options_over_the_yaml_reach_the_twin_as_its_model_has_them(folder):
    twin = {"max_epoch": 7, "encoder_conf": {"dropout_rate": 0.2}, "optim_conf": {"lr": 0.5}}
    config = folder.config("over", MAMBA, {"spike_meta": {"init_from": "twin", "twin": twin}})
    words = ["--config", config, *folder.data, "--stats_dir", str(folder.path / "stats")]
    words += ["--output_dir", str(folder.path / "asr_over_twin"), "--twin", "--asr_args"]
    # LIF alone has a tau, the twin's own options win, and the rest is for both
    options = "--max_epoch 3 --encoder_conf learn_tau=true --encoder_conf d_state=4 "
    options += "--encoder_conf dropout_rate=0.4 --grad_clip 2.5"
    args = vars(asr_train.get_parser().parse_args([*words, options]))
    found = check(asr_request(args)).args
    assert found.encoder == "speech_mamba" and "learn_tau" not in found.encoder_conf
    assert (found.max_epoch, found.grad_clip, found.optim_conf["lr"]) == (7, 2.5, 0.5)
    assert (found.encoder_conf["d_state"], found.encoder_conf["dropout_rate"]) == (4, 0.2)
    # options that no YAML can hold are the command line's of both
    args = vars(asr_train.get_parser().parse_args([*words, f"{options} --dist_backend gloo"]))
    again = check(asr_request(args)).args
    assert (again.dist_backend, again.max_epoch, again.grad_clip) == ("gloo", 7, 2.5)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"init_from": {"form": "x"}}, "init_from: unknown key 'form' .did you mean 'from'"),
        ({"init_from": {"utterances": 3}}, "init_from names no experiment"),
        ({"init_from": {"from": "x", "utterances": 0}}, "utterances: 0 is out of range"),
        ({"init_from": 3}, "init_from: 3 is out of range"),
        ({"distill": {"from": "x", "weight": 0}}, "weight: 0 is out of range"),
        ({"distill": {"from": "x", "temprature": 1}}, "did you mean 'temperature'"),
        ({"distill": ""}, "distill: '' is out of range"),
        ({"twin": {"max_epoch": 3}}, "twin has no effect"),
        ({"init_from": "twin", "twin": 3}, "twin: 3 is out of range"),
        ({"init_form": "x"}, "did you mean 'init_from'"),
    ],
)
def test_mistakes_in_the_part(tmp_path, meta, message):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"spike_meta": meta}))
    with pytest.raises(UserError, match=message):
        read_training_config(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_param": ["x.pth"]}, "init_param and spike_meta.init_from"),
        ({"normalize": None}, "normalize is None, but utterance_mvn"),
        ({"encoder": "speech_mamba", "encoder_conf": {}}, "is dense, it has no twin"),
    ],
)
def test_what_a_training_refuses(folder, change, message):
    twin = str(folder.path / "asr_former_twin")
    config = folder.config("refused", FORMER, {"spike_meta": {"init_from": twin}}, change)
    more = ["--twin"] if "twin" in message else []
    with pytest.raises(UserError, match=message):
        folder.train(config, "asr_refused", *more)


def test_twins_that_read_features_normalised_alike_are_taken(folder):
    twin, stats = folder.path / "asr_global_twin", folder.path / "stats/train/feats_stats.npz"
    shutil.copytree(folder.path / "asr_former_twin", twin)
    shutil.copy(stats, twin / "feats_stats.npz")
    theirs = read_config(twin) | {
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": str(twin / "feats_stats.npz")},
    }
    (twin / "config.yaml").write_text(yaml.safe_dump(theirs))
    meta = {"spike_meta": {"init_from": str(twin)}, "normalize": "global_mvn"}
    words = ["--config", folder.config("global", FORMER, meta), *folder.data]
    words += ["--stats_dir", str(folder.path / "stats"), "--output_dir", str(folder.path / "x")]
    request = asr_request(vars(asr_train.get_parser().parse_args(words)))
    args, _ = check(request)
    assert args.normalize_conf == {"stats_file": str(stats)}
    (twin / "feats_stats.npz").write_bytes(b"others")
    with pytest.raises(UserError, match="both have to read the same features"):
        check(request)


def test_a_damaged_record_of_a_conversion_is_no_record(folder, monkeypatch):
    twin, exp = folder.path / "asr_former_twin", folder.path / "asr_record"
    args = Namespace(**read_config(twin))
    (exp / "conversion").mkdir(parents=True)
    monkeypatch.setattr("espnet_spike.training.twin.choose_utterances", lambda *_: ["u0", "u1"])
    monkeypatch.setattr("espnet_spike.training.twin.load_batches", lambda *_: [])
    monkeypatch.setattr("espnet_spike.training.twin.set_thresholds", lambda *_: [])
    monkeypatch.setattr("espnet_spike.training.twin.task_loss", lambda *_: 1.0)
    meta, record = {"init_from": str(twin)}, exp / "conversion" / "init.json"
    record.write_text("{")
    convert(meta, exp, folder.path / "train", args)
    first = json.loads(record.read_text())
    # killed before the record of another conversion is written, the old one is gone
    args.encoder_conf = FORMER["encoder_conf"] | {"neuron": "imls", "T": 2}

    def kill(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("espnet_spike.training.twin.files.write_json", kill)
        convert(meta, exp, folder.path / "train", args)
    assert not record.exists() and first["key"]


def test_an_option_does_not_start_the_model_from_something_else(folder):
    twin = str(folder.path / "asr_former_twin")
    config = folder.config("refused", FORMER, {"spike_meta": {"init_from": twin}})
    with pytest.raises(UserError, match="init_param"):
        folder.train(config, "asr_refused", "--asr_args", "--init_param y.pth")
