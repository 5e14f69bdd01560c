"""Ratios under each assumption, from a count that is written by hand."""

import json
from dataclasses import asdict

import pytest

from espnet_spike.bin import count
from espnet_spike.counting.assumptions import SAID, assumptions, read_networks
from espnet_spike.counting.costs import ByLength, from_table, to_table
from espnet_spike.counting.energy import Rules, energy, read_cost_model
from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import Cost
from espnet_spike.ranges import RULES

# ten events of 30 spikes in all, each into four outputs; the twin has half of its zeros
OURS = Cost(**{"dense_macs": 400, "acs": 120, "event_macs": 40, "slots": 300, "spikes": 30})
FRONT = Cost(dense_macs=100, macs=100)


def row(layer, kind, cost):
    part = "front_end" if layer.startswith("encoder.embed") else layer.split(".")[0]
    return {"layer": layer, "part": part, "kind": kind, **asdict(cost), "sparsity": None}


def written(root, **change):
    """Write a count of a set; return its folder."""
    dense = Cost(dense_macs=400, macs=400)
    content = {
        **{"experiment": "asr_x", "set": "test", "audio_seconds": 2.0, "fold_qk": False},
        **{"execution": {"T": 4}, "trained_twin": {"asr_exp": "exp/asr_t", "checkpoint": "a.pth"}},
        "layers": [
            row("encoder.embed.conv", "conv", FRONT),
            row("encoder.a", "linear", OURS),
            row("decoder.b", "linear", Cost(macs=1e9)),  # is not asked for
        ],
        "twin_layers": [row("encoder.embed", "conv", FRONT), row("encoder.a", "linear", dense)],
        "trained_twin_layers": [
            row("encoder.embed", "conv", FRONT),
            row("encoder.a", "linear", Cost(dense_macs=400, macs=200)),
        ],
    }
    folder = root / "asr_x" / "decode" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "count.json").write_text(json.dumps(content | change))
    return folder


def told(out, folders, models="horowitz45_fp32 horowitz45_int8"):
    words = ["--assumptions", *map(str, folders), "--output_dir", str(out)]
    count.main([*words, "--energy_model", models])
    return json.loads((out / "assumptions.json").read_text())


def test_a_table_for_each_set_and_cost_model(tmp_path, capsys):
    fp32, int8 = told(tmp_path / "out", [written(tmp_path)])
    assert (fp32["experiment"], fp32["set"], fp32["execution"]) == ("asr_x", "test", {"T": 4})
    by_name = {row["assumption"]: row for row in fp32["rows"]}
    first = fp32["rows"][0]
    assert first["assumption"] == "**as the cost model has it**"
    ours = 100 * 4.6 + 120 * 0.9
    assert first["compute"]["joules_per_second"] == pytest.approx(ours * 1e-12 / 2)
    assert first["compute"]["twin"] == pytest.approx(500 * 4.6 / ours)
    assert first["compute"]["trained_twin"] == pytest.approx(300 * 4.6 / ours)
    assert first["compute"]["quantised"] == pytest.approx(140 * 4.6 / ours)
    event = by_name[SAID["event", "mac"]]["compute"]
    assert event["twin"] == pytest.approx(500 / 140) and event["quantised"] == 1
    narrow = {row["assumption"]: row for row in int8["rows"]}
    ratio = narrow["sums of products are as narrow as their operands"]["compute"]["twin"]
    assert ratio == pytest.approx(500 * 0.23 / (100 * 0.23 + 120 * 0.03))
    assert int8["rows"][0]["compute"]["twin"] == pytest.approx(500 * 0.3 / (100 * 0.3 + 120 * 0.1))
    lines = (tmp_path / "out" / "assumptions.md").read_text().splitlines()
    assert lines == capsys.readouterr().out.splitlines()[: len(lines)]
    assert "run T 4, W_Q and W_K apart; trained twin: exp/asr_t;" in "\n".join(lines)
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table if "mean" not in line}) == 1


def test_every_form_has_rows_beside_the_same_baselines(tmp_path):
    slots = Cost(**{"dense_macs": 1200, "repeated_macs": 800, "acs": 120, "event_macs": 120})
    slots.partial_read, slots.values_read = 40, 50
    form = {"spike_mode": "binary", "fold_qk": True, "energy": {}, "per_second": {}}
    form["layers"] = [row("encoder.a", "linear", slots)]
    (found,) = told(tmp_path, [written(tmp_path, forms=[form])], "horowitz45_fp32")
    name = "0/1 spikes in slots, W_Q and W_K merged: "
    rows = {r["assumption"].removeprefix(name): r for r in found["forms"]}
    plain, stored = rows["as the cost model has it"], rows["sums over slots stored"]
    assert plain["compute"]["twin"] == pytest.approx(500 * 4.6 / (120 * 0.9))
    # as integers the network is what was counted first
    assert plain["compute"]["quantised"] == pytest.approx(140 * 4.6 / (120 * 0.9))
    # 40 values more, and the weights of 1200 products for those of 400, 16 at once
    more = (40 + 800 / 16) * 4 * 20 / 8 - 800 / 16 * 4 * (20 - 10) / 8
    ours = [r["total"]["joules_per_second"] for r in (stored, plain)]
    assert ours[0] - ours[1] == pytest.approx(more * 1e-12 / 2)
    assert "weight stationary" in rows and len(rows) == 4
    assert "Each form in which the encoder can run:" in (tmp_path / "assumptions.md").read_text()


@pytest.mark.parametrize("mode", ["binary", "fire"])
def test_slots_are_not_read_as_integers(tmp_path, mode):
    folder = written(tmp_path, execution={"spike_mode": mode})
    (found,) = told(tmp_path, [folder], "horowitz45_fp32")
    assert found["rows"][0]["compute"]["quantised"] is None


def test_without_a_trained_twin_the_table_says_so(tmp_path):
    folder = written(tmp_path, trained_twin=None, trained_twin_layers=[])
    (found,) = told(tmp_path, [folder], "horowitz45_fp32")
    assert all(row["compute"]["trained_twin"] is None for row in found["rows"])
    assert "|none given|" in (tmp_path / "assumptions.md").read_text()


def test_a_dense_network_is_its_own_trained_twin(tmp_path):
    layers = [row("encoder.a", "linear", Cost(dense_macs=400, macs=100))]
    change = {"layers": layers, "twin_layers": [], "trained_twin_layers": []}
    folder = written(tmp_path, **change, trained_twin={"itself": True})
    (found,) = told(tmp_path, [folder], "horowitz45_fp32")
    first = found["rows"][0]["compute"]
    assert (first["trained_twin"], first["twin"], first["quantised"]) == (1, 4, None)


def test_each_rule_is_changed_alone_to_each_value_that_it_may_have():
    model = read_cost_model("horowitz45_fp32")
    changed = [m for _, m in assumptions(model)]
    one = [m.rules for m in changed if m.memory == model.memory and m.rules != model.rules]
    for rules in one:
        differing = [k for k, v in asdict(rules).items() if v != getattr(model.rules, k)]
        assert len(differing) == 1
    assert {
        k for rules in one for k, v in asdict(rules).items() if v != getattr(model.rules, k)
    } == (RULES.keys())
    assert len({said for said, _ in assumptions(model)}) == len(changed)


def test_the_papers_reading_is_that_of_a_file_without_rules():
    model = read_cost_model("horowitz45_int8")
    found = dict(assumptions(model))["all as papers have it: no rules, sums as narrow as operands"]
    assert (found.rules, found.prices["mac"], found.prices["ac"]) == (Rules(), 0.23, 0.03)
    assert found.memory["pj_per_byte"] == pytest.approx(24.96)
    other = {("a", "norm"): Cost(values_read=1000)}
    assert energy(found, other)["total"] == pytest.approx(1000 * 24.96e-12)
    lemaire = read_cost_model("lemaire45_int32")
    assert list(assumptions(lemaire))[1][1].memory == lemaire.memory


def test_what_was_counted_before_is_refused_by_its_name(tmp_path):
    folder = written(tmp_path)
    path = folder / "count.json"
    content = json.loads(path.read_text())
    del content["layers"][0]["event_macs"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"count.json was counted before there were event_macs"):
        read_networks(folder)
    del content["twin_layers"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"counted by an earlier version.*no twin_layers") as error:
        read_networks(folder)
    again = f"--asr_exp {folder.parents[1]} --output_dir {folder.parent} test="
    assert "damaged" not in str(error.value) and again in str(error.value)
    with pytest.raises(UserError, match=r"count\.json does not exist"):
        read_networks(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--assumptions", "a", "--asr_exp", "x"], "takes no --asr_exp"),
        (["test=dump/test"], "arguments are required: --asr_exp"),
        (["--asr_exp", "x"], "arguments are required: NAME=DIR"),
    ],
)
def test_counting_and_asking_have_their_own_arguments(words, message, capsys):
    with pytest.raises(SystemExit):
        count.main([*words, "--output_dir", "o"])
    assert message in capsys.readouterr().err


def test_the_first_row_is_the_sum_over_utterances(tmp_path):
    """An oracle of two utterances, one below ``reuse`` frames; of a sum, fetches are shared.

    Weights 10 x 10; 4 and 60 frames; sixteen frames share a fetch, and at least every weight is
    fetched once: 100 + 60 * 100 / 16 = 475 apart, 64 * 100 / 16 = 400 together.
    """
    model = read_cost_model("horowitz45_fp32")

    def cost(frames):
        sums = dict.fromkeys(("dense_macs", "macs"), 100.0 * frames)
        return Cost(**sums, values_read=100, weights_read=100, weight_size=100)

    lengths = ByLength()
    for frames in (60, 4, 4):
        lengths.add(frames, {("encoder.a", "linear"): cost(frames)})
    assert [group["encoder.a", "linear"].macs for group in lengths.groups()] == [800, 6000]
    table = json.loads(json.dumps(to_table(lengths.groups())))
    assert from_table(table) == lengths.groups()
    both = cost(60)
    both.add(cost(4))
    both.add(cost(4))
    change = {
        "layers": [row("encoder.a", "linear", both)],
        **{"twin_layers": [], "trained_twin": None, "trained_twin_layers": []},
    }
    for told_by_length, fetched in (({}, 68 * 100 / 16), ({"layers": table}, 200 + 375)):
        folder = written(tmp_path, **change, by_length=told_by_length)
        (found,) = told(tmp_path, [folder], "horowitz45_fp32")
        total = found["rows"][0]["total"]["joules_per_second"]
        # 4 bytes from 8 kB
        assert total == pytest.approx((6800 * 4.6 + fetched * 4 * 10 / 8) * 1e-12 / 2)
        lines = (tmp_path / "assumptions.md").read_text()
        assert ("asr_x, test counted by an earlier version" in lines) == (not told_by_length)
        assert model.name in lines


def test_a_damaged_table_of_lengths_is_named(tmp_path):
    table = {"rows": [["a", "linear"]], "columns": ["macs"], "groups": [[[1, 2]]]}
    with pytest.raises(UserError, match=r"count.json is damaged: by_length: layers"):
        read_networks(written(tmp_path, by_length={"layers": table}))
    for damaged in ({"rows": [], "columns": [], "groups": []}, table | {"groups": [[[1]]]}):
        with pytest.raises(UserError, match=r"count.json is damaged: by_length: .* add up to"):
            read_networks(written(tmp_path, by_length={"layers": damaged}))
