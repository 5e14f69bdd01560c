"""The search for thresholds: its orders, its log, and that it goes on where it was killed."""

import json
import re

import pytest
import torch
from torch import nn

from espnet_spike.encoders.monitor import captured
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.training.calibration import (
    STATE,
    STEPS,
    Calibration,
    Calibrator,
    StepLog,
    most_often,
    percentiles_to_try,
    starting_thresholds,
    table,
    violations,
)
from espnet_spike.training.passes import task_loss
from espnet_spike.training.thresholds import FrameQuantiles
from tests.helpers.thresholds import Model, batches
from tests.helpers.untrained import untrained_experiment

FORMER = {"order": "percentile", "base": "fixed", "percentiles": (20, 50, 80)}
NETWORK = {"percentiles": (20, 50, 80), "loss_factor": 1.05}


def calibrator(folder, key="k", after_step=None, weights=(0.05, 0.01), **conf):
    folder.mkdir(exist_ok=True)
    return Calibrator(Model(*weights), batches, Calibration(**conf), folder, key, after_step)


@pytest.mark.parametrize(
    ("start", "answers", "tried", "chosen"),
    [
        (0, {10: True, 20: True, 30: False}, [10, 20, 30], 20),
        (10, {10: False}, [10], 0),
        (0, dict.fromkeys((10, 20, 30, 40), True), [10, 20, 30, 40], 40),
        # from the usual one upwards, or down to the first that is accepted
        (30, {30: True, 40: False}, [30, 40], 30),
        (40, {40: True}, [40], 40),
        (30, {30: False, 20: False, 10: True}, [30, 20, 10], 10),
        (20, {20: False, 10: False}, [20, 10], 0),
    ],
)
def test_percentiles_of_a_point(start, answers, tried, chosen):
    search = percentiles_to_try([10, 20, 30, 40], start)
    asked = [next(search)]
    with pytest.raises(StopIteration) as end:
        while True:
            asked.append(search.send(answers[asked[-1]]))
    assert asked == tried
    assert end.value.value == chosen


def test_most_often():
    assert most_often([]) == 0
    assert most_often([50, 20, 20]) == 20
    assert most_often([50, 20, 0, 0]) == 0
    assert most_often([20, 50, 0]) == 50  # the highest of several


def test_points_in_network_order_over_a_running_base(tmp_path):
    search = calibrator(tmp_path, **NETWORK)
    thresholds = search.run()
    state = search.state
    log = state["log"]
    assert [step["point"] for step in log] == sorted(step["point"] for step in log)
    assert json.loads((tmp_path / STATE).read_text()) == state
    lines = [json.loads(line) for line in (tmp_path / STEPS).read_text().splitlines()]
    assert lines[1:] == log
    assert lines[0]["order"] == ["encoder.narrow", "encoder.wide"]
    # by hand: thresholds are quantiles of frames; the base is the loss that points before left
    quantiles = FrameQuantiles([10, 20, 50, 80])
    for batch in batches():
        mask = torch.arange(40) < batch["speech_lengths"][:, None]
        quantiles.add(batch["speech"].relu(), mask)
    model = Model(0.05, 0.01)
    layers = named_fatrelus(model)
    base = state["base_loss"]
    for name in lines[0]["order"]:
        accepted = None
        for step in (step for step in log if step["point"] == name):
            assert step["T"] == quantiles.thresholds()[step["percentile"]]
            layers[name].set_T(step["T"])
            assert step["loss"] == task_loss(model, batches())
            assert step["ratio"] == step["loss"] / base
            assert step["accepted"] == (step["ratio"] < 1.05)
            accepted = step if step["accepted"] else accepted
        assert thresholds[name] == accepted["T"]
        layers[name].set_T(accepted["T"])
        base = accepted["loss"]
    assert [step["accepted"] for step in log] == [True, True, False, True, True, True, True]
    assert state["final_ratio"] == base / state["base_loss"]
    # a row each, with the zeros that the model has
    rows = {row["point"]: row for row in state["points"]}
    assert rows["encoder.wide"]["percentile"] == 80
    assert rows["encoder.wide"]["kind"] == "wide"
    zeros = [
        (layers["encoder.wide"](b["speech"])[torch.arange(40) < b["speech_lengths"][:, None]] == 0)
        for b in batches()
    ]
    share = torch.cat([z.flatten() for z in zeros]).double().mean()
    assert rows["encoder.wide"]["sparsity"] == pytest.approx(float(share))
    assert state["sparsity"] == pytest.approx(sum(r["sparsity"] for r in rows.values()) / 2)


def test_a_fixed_base_bounds_the_end(tmp_path):
    running = calibrator(tmp_path / "running", **NETWORK)
    running.run()
    fixed = calibrator(tmp_path / "fixed", **NETWORK, base="fixed")
    fixed.run()
    assert fixed.state["final_ratio"] < 1.05 < running.state["final_ratio"]
    base = fixed.state["base_loss"]
    assert all(step["ratio"] == step["loss"] / base for step in fixed.state["log"])


def test_percentile_by_percentile(tmp_path):
    search = calibrator(tmp_path, weights=(1.0, 0.005), **FORMER)
    thresholds = search.run()
    state = search.state
    assert state["base_loss"] == pytest.approx(1.0)
    assert 1 < state["final_ratio"] < 1.05
    # what costs little goes further; the point with more operations is tried first
    assert thresholds["encoder.wide"] > thresholds["encoder.narrow"]
    order = [step["point"] for step in state["log"] if step["percentile"] == 20]
    assert order == ["encoder.wide", "encoder.narrow"]
    # each point's thresholds rise, a frozen one never changes again
    assert violations(state["log"], thresholds, 1.05, "percentile") == []
    refused = {step["point"] for step in state["log"] if not step["accepted"]}
    assert refused == set(state["frozen"]) != set()
    assert state == json.loads((tmp_path / STATE).read_text())
    # over a running base each step may raise the loss
    running = calibrator(tmp_path / "running", **FORMER | {"base": "running", "loss_factor": 1.02})
    running.run()
    assert running.state["final_ratio"] > 1.02
    loss = running.state["base_loss"]
    for step in running.state["log"]:
        assert step["ratio"] == step["loss"] / loss
        loss = step["loss"] if step["accepted"] else loss


def test_thresholds_of_all_percentiles_within_any_bound(tmp_path):
    search = calibrator(tmp_path, **FORMER | {"loss_factor": 1e9})
    thresholds = search.run()
    assert len(set(thresholds.values())) == 1
    assert not search.state["frozen"]


def step(point, T, ratio=1.01, accepted=True):
    return {"percentile": 20, "point": point, "T": T, "ratio": ratio, "accepted": accepted}


@pytest.mark.parametrize(
    ("log", "order", "said"),
    [
        ([step("a", 0.1, ratio=1.2)], "network", "a at 20 %: ratio 1.2"),
        ([step("a", 0.1, accepted=False)], "network", "a at 20 %: ratio 1.01"),
        ([step("a", 0.2), step("a", 0.1)], "percentile", "the threshold of a fell to 0.1"),
        (
            [step("a", 0.1, 1.2, False), step("a", 0.2)],
            "percentile",
            "a was frozen and tried again",
        ),
        (
            [step("a", 0.1), step("b", 0.1), step("a", 0.3)],
            "network",
            "a was left and tried again",
        ),
        ([step("a", 0.1)], "network", "a has not the T of the log"),
    ],
)
def test_what_a_search_must_not_do(log, order, said):
    assert said in violations(log, {"a": 0.3, "b": 0.1}, 1.05, order)
    fine = [step("all", None), step("a", 0.2), step("a", 0.3), step("a", 0.4, 1.2, False)]
    assert violations(fine, {"a": 0.3}, 1.05, order) == []
    # from above, in network order
    down = [step("a", 0.4, 1.2, False), step("a", 0.3)]
    assert violations(down, {"a": 0.3}, 1.05, "network") == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("conf", [NETWORK, FORMER], ids=["network", "percentile"])
def test_a_killed_search_goes_on_to_the_same_end(tmp_path, conf):
    whole = calibrator(tmp_path / "whole", **conf)
    thresholds = whole.run()
    for life in range(len(whole.state["log"])):

        def kill(step, life=life):
            if step == whole.state["log"][life]:
                raise Killed

        search = calibrator(tmp_path / "cut", after_step=kill, **conf)
        assert search.steps.left == life
        with pytest.raises(Killed):
            search.run()
        if life == 1:  # a line that was not written to its end is measured again
            path = tmp_path / "cut" / STEPS
            path.write_text(path.read_text()[:-9])
            with pytest.raises(Killed):
                calibrator(tmp_path / "cut", after_step=kill, **conf).run()
    search = calibrator(tmp_path / "cut", after_step=kill, **conf)
    assert search.run() == thresholds
    for name in (STATE, STEPS):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # another model, other data or settings begin anew
    other = calibrator(tmp_path / "cut", key="another", **conf)
    assert other.steps.header is None and other.steps.left == 0
    other.run()
    assert json.loads((tmp_path / "cut" / STEPS).read_text().splitlines()[0])["key"] == "another"


def test_a_log_that_is_not_of_this_search(tmp_path):
    calibrator(tmp_path, **NETWORK).run()
    with pytest.raises(UserError, match=r"steps.jsonl: step 2 is not encoder.narrow at 20 %"):
        lines = (tmp_path / STEPS).read_text().splitlines(keepends=True)
        (tmp_path / STEPS).write_text("".join([*lines[:2], *lines[3:]]))
        calibrator(tmp_path, **NETWORK).run()
    (tmp_path / STEPS).write_text("".join([*lines, lines[-1]]))
    with pytest.raises(UserError, match="step 8 is not the end"):
        calibrator(tmp_path, **NETWORK).run()
    (tmp_path / STEPS).write_text("{\n")
    with pytest.raises(UserError, match=r"steps.jsonl is damaged"):
        StepLog(tmp_path / STEPS, "k")


MODEL = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "d_state": 2}
MODEL |= {"block": "mhsa_mamba", "input_layer": "conmamba"}
DECODER = {
    "decoder": "speech_mamba",
    "decoder_conf": {"num_blocks": 1, "attention_heads": 2, "d_state": 2, "fat_points": "e"},
    "model_conf": {"ctc_weight": 0.3},
    "normalize": "utterance_mvn",
}


def test_a_hybrid_model_with_points_in_the_decoder(tmp_path, caplog):
    caplog.set_level("DEBUG", logger="espnet_spike.training.calibration")
    g = torch.Generator().manual_seed(0)
    data = [
        {
            "speech": 12 + 2 * torch.randn(2, 40, 80, generator=g),
            "speech_lengths": torch.tensor([40, 30]),
            "text": torch.randint(3, 11, (2, 3), generator=g),
            "text_lengths": torch.tensor([3, 2]),
        }
    ]
    conf = Calibration(percentiles=(50,), loss_factor=1.01)
    (tmp_path / "exp").mkdir()
    whole = None
    for name, kill_at in (("whole", None), ("cut", 20), ("cut", None)):
        model = untrained_experiment(tmp_path / "exp", "event_speech_mamba", MODEL, **DECODER)
        with torch.no_grad():  # dead: it is not tried
            model.encoder.embed.norms[1].weight.zero_()
            model.encoder.embed.norms[1].bias.fill_(-1.0)
        (tmp_path / name).mkdir(exist_ok=True)

        left = [kill_at]

        def kill(step, left=left):
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed

        search = Calibrator(model, lambda: data, conf, tmp_path / name, "k", kill)
        if kill_at is None:
            search.run()
            whole = whole or search
        else:
            with pytest.raises(Killed):
                search.run()
    assert search.state == whole.state
    for name in (STATE, STEPS):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    kinds = [row["kind"] for row in whole.state["points"]]
    block = ["F3", "F4", "F5", "F6", "F7"]
    decoder = [f"decoder {kind}" for kind in (*block[2:], *block)]
    assert kinds == ["F1", "F2", *block, *block, *decoder]
    tried = {step["point"] for step in whole.state["log"]}
    assert len(tried) == len(kinds) - 1 and "encoder.embed.f2" not in tried
    assert "encoder.embed.f2 never passes anything" in caplog.text
    assert "point 3 of 20, encoder.encoders.0.attn.f3: 10 %, T 0." in caplog.text
    assert "going on after 20 steps" in caplog.text
    told = [r.message for r in caplog.records if r.levelname == "INFO"]
    assert not any("T 0." in line for line in told)  # of each threshold: --verbose
    assert any(re.fullmatch(r"4 of 20 points, loss ratio \d\.\d+", line) for line in told)
    # the first step of a later point of a kind is at what was chosen for those before
    first = {}
    for row in whole.state["points"]:
        steps = [s for s in whole.state["log"] if s["point"] == row["point"]]
        if steps:
            usual = most_often(first.get(row["kind"], []))
            assert steps[0]["percentile"] == (usual or 10)
            first.setdefault(row["kind"], []).append(row["percentile"])
    assert any(most_often(values) for values in first.values())
    # what keeps a ReLU starts learning low; the dead one has nothing to start from
    plain = {row["point"] for row in whole.state["points"] if row["T"] == 0}
    unraised = whole.state["unraised"]
    assert set(unraised) == plain - {"encoder.embed.f2"} != set()
    model.eval()
    for name, T in whole.state["thresholds"].items():
        named_fatrelus(model)[name].set_T(T)
    name, T = next(iter(unraised.items()))
    with captured({name: model.get_submodule(name)}, lambda _n, _m, args, y: y[args[1]]) as found:
        task_loss(model, data)
    assert starting_thresholds(whole.state) == unraised | whole.state["thresholds"]
    zero = {"thresholds": {"a": 0.0, "b": 2.0}, "unraised": {"a": 1.0}}  # of quantile_over: all
    assert starting_thresholds(zero) == {"a": 1.0, "b": 2.0}
    positive = found[name][found[name] > 0].sort().values
    assert T == pytest.approx(float(positive[: round(len(positive) / 10)].mean()))


def test_table():
    rows = [
        {"point": "encoder.f1", "kind": "F1", "percentile": 0, "T": 0.0, "sparsity": 0.5,
         "ratio": None},
        {"point": "decoder.blocks.f5", "kind": "decoder F5", "percentile": 40, "T": 0.123456,
         "sparsity": 0.75, "ratio": 1.00049},
    ]  # fmt: skip
    assert table(rows).splitlines() == [
        "point              kind        percentile  threshold  sparsity    ratio",
        "encoder.f1         F1                   0          0     0.500        -",
        "decoder.blocks.f5  decoder F5          40     0.1235     0.750  1.00049",
    ]


def test_calibration_refuses(tmp_path):
    with pytest.raises(UserError, match="no FATReLU point"):
        Calibrator(nn.Linear(1, 1), batches, Calibration(), tmp_path, "k")
    model = Model()
    model.encoder.wide.set_T(0.5)
    with pytest.raises(UserError, match="thresholds already"):
        Calibrator(model, batches, Calibration(), tmp_path, "k")
    with pytest.raises(UserError, match="already raise the loss"):
        calibrator(tmp_path / "a", **FORMER | {"loss_factor": 1.0000001}).run()
    with pytest.raises(UserError, match="every threshold raises the loss too much"):
        calibrator(tmp_path / "b", loss_factor=1.0000001).run()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss_factor": 1.0}, "must be above 1"),
        ({"percentiles": (5, 20)}, "must rise"),
        ({"utterances": 0}, "at least 1"),
        ({"order": "netwrok"}, "order: 'netwrok' is unknown .did you mean 'network'"),
        ({"base": "fix"}, "base: 'fix' is unknown"),
        ({"quantile_over": "nonzero"}, "quantile_over: 'nonzero'"),
        ({"order": "percentile", "quantile_over": "all"}, "quantile_over: all goes with"),
    ],
)
def test_settings_that_make_no_sense(wrong, said):
    with pytest.raises(ValueError, match=said):
        Calibration(**wrong)


def test_bounds_and_identities():
    assert Calibration().bound == 1.001
    assert Calibration(base="fixed").bound == 1.05
    assert Calibration(base="fixed", loss_factor=1.2).bound == 1.2
    # a calibration made before there was a choice is that by percentile over a fixed base
    former = Calibration(order="percentile", base="fixed", utterances=60)
    assert json.dumps(former.identity()) == json.dumps(
        {"loss_factor": 1.05, "utterances": 60, "first": 10.0,
         "percentiles": [20, 30, 40, 50, 60, 70, 80, 90], "max_values": 1000000, "seed": 0}
    )  # fmt: skip
    others = [{}, {"order": "percentile"}, {"base": "fixed"}, {"quantile_over": "all"}]
    identities = {json.dumps(Calibration(**conf).identity()) for conf in others}
    assert len(identities) == 4
    # told or not, it is the same
    assert Calibration().identity() == Calibration(loss_factor=1.001).identity()


def test_quantiles_over_all_channels_may_be_zero(tmp_path):
    """Such a threshold changes nothing and is not measured."""
    search = calibrator(tmp_path, quantile_over="all", loss_factor=1.05)
    search.run()
    lowest = [step for step in search.state["log"] if step["T"] == 0]
    assert lowest and all(step["accepted"] for step in lowest)
    assert {step["loss"] for step in lowest if step["point"] == "encoder.narrow"} == {
        search.state["base_loss"]
    }


def test_a_loss_at_the_bound_is_refused(tmp_path, monkeypatch):
    """K = 1.5 over a base of 2: 3 is not below it, 2.999 is."""
    search = calibrator(tmp_path, loss_factor=1.5)
    search.reference = search.loss = 2.0
    name = next(iter(search.layers))
    for loss, accepted in ((3.0, False), (2.999, True), (3.001, False)):
        monkeypatch.setattr(search.passes, "loss", lambda *_, loss=loss: loss)
        step = search._measure(20, name, {name: 0.1})
        assert (step["ratio"], step["accepted"]) == (loss / 2, accepted)
