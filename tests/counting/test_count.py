"""The count command on a trained model, and what reports make of its result."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from espnet_spike.bin import count, report, sweep
from espnet_spike.counting.costs import ENCODER, PRODUCTS
from espnet_spike.counting.count import count_sets, part_of, point_sparsity, saved_macs
from espnet_spike.data.fbank import FbankConfig
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import FeatureExtractor
from espnet_spike.errors import UserError
from espnet_spike.nn.accounting import COLUMNS
from espnet_spike.results.energy_tables import count_lines, energy_tables, set_counts
from espnet_spike.results.recording import RECORDING, DecodedUtterance, choose_utterance
from espnet_spike.tasks.loading import load_model
from espnet_spike.utils.provenance import portable_path
from espnet_spike.utils.resources import shipped
from tests.export.test_reparameterize import MODEL
from tests.helpers import pages, tiny_model
from tests.helpers.experiments import make_experiment

MODELS = "horowitz45_fp32 lemaire45_int32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("count")
    texts = tiny_model.make_texts(5, seed=2)
    data = tiny_model.write_features(root / "dump" / "test", texts, seed=2, seconds=2.0)
    out = root / "decode"
    (out / "test").mkdir(parents=True)
    hyps = {utt: "3 4 5" for utt in texts}
    (out / "test" / "token_int").write_text("".join(f"{u} {h}\n" for u, h in hyps.items()))
    words = ["--asr_exp", str(tiny_model.tiny_experiment()), "--out", str(out)]
    count.main([*words, "--energy_model", MODELS, f"test={data}"])
    return out / "test"


def test_which_weights_were_counted_is_recorded(counted):
    file = tiny_model.tiny_experiment() / counted["checkpoint"]
    assert counted["checkpoint_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def counted(folder):
    return json.loads((folder / "count.json").read_text())


@pytest.fixture(scope="module")
def neurobench(folder):
    return json.loads((folder / "neurobench.json").read_text())


def test_utterances_parts_operators_and_layers_agree(counted):
    assert counted["utterances"] == 5 and counted["audio_seconds"] == 10
    assert set(counted["parts"]) == {"front_end", "encoder", "ctc", "decoder"}
    for part, sums in counted["parts"].items():
        for column in COLUMNS:
            layers = sum(row[column] for row in counted["layers"] if row["part"] == part)
            kinds = sum(cost[column] for cost in counted["operators"][part].values())
            utts = sum(utt["parts"][part][column] for utt in counted["utts"].values())
            assert layers == kinds == utts == sums[column], (part, column)
    size = tiny_model.CONFIG["encoder_conf"]["output_size"] * len(tiny_model.TOKENS)
    frames = sum(((utt["frames"] - 1) // 2 - 1) // 2 for utt in counted["utts"].values())
    assert counted["parts"]["ctc"]["macs"] == frames * size == 79 * size
    assert all(utt["tokens"] == 4 for utt in counted["utts"].values())  # and <sos>
    assert not counted["uncovered"] and not counted["spikes_made_real"]


def test_energy_carries_its_provenance_and_adds_up(counted):
    assert list(counted["energy"]) == MODELS.split()
    for name, found in counted["energy"].items():
        assert {"source", "technology", "precision", "warnings", "operations"} <= set(
            found["model"]
        )
        assert found["twin"] == "itself, nothing skipped"
        for column in ("compute", "total"):
            each = [utt["energy"][name] for utt in counted["utts"].values()]
            ours = sum(e["encoder_with_front_end"][column] for e in each)
            twin = sum(e["twin"][column] for e in each)
            assert found[column]["joules_per_second"] == pytest.approx(ours / 10)
            assert found[column]["ratio"] == pytest.approx(twin / ours)
            assert found[column]["ratio"] >= 1  # zeros of ReLU are skipped
            parts = found[column]["parts"]
            assert parts["front_end"] + parts["encoder"] == pytest.approx(ours / 10)
    # by hand: the products of the encoder at 4.6 pJ
    macs = counted["parts"]["front_end"]["macs"] + counted["parts"]["encoder"]["macs"]
    found = counted["energy"]["horowitz45_fp32"]["compute"]
    assert found["joules_per_second"] == pytest.approx(macs * 4.6e-12 / 10)
    # and of its twin, nothing skipped
    dense = sum(counted["parts"][part]["dense_macs"] for part in ("front_end", "encoder"))
    assert dense > macs
    assert found["twin_joules_per_second"] == pytest.approx(dense * 4.6e-12 / 10)
    assert counted["per_second"]["macs"] == pytest.approx(macs / 10)
    assert {"checkpoint", "environment", "encoder", "parameters"} <= set(counted)
    assert counted["decoder_input"] == "hypotheses"


def test_the_decoder_has_figures_of_its_own(counted, capsys):
    decoder = counted["decoder"]
    assert decoder["tokens"] == 5 * 4  # <sos> and three tokens each
    part = counted["parts"]["decoder"]
    for name in ("macs", "dense_macs"):
        assert decoder["per_token"][name] == pytest.approx(part[name] / 20)
    assert decoder["per_token"]["synops"] == 0 and decoder["sparsity"]["firing_rate"] is None
    each = [utt["energy"] for utt in counted["utts"].values()]
    for model, found in decoder["energy"].items():
        for column in ("compute", "total"):
            total = sum(energy[model]["decoder"][column] for energy in each)
            assert found[column] == pytest.approx(total / 20)
    (line,) = (x for x in count_lines({"test": counted}) if "decoder" in x)
    assert line.startswith("  decoder, 20 tokens: 0 SynOps, ")


def put(counted, set_dir):
    """Write a count into a decoded set, as one of the model that has decoded it."""
    checkpoint = json.loads((set_dir / "decode.json").read_text())["checkpoint"]
    (set_dir / "count.json").write_text(json.dumps(counted | {"checkpoint": checkpoint}))


def test_results_and_report_take_the_figures(tmp_path, counted, capsys):
    exp = make_experiment(tmp_path, "tiny", {})
    put(counted, exp / "decode" / "test")
    make_experiment(tmp_path, "uncounted", {})
    out = tmp_path / "exp" / "RESULTS.md"
    report.main(["--expdir", str(tmp_path / "exp"), "--corpus", "c", "--out", str(out)])
    figures = json.loads((exp / "results.json").read_text())["sets"]["test"]
    assert figures["sparsity"] == counted["sparsity"]
    energy = figures["energy"]["horowitz45_fp32"]
    assert energy["source"] and energy["warnings"]
    assert energy["compute"] == counted["energy"]["horowitz45_fp32"]["compute"]
    text = out.read_text()
    section = text[text.index("## Operations and energy") :].split("\n## ")[0]
    assert "uncounted" not in section
    assert "Horowitz" in section and "Lemaire" in section
    # the first cost model has long tables, the others are columns of a short one
    ours = [line for line in section.splitlines() if line.startswith("|asr_tiny|")]
    operations, products, output, weights, other_prices, decoder = ours
    assert operations.startswith("|asr_tiny|decode|test|12,345|")
    for line, label, found in (
        (products, "", energy["compute"]),
        (output, ", output stationary", energy["dataflows"]["output_stationary"]),
        (weights, ", weight stationary", energy["dataflows"]["weight_stationary"]),
    ):
        # it is its own trained twin, so there are no ratios, and no columns for them
        ours, dense = (1e3 * found[f"{name}joules_per_second"] for name in ("", "twin_"))
        prices = f"`horowitz45_fp32`{label}"
        assert line == (f"|asr_tiny|decode|test|{prices}|{ours:.4g}|itself|{dense:.4g}|no counts|")
    assert decoder.startswith("|asr_tiny|decode|test|20|")
    assert f"|{1e6 * counted['decoder']['energy']['horowitz45_fp32']['compute']:.4g}|" in decoder
    assert figures["decoder"] == counted["decoder"]
    other = figures["energy"]["lemaire45_int32"]
    for column in ("compute", "total"):
        assert f"|{1e3 * other[column]['joules_per_second']:.3g}|" in other_prices
    assert "|lemaire45_int32|lemaire45_int32, with memory|" in section


def test_what_was_counted_before_still_has_its_tables(tmp_path, counted):
    """Files of before had the dense twin only; their energies stand beside no others."""
    older = json.loads(json.dumps(counted))
    for name in ("trained_twin", "twin_layers", "trained_twin_layers"):
        del older[name]
    for energy in older["energy"].values():
        for name in ("dataflows", "real_mac_share", "layers"):
            del energy[name]
        for column in ("compute", "total"):
            del energy[column]["against"]
    exp = make_experiment(tmp_path, "tiny", {})
    put(older, exp / "decode" / "test")
    out = tmp_path / "exp" / "RESULTS.md"
    report.main(["--expdir", str(tmp_path / "exp"), "--corpus", "c", "--out", str(out)])
    assert out.read_text().count("count again|") == 2 * 4 + 2 + 2
    (line,) = (x for x in count_lines({"test": older}) if "trained twin:" in x)
    assert "count again" in line


def test_energy_tables_show_every_set_once(tmp_path, counted):
    for name, sets in (("a", ("test_seen", "test")), ("b", ("test_seen", "test"))):
        exp = make_experiment(tmp_path, name, {})
        for test in sets:
            folder = exp / "decode" / test
            if not folder.exists():
                shutil.copytree(exp / "decode/test", folder)
            put(counted, folder)
    out = tmp_path / "exp" / "RESULTS.md"
    report.main(["--expdir", str(tmp_path / "exp"), "--corpus", "c", "--out", str(out)])
    results = [
        json.loads((tmp_path / "exp" / f"asr_{name}" / "results.json").read_text()) for name in "ab"
    ]
    (_, _, rows), (_, _, products), (_, _, memory), (_, short_head, short) = energy_tables(results)
    assert len({tuple(row[:3]) for row in rows}) == len(rows) == 4
    assert [row[:3] for row in short] == [row[:3] for row in rows]
    assert (
        [row[:3] for row in products]
        == [row[:3] for row in rows]
        == [row[:3] for row in memory[::2]]
    )
    assert {row[3] for row in products} == {"`horowitz45_fp32`"}
    assert all(len(row) == len(short_head) for row in short)
    # all of it is in results.json
    assert list(results[0]["decodes"]["decode"]["test_seen"]["energy"]) == MODELS.split()


@pytest.mark.parametrize("by_macs", [False, True])
def test_sparsity_of_points_is_that_of_training(by_macs):
    import torch

    from espnet_spike.counting.counter import Counter
    from espnet_spike.encoders.speech_mamba import EventSpeechMambaEncoder
    from espnet_spike.nn.layers.fatrelu import mean_sparsity

    torch.manual_seed(0)
    net = torch.nn.Module()
    net.decoder = None
    conf = {"output_size": 8, "attention_heads": 2, "num_blocks": 2, "d_state": 3}
    net.encoder = EventSpeechMambaEncoder(20, fat_points="optimized", fat_threshold=0.1, **conf)
    net.eval()
    with torch.inference_mode(), Counter(net) as counter:
        net.encoder(torch.randn(1, 41, 20), torch.tensor([41]))
    expected = float(mean_sparsity(net.encoder, mac_weighted=by_macs))
    found = point_sparsity(counter.costs, saved_macs(net), by_macs)
    assert found == pytest.approx(expected, abs=2e-6) and 0 < found < 1
    assert point_sparsity(counter.costs, {}, by_macs) is None


def test_metrics_have_the_names_of_neurobench(counted, neurobench):
    def each(parts, column):
        return sum(counted["parts"][part][column] for part in parts) / counted["utterances"]

    model = load_model(tiny_model.tiny_experiment()).model
    parts = {None: list(counted["parts"]), "encoder": ["front_end", "encoder"]}
    for scope, names in parts.items():
        found = neurobench if scope is None else neurobench[scope]
        everything = [found["synaptic_operations"], *found["beyond_neurobench"].values()]
        for name, column in (("Effective_MACs", "macs"), ("Effective_ACs", "acs")):
            assert sum(ops[name] for ops in everything) == pytest.approx(each(names, column))
        assert found["membrane_updates"] == each(names, "updates")
        module = model if scope is None else model.encoder
        tensors = [*module.parameters(), *module.buffers()]
        assert found["footprint"] == sum(x.numel() * x.element_size() for x in tensors)
        assert found["connection_sparsity"] < 0.01
    encoder = neurobench["encoder"]
    assert encoder["activation_sparsity"] == pytest.approx(
        counted["sparsity"]["activations"], abs=1e-6
    )
    assert neurobench["parameter_count"] == counted["parameters"]
    assert encoder["parameter_count"] == counted["encoder_parameters"]
    frames = sum(utt["frames"] for utt in counted["utts"].values())
    assert neurobench["model_execution_rate"] == pytest.approx(frames / 10 / 4, abs=0.01)
    assert neurobench["samples"] == 5 and neurobench["notes"]


def spiking_experiment(tmp_path, **change):
    """Return an untrained model with a spiking encoder and a decoder, and features for it."""
    import torch

    from espnet_spike.tasks.arguments import parse_espnet
    from espnet_spike.tasks.asr import SpikeASRTask

    exp = tmp_path / "asr_s"
    exp.mkdir()
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(tiny_model.TOKENS) + "\n")
    conf = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    config = tiny_model.CONFIG | {"encoder": "iml_spikeformer", "encoder_conf": conf} | change
    words = ["--output_dir", str(exp), "--token_list", str(tokens), "--token_type", "char"]
    args = parse_espnet(SpikeASRTask, config, [*words, "--input_size", "24"])
    torch.save(SpikeASRTask.build_model(args).state_dict(), exp / "valid.cer_ctc.ave.pth")
    (exp / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    data = tiny_model.write_features(
        tmp_path / "dump", tiny_model.make_texts(3, seed=4), seed=4, seconds=1.0
    )
    return exp, data


def test_a_trained_twin_is_counted_with_its_zeros_skipped(tmp_path):
    exp, data = spiking_experiment(tmp_path)
    (tmp_path / "relu").mkdir()
    conf = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    twin, _ = spiking_experiment(tmp_path / "relu", encoder_conf=conf | {"neuron": "relu"})

    def counted(*more):
        count.main(["--asr_exp", str(exp), "--out", str(tmp_path / "o"), *more, f"test={data}"])
        return json.loads((tmp_path / "o" / "test" / "count.json").read_text())

    none = counted()
    assert none["trained_twin"] is None and none["trained_twin_layers"] == []
    compute = none["energy"]["horowitz45_fp32"]["compute"]
    assert compute["against"]["trained_twin"] is None
    # by hand: an event is multiplied once, or added as often as it counts
    sums = {
        name: sum(
            row[name]
            for row in none["layers"]
            if row["part"] in ENCODER and row["kind"] in PRODUCTS
        )
        for name in ("macs", "acs", "event_macs")
    }
    whole = 4.6 * (sums["macs"] + sums["event_macs"])
    ratio = whole / (4.6 * sums["macs"] + 0.9 * sums["acs"])
    assert compute["against"]["quantised"]["ratio"] == pytest.approx(ratio)
    assert sums["acs"] > sums["event_macs"] > 0
    record = exp / "conversion" / "init.json"  # of a training that started from it
    record.parent.mkdir()
    for content in ("{", json.dumps({"twin": str(tmp_path / "gone" / "a.pth")})):
        record.write_text(content)
        assert counted()["trained_twin"] is None
    record.write_text(json.dumps({"twin": str(twin / "valid.cer_ctc.ave.pth")}))
    assert counted()["trained_twin"]["asr_exp"] == portable_path(twin)
    found = counted("--twin_exp", str(twin))
    assert found["trained_twin"]["checkpoint"] == "valid.cer_ctc.ave.pth"
    macs = sum(row["macs"] for row in found["trained_twin_layers"])
    dense = sum(row["dense_macs"] for row in found["twin_layers"])
    assert dense == sum(row["dense_macs"] for row in found["trained_twin_layers"]) > macs > 0
    for column in ("compute", "total"):
        against = found["energy"]["horowitz45_fp32"][column]["against"]
        fair, usual = against["trained_twin"], against["twin"]
        assert 0 < fair["joules_per_second"] < usual["joules_per_second"]
        assert fair["ratio"] < usual["ratio"]
    # all at one price: by hand
    seconds, prices = found["audio_seconds"], found["energy"]["horowitz45_fp32"]["compute"]
    fair = prices["against"]["trained_twin"]["joules_per_second"]
    assert fair == pytest.approx(macs * 4.6e-12 / seconds)
    # nothing is skipped of the dense twin, whatever its zeros
    assert prices["twin_joules_per_second"] == pytest.approx(dense * 4.6e-12 / seconds)
    assert prices["against"]["twin"]["joules_per_second"] == prices["twin_joules_per_second"]
    # the one that a training started from needs no option
    shutil.copytree(twin, tmp_path / "asr_s_twin")
    assert counted()["trained_twin_layers"] == found["trained_twin_layers"]

    with pytest.raises(UserError, match="its encoder spikes"):
        counted("--twin_exp", str(exp))
    (tmp_path / "other").mkdir()
    more = conf | {"neuron": "relu", "linear_units": 32}
    other, _ = spiking_experiment(tmp_path / "other", encoder_conf=more)
    with pytest.raises(UserError, match=r"no twin of this encoder: .* is \(32"):
        counted("--twin_exp", str(other))
    with pytest.raises(UserError, match="the encoder is its own twin"):
        words = ["--asr_exp", str(tiny_model.tiny_experiment()), "--out", str(tmp_path / "o")]
        count.main([*words, "--twin_exp", str(twin), f"test={data}"])


def test_a_spiking_encoder_has_another_twin(tmp_path):
    exp, data = spiking_experiment(tmp_path)
    found = {}
    for mode in ("integer", "binary"):
        words = ["--asr_exp", str(exp), "--out", str(tmp_path / mode), "--spike_mode", mode]
        count.main([*words, "--fold_qk", "true", f"test={data}"])
        found[mode] = json.loads((tmp_path / mode / "test" / "count.json").read_text())
    integer, binary = found["integer"], found["binary"]
    assert integer["decoder_input"] == "best path of CTC"
    assert integer["energy"]["horowitz45_fp32"]["twin"] == "dense encoder"
    layers = [row for row in integer["layers"] if row["part"] in ENCODER]
    neurons = [row for row in layers if row["kind"] == "neuron"]
    spikes, slots = (sum(row[name] for row in neurons) for name in ("spikes", "slots"))
    assert integer["sparsity"]["firing_rate"] == pytest.approx(spikes / slots, abs=1e-6)
    added = sum(row["acs"] for row in layers if row["kind"] in PRODUCTS)
    assert integer["per_second"]["synops"] == pytest.approx(added / integer["audio_seconds"])
    assert 0.02 < spikes / slots < 0.9 and added > 0
    # the twin does not depend on how the spiking network is run
    for column in ("compute", "total"):
        twins = [
            f["energy"]["horowitz45_fp32"][column]["twin_joules_per_second"]
            for f in (integer, binary)
        ]
        assert twins[0] == twins[1]

    # fewer levels are fewer virtual time steps, whatever the model was trained with
    words = ["--asr_exp", str(exp), "--out", str(tmp_path / "T2"), "--T", "2"]
    count.main([*words, f"test={data}"])
    rates = [
        json.loads((tmp_path / name / "test" / "neurobench.json").read_text())
        for name in ("integer", "binary", "T2")
    ]
    six, same, two = (rate["model_execution_rate"] for rate in rates)
    assert six == same == pytest.approx(3 * two, abs=0.02)


def test_every_form_is_counted_beside_the_same_baselines(tmp_path, capsys):
    exp, data = spiking_experiment(tmp_path)
    words = ["--asr_exp", str(exp), "--out", str(tmp_path / "o"), f"test={data}"]
    count.main([*words, "--forms", "true", "--energy_model", "horowitz45_fp32"])
    found = json.loads((tmp_path / "o" / "test" / "count.json").read_text())
    forms = {(form["spike_mode"], form["fold_qk"]): form for form in found["forms"]}
    assert list(forms) == [(m, f) for f in (False, True) for m in ("integer", "binary")]
    counted_first = found["energy"]["horowitz45_fp32"]
    for key, form in forms.items():
        energy = form["energy"]["horowitz45_fp32"]
        for column in ("compute", "total"):
            ours, first = energy[column], counted_first[column]
            assert ours["against"]["twin"]["joules_per_second"] == first["twin_joules_per_second"]
            if key == ("integer", False):
                assert ours["joules_per_second"] == first["joules_per_second"]
    same = forms["integer", True], forms["binary", True]
    assert same[0]["per_second"]["synops"] == same[1]["per_second"]["synops"]
    # merged, no product of real values is left but the first convolution
    macs = [forms["binary", fold]["per_second"]["macs"] for fold in (False, True)]
    assert macs[0] > macs[1] > 0
    assert "as 0/1 spikes in slots, W_Q and W_K apart:" in capsys.readouterr().out
    # the first row of the table of assumptions says what was printed, for the forms as well
    words = ["--assumptions", str(tmp_path / "o" / "test"), "--output_dir", str(tmp_path / "a")]
    count.main([*words, "--energy_model", "horowitz45_fp32"])
    (assumed,) = json.loads((tmp_path / "a" / "assumptions.json").read_text())
    as_it_is = [r for r in assumed["forms"] if r["assumption"].endswith("as the cost model has it")]
    pairs = [(assumed["rows"][0], counted_first), *zip(as_it_is, found["forms"], strict=True)]
    for row, counted in pairs:
        energy = counted.get("energy", {}).get("horowitz45_fp32", counted)
        for column in ("compute", "total"):
            told = energy[column]
            assert row[column]["joules_per_second"] == pytest.approx(told["joules_per_second"])
            assert row[column]["twin"] == pytest.approx(told["against"]["twin"]["ratio"])
    figures = set_counts(found)
    assert all("layers" not in form for form in figures["forms"])
    made = {"experiment": "asr_s", "parameters": 1, "decodes": {"decode": {"test": figures}}}
    title, head, rows = energy_tables([made])[3]
    assert "each form" in title and len(rows) == 4 * 3
    assert all(len(row) == len(head) for row in rows)

    dense = ["--asr_exp", str(tiny_model.tiny_experiment()), "--out", str(tmp_path / "o")]
    with pytest.raises(UserError, match="does not spike"):
        count.main([*dense, "--forms", "true", f"test={data}"])


@pytest.mark.parametrize("option", [{"fat_points": "e"}, {"spiking": True}], ids=str)
def test_sparsity_of_encoder_and_decoder_are_apart(tmp_path, option):
    conf = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "d_state": 3}
    change = {"encoder": "event_speech_mamba", "encoder_conf": conf, "decoder": "speech_mamba"}
    change["decoder_conf"] = {"attention_heads": 2, "num_blocks": 1, "d_state": 3} | option
    exp, data = spiking_experiment(tmp_path, **change)
    count.main(["--asr_exp", str(exp), "--out", str(tmp_path / "out"), f"test={data}"])
    found = json.loads((tmp_path / "out" / "test" / "count.json").read_text())
    assert not found["uncovered"] and not found["spikes_made_real"]
    layers = [row for row in found["layers"] if row["kind"] in ("activation", "neuron")]
    for part, sparsity in (
        ("encoder", found["sparsity"]),
        ("decoder", found["decoder"]["sparsity"]),
    ):
        shares = [row["sparsity"] for row in layers if row["layer"].startswith(f"{part}.")]
        if part == "encoder" or "fat_points" in option:
            assert sparsity["points"] == pytest.approx(sum(shares) / len(shares), abs=1e-5)
            assert sparsity["firing_rate"] is None
        else:
            assert sparsity["points"] is None and 0 < sparsity["firing_rate"] < 1
    synops = found["decoder"]["per_token"]["synops"]
    assert (synops > 0) == ("spiking" in option) and found["per_second"]["synops"] == 0


def test_an_utterance_without_hypothesis_is_named(tmp_path):
    exp, data = spiking_experiment(tmp_path)
    lost, *others = sorted(tiny_model.make_texts(3, seed=4))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "token_int").write_text("".join(f"{utt} 3\n" for utt in others))
    with pytest.raises(UserError, match=f"token_int has nothing recognised of {lost}\n"):
        count.main(["--asr_exp", str(exp), "--out", str(tmp_path), f"test={data}"])
    assert not (tmp_path / "test" / "count.json").exists()


def test_features_of_another_definition_are_refused(tmp_path):
    exp, data = spiking_experiment(tmp_path)
    FeatureExtractor(16000, FbankConfig()).write(exp)
    FeatureExtractor(16000, FbankConfig(low_freq=64.0)).write(data)
    with pytest.raises(UserError, match=r"fbank.low_freq is 64.0, not 20.0"):
        count.main(["--asr_exp", str(exp), "--out", str(tmp_path), f"test={data}"])


def test_the_features_of_a_pack_are_in_it(tmp_path):
    from espnet_spike.export.spike_proof import prove_spikes
    from espnet_spike.simulator.simulate import record_experiment

    pack, data = Path("fsdd-digits"), tmp_path / "dump"
    data.mkdir()
    FeatureExtractor(16000, FbankConfig(low_freq=64.0)).write(data)
    for use in (
        lambda: count_sets(pack, {"test": data}, tmp_path, []),
        lambda: prove_spikes(pack, None, {"test": data}),
        lambda: record_experiment(pack, data, 1),
        lambda: sweep.main(
            ["--asr_exp", str(pack), "--T", "2", "--out", str(tmp_path), f"test={data}"]
        ),
    ):
        with pytest.raises(UserError, match="of another definition"):
            use()


def test_parts():
    assert part_of("encoder.embed.convs.0") == "front_end"
    assert part_of("encoder.embedding_like") == "encoder"
    assert [part_of(n) for n in ("normalize", "ctc.ctc_lo", "decoder.x", "joint_network")] == [
        *("front_end", "ctc", "decoder", "other"),
    ]


def test_an_utterance_of_a_decoded_set_is_recorded_for_the_page(tmp_path):
    exp, data = pages.decoded(tmp_path)
    set_dir = exp / "decode" / "test"
    prices = tmp_path / "my prices" / "mine.yaml"  # taken whole, spaces too
    prices.parent.mkdir()
    prices.write_bytes((shipped("energy") / "horowitz45_fp32.yaml").read_bytes())
    words = [
        "--asr_exp",
        str(exp),
        "--energy_model",
        str(prices),
        "--out",
        str(exp / "decode"),
    ]
    count.main([*words, f"test={data}"])
    assert not (set_dir / RECORDING).exists()  # nothing says how the set was decoded
    decode = {"checkpoint": MODEL, "options": {"T": 3}}
    (set_dir / "decode.json").write_text(json.dumps(decode))
    count.main([*words, f"test={data}"])
    feats = FeatureDir.read(data)
    chosen = choose_utterance(feats.durations)
    kept = DecodedUtterance(exp / MODEL, set_dir, {"T": 3}, feats, chosen).kept()
    assert kept is not None and {layer.levels for layer in kept.layers} == {3}


def test_a_decoded_model_file_in_a_folder_of_the_experiment_is_the_one_counted(tmp_path):
    exp, data = pages.decoded(tmp_path)
    (exp / "conversion").mkdir()
    (exp / MODEL).rename(exp / "conversion" / "init.pth")
    decode = {"checkpoint": "conversion/init.pth", "options": {}}
    (exp / "decode" / "test" / "decode.json").write_text(json.dumps(decode))
    words = ["--asr_exp", str(exp), "--energy_model", MODELS, "--forms", "true"]
    count.main([*words, "--out", str(exp / "decode"), f"test={data}"])
    found = json.loads((exp / "decode" / "test" / "count.json").read_text())
    assert found["checkpoint"] == "conversion/init.pth" and found["forms"]
