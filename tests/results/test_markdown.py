import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from espnet_spike.bin import report
from espnet_spike.errors import UserError
from espnet_spike.results.markdown import BEGIN, END, search_line
from tests.helpers.experiments import make_experiment


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wrong(*utterances):
    return {f"u{number:02d}": "one two" for number in utterances}


def make_report(*more):
    report.main(["--expdir", "exp", "--corpus", "fsdd", "--out", "exp/RESULTS.md", *more])
    with open("exp/RESULTS.md") as file:
        return file.read()


def rows_of(text, heading):
    """Return the table under a heading as dicts."""
    part = text.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_what_comes_from_data_stays_text(recipe):
    exp = make_experiment(recipe, "tf", wrong(0))
    path = exp / "decode/test/decode.json"
    decode = json.loads(path.read_text())
    decode["config"] = f"x`<script>\n# Title\n{END}\n[a](b)|"
    decode["environment"] = {"torch": "1|2\n<img src=x>"}
    path.write_text(json.dumps(decode))
    (exp / "decode").rename(exp / "d|e<b>")
    text = make_report()
    assert "<script" not in text and "<b>" not in text and "](b)" not in text
    assert "\n# Title" not in text and f"\n{END}" not in text
    row = next(line for line in text.splitlines() if line.startswith("|asr_tf|"))
    assert len(re.split(r"(?<!\\)\|", row)) == 13 and r"|d\|e&lt;b>|" in row


def test_a_set_that_lost_utterances_says_so(recipe):
    (recipe / "dump/test").mkdir(parents=True)
    (recipe / "dump/test/dropped.txt").write_text("x not in text\ny no audio\n")
    make_experiment(recipe, "tf", wrong(0, 1, 2))
    (row,) = rows_of(make_report(), "## Summary")
    assert row["utterances"] == "30 of 32"


def test_search_options_that_do_nothing_are_left_out():
    options = {"beam_size": 1, "maxlenratio": 0.0, "lm_weight": 1.0, "ctc_weight": 0.5}
    decode = {"options": options, "lm_exp": None}
    assert search_line(decode) == "beam_size 1, ctc_weight 0.5"
    bounded = decode | {"options": options | {"maxlenratio": 0.3}}  # of a model that learnt nothing
    assert search_line(bounded) == "beam_size 1, maxlenratio 0.3, ctc_weight 0.5"
    assert search_line(decode | {"lm_exp": "exp/lm"}).endswith("ctc_weight 0.5, lm_weight 1.0")


def test_summary_and_espnet_tables(recipe, capsys):
    make_experiment(recipe, "tf", wrong(0, 1, 2))
    text = make_report()
    (row,) = rows_of(text, "## Summary")
    assert row["experiment"] == "asr_tf"
    assert row["parameters"] == "12 345"
    assert row["WER"] == "3.33"
    assert row["utterances"] == "30"
    assert row["RTF"] == "0.0500"
    assert re.fullmatch(r"\d\.\d\d \.\. \d\.\d\d", row["95 % interval"])
    assert "|decode/test|30|90|96.67|0.00|3.33|0.00|3.33|10.00|" in text
    assert "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|" in text
    assert "Text normalization: none" in text
    assert "espnet: `" in text and "torch: `" in text and "git: `" in text
    assert "beam_size 5" in text and "lm_weight" not in text  # without a language model
    assert re.fullmatch(r"\d\.\d\d \(\d\.\d\d \.\. \d\.\d\d\)", row["CER"])
    assert "seed 0, 3 of 5 epochs in 0.5 min" in text
    assert "## Several seeds" not in text and "## Differences" not in text
    assert "asr_tf" in capsys.readouterr().out
    assert (recipe / "exp" / "asr_tf" / "results.json").is_file()


def test_no_path_of_this_machine(recipe):
    exp = make_experiment(recipe, "tf", {})
    (exp / "commands.txt").write_text(
        f"./run.sh --corpus_dir /home/me/fsdd --asr_config {recipe}/conf/t.yaml"
        " --lm /opt/x/lm.pth\n"
    )
    text = make_report("--corpus_dir", "/home/me/fsdd")
    assert "--corpus_dir <corpus_dir> --asr_config conf/t.yaml --lm <path>/lm.pth" in text
    for part in (str(recipe), "/home", "/opt"):
        assert part not in text


def test_commands_stand_in_a_block_that_ends(recipe):
    exp = make_experiment(recipe, "tf", {})
    (exp / "commands.txt").write_text("./run.sh --recipe fsdd\n")
    fences = [line for line in make_report().splitlines() if line[:1] in ("`", "'")]
    assert fences == ["```sh", "```"]


def test_seeds_are_pooled(recipe):
    for seed, utterances in enumerate([(0, 1), (0,), (0, 5, 6)]):
        name = f"iml_seed{seed}" if seed else "iml"
        make_experiment(recipe, name, wrong(*utterances), encoder="iml_spikeformer", seed=seed)
    text = make_report()
    (row,) = rows_of(text, "## Several seeds")
    assert (row["experiments"], row["seeds"]) == ("asr_iml", "3")
    assert row["mean WER"] == "2.22"
    assert row["each seed"] == "2.22, 1.11, 3.33"
    assert row["std"] == "1.11"
    low, high = map(float, row["95 % interval"].split(" .. "))
    assert low < 2.22 < high


def test_two_groups_are_compared(recipe):
    for seed in (0, 1):
        suffix = f"_seed{seed}" if seed else ""
        make_experiment(recipe, f"tf{suffix}", wrong(*range(10)), seed=seed)
        make_experiment(recipe, f"iml{suffix}", wrong(0), encoder="iml_spikeformer", seed=seed)
    (row,) = rows_of(make_report(), "## Differences")
    assert (row["experiments"], row["compared with"]) == ("asr_iml", "asr_tf")
    assert row["difference"] == "-10.00"
    assert (row["WER"], row["WER compared with"]) == ("1.11", "11.11")
    # two seeds of each, alike among themselves
    assert row["over"] == "utterance, two trainings"
    assert float(row["95 % interval"].split(" .. ")[1]) < 0
    assert row["Welch, seeds alone"] == "-10.00 .. -10.00"
    assert row["P(better)"] == "–"


def test_seeds_that_differ_are_in_interval_and_probability(recipe):
    """WER of 1.11, 2.22, 12.22 and of 11.11 %, three seeds each: the means differ by chance, too.

    Welch by hand: difference -5.926, variance 37.449 / 3, freedom 2, t 4.3027.
    """
    for seed, utterances in enumerate([range(1), range(2), range(11)]):
        make_experiment(recipe, f"tf_seed{seed}", wrong(*range(10)), seed=seed)
        make_experiment(recipe, f"iml_seed{seed}", wrong(*utterances), encoder="lstm", seed=seed)
    rows = rows_of(make_report("--baseline", "tf"), "## Differences")
    (row,) = rows
    assert (row["runs"], row["over"]) == ("3 / 3", "utterance, 3 trainings")
    assert row["Welch, seeds alone"] == "-21.13 .. +9.28"
    low, high = map(float, row["95 % interval"].split(" .. "))
    assert low < -15 and high > 3
    assert 0.85 < float(row["P(better)"]) < 0.95
    (_, pooled) = rows_of(make_report("--baseline", "tf"), "## Several seeds")
    assert pooled["seeds alone"] == "11.11 .. 11.11"


def count_of(ours, twin):
    """What a count.json holds as far as the report reads it; energies of u00, u01, ..."""
    sums = {
        column: {
            "ratio": 1.0,
            "ratio_ci": [1, 1],
            "ratio_ci_meaningful": True,
            "joules_per_second": 1.0,
            "twin_joules_per_second": 1.0,
            "against": dict.fromkeys(("trained_twin", "twin", "quantised"))
            | {
                "twin": {
                    "ratio": 1.0,
                    "ratio_ci": [1, 1],
                    "ratio_ci_meaningful": True,
                    "joules_per_second": 1.0,
                }
            },
        }
        for column in ("compute", "total")
    }
    model = {"source": "s", "technology": "t", "precision": "p", "warnings": []}
    return {
        "sparsity": dict.fromkeys(("firing_rate", "activations", "points", "points_by_macs"), 0.5),
        "per_second": dict.fromkeys(("synops", "macs", "dense_macs"), 1.0),
        "energy": {"m": {"model": model, "twin": "dense encoder", **sums}},
        "uncovered": {}, "execution": {}, "fold_qk": False,
        "utts": {
            f"u{i:02d}": {"energy": {"m": {
                "encoder_with_front_end": {"compute": o, "total": 2 * o},
                "twin": {"compute": t, "total": t}}}}
            for i, (o, t) in enumerate(zip(ours, twin, strict=True))
        },
    }  # fmt: skip


def test_the_interval_of_energy_has_the_seeds_in_it(recipe):
    """Twins need 4, 5 and 6 times ours in every utterance: nothing but the seeds differs.

    Student's interval on 5: 4.3027 / sqrt(3) to either side; of two, 12.706 / sqrt(2) * 0.7071.
    """
    for seed in range(3):
        exp = make_experiment(recipe, f"iml_seed{seed}", {}, encoder="iml_spikeformer", seed=seed)
        count = count_of([1.0] * 30, [4.0 + seed] * 30)
        (exp / "decode/test/count.json").write_text(json.dumps(count))
    absent, row = rows_of(make_report(), "### Energy over several seeds")
    assert absent["compared with"] == "trained twin, zeros skipped"
    assert absent["ratio, compute"] == "none given"
    assert row["compared with"] == "dense twin, nothing skipped"
    assert (row["seeds"], row["over"], row["cost model"]) == ("3", "utterance, 3 trainings", "m")
    assert (row["ratio, compute"], row["ratio, with memory"]) == ("5.00", "2.50")
    assert row["each seed, compute"] == "4.00, 5.00, 6.00"
    low, high = map(float, row["95 %, compute"].split(" .. "))
    assert (low, high) == pytest.approx((5 - 2.484, 5 + 2.484), abs=0.06)
    low, high = map(float, row["95 %, with memory"].split(" .. "))
    assert (low, high) == pytest.approx((2.5 - 1.242, 2.5 + 1.242), abs=0.03)
    (recipe / "exp/asr_iml_seed2/decode/test/count.json").unlink()
    _, row = rows_of(make_report(), "### Energy over several seeds")
    assert (row["seeds"], row["over"]) == ("2", "utterance, two trainings")
    low, high = map(float, row["95 %, compute"].split(" .. "))
    assert high == pytest.approx(4.5 + 6.353, abs=0.1) and low == 0.0


def test_energy_of_several_seeds_has_every_baseline(recipe):
    complete = {}
    for seed in range(3):
        exp = make_experiment(recipe, f"iml_seed{seed}", {}, encoder="iml_spikeformer", seed=seed)
        count = count_of([1.0] * 30, [4.0] * 30)
        for utt in count["utts"].values():
            utt["energy"]["m"]["trained_twin"] = {"compute": 2.0, "total": 3.0}
            utt["energy"]["m"]["quantised"] = {"compute": 1.5, "total": 2.5}
        twin = {"asr_exp": "exp/asr_t", "checkpoint": "t.pth"}
        count["trained_twin"] = twin if seed == 2 else None
        path = exp / "decode/test/count.json"
        path.write_text(json.dumps(count))
        for name in ("trained_twin", "quantised"):
            against = count["energy"]["m"]["compute"]["against"]
            against[name] = against["twin"]
        complete[path] = json.dumps(count)
    # a network without spikes has no integers of T + 1 levels, whatever utterances note
    _, row = rows_of(make_report(), "### Energy over several seeds")
    assert row["compared with"] == "dense twin, nothing skipped"
    for path, text in complete.items():
        path.write_text(text)
    fair, dense, integers = rows_of(make_report(), "### Energy over several seeds")
    assert "- trained twin of `asr_iml_seed0`, `asr_iml_seed1`: none given" in make_report()
    assert "- trained twin of `asr_iml_seed2`: exp/asr_t, t.pth\n" in make_report()
    found = [row["ratio, compute"] for row in (fair, dense, integers)]
    assert found == ["2.00", "4.00", "1.50"]
    assert fair["ratio, with memory"] == "1.50"
    # of a dense network there is no ratio to itself
    for seed in range(3):
        path = recipe / f"exp/asr_iml_seed{seed}/decode/test/count.json"
        count = json.loads(path.read_text())
        count["energy"]["m"]["twin"] = "itself, nothing skipped"
        path.write_text(json.dumps(count))
    assert "### Energy over several seeds" not in make_report()


def test_energy_by_earlier_rules_is_not_pooled(recipe):
    for seed in range(2):
        exp = make_experiment(recipe, f"iml_seed{seed}", {}, encoder="iml_spikeformer", seed=seed)
        count = count_of([1.0] * 30, [4.0] * 30)
        if seed:
            for column in ("compute", "total"):
                del count["energy"]["m"][column]["against"]
        (exp / "decode/test/count.json").write_text(json.dumps(count))
    report = make_report()
    assert "Energy not pooled: asr_iml, test: earlier rules, count again" in report
    assert "count again: counted by earlier rules" in report


def test_energy_of_other_utterances_is_not_pooled(recipe):
    for seed in range(2):
        exp = make_experiment(recipe, f"iml_seed{seed}", {}, encoder="iml_spikeformer", seed=seed)
        count = count_of([1.0] * (30 - seed), [4.0] * (30 - seed))
        (exp / "decode" / "test" / "count.json").write_text(json.dumps(count))
    assert "Energy not pooled: asr_iml, test: other utterances counted" in make_report()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda count: count["energy"]["m"]["model"].update(accumulate=0.5),
            "other prices of m in asr_iml_seed0 and asr_iml_seed1: accumulate None and 0.5",
        ),
        (
            lambda count: count.update(execution={"T": 2}),
            "other options at run time in asr_iml_seed0 and asr_iml_seed1: T None and 2",
        ),
        (lambda count: count.update(fold_qk=True), "W_Q and W_K merged False and True"),
        (lambda count: None, ""),
    ],
)
def test_energy_of_other_prices_or_options_is_not_pooled(recipe, change, said):
    for seed in range(2):
        exp = make_experiment(recipe, f"iml_seed{seed}", {}, encoder="iml_spikeformer", seed=seed)
        path = exp / "decode/test/decode.json"
        count = count_of([1.0] * 30, [4.0] * 30)
        if seed:
            change(count)
        options = {"options": count["execution"]}
        path.write_text(json.dumps(json.loads(path.read_text()) | options))
        (path.parent / "count.json").write_text(json.dumps(count))
    report = make_report()
    assert said in report
    assert ("Energy not pooled: asr_iml, decode, test: " in report) == bool(said)
    assert ("|m|dense twin, nothing skipped|" in report) != bool(said)


def test_the_baseline_can_be_named(recipe):
    for name in ("a", "b", "c"):
        make_experiment(recipe, name, {})
    assert "## Differences" not in make_report()
    rows = rows_of(make_report("--baseline", "asr_b"), "## Differences")
    assert [row["experiments"] for row in rows] == ["asr_a", "asr_c"]
    with pytest.raises(UserError, match=r"no such experiment \(did you mean"):
        make_report("--baseline", "bb")


def test_what_cannot_be_pooled_is_said(recipe):
    make_experiment(recipe, "a", {})
    other = make_experiment(recipe, "a_seed1", {})
    path = other / "decode" / "test" / "score_wer" / "counts.tsv"
    path.write_text(path.read_text().replace("u07", "v07"))
    assert "Not pooled: " in make_report()


def test_several_decodings_of_one_experiment(recipe):
    make_experiment(recipe, "a", wrong(1), tag="decode")
    make_experiment(recipe, "a", {}, tag="decode_beam20")
    rows = rows_of(make_report(), "## Summary")
    assert [(row["decoding"], row["WER"]) for row in rows] == [
        ("decode", "1.11"),
        ("decode_beam20", "0.00"),
    ]


def test_checkpoints_are_told_apart(recipe):
    for tag, name, hyps in (("best", "valid.x.ave.pth", wrong(1)), ("early", "3epoch.pth", {})):
        exp = make_experiment(recipe, "a", hyps, tag=tag)
        path = exp / tag / "test" / "decode.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"checkpoint": name}))
    make_experiment(recipe, "b", {}, tag="best")
    rows = rows_of(make_report(), "## Summary")
    assert [(r["experiment"], r["checkpoint"], r["WER"]) for r in rows] == [
        ("asr_a", "valid.x.ave.pth", "1.11"),
        ("asr_a", "3epoch.pth", "0.00"),
        ("asr_b", "valid.x.ave.pth", "0.00"),
    ]
    sets = json.loads((exp / "results.json").read_text())["decodes"]
    assert sets["early"]["test"]["checkpoint"] == "3epoch.pth"
    shutil.rmtree(exp / "early")
    assert "checkpoint" not in rows_of(make_report(), "## Summary")[0]


def test_what_has_learnt_nothing_is_marked(recipe, capsys):
    exp = make_experiment(recipe, "a", {})
    verdict = {"learnt": False, "line": "NOT LEARNT: CER 99 %", "causes": [["few", "max_epoch"]]}
    (exp / "verdict.json").write_text(json.dumps(verdict))
    assert rows_of(make_report(), "## Summary")[0]["experiment"] == "asr_a, NOT LEARNT"
    assert "asr_a, NOT LEARNT" in capsys.readouterr().out
    (exp / "verdict.json").write_text(json.dumps(verdict | {"learnt": True}))
    assert rows_of(make_report(), "## Summary")[0]["experiment"] == "asr_a"


def test_an_interval_of_few_utterances_is_marked(recipe):
    exp = make_experiment(recipe, "a", {})
    path = exp / "decode" / "test" / "result.json"
    result = json.loads(path.read_text())
    result["wer"]["ci_meaningful"] = False
    path.write_text(json.dumps(result))
    (row,) = rows_of(make_report(), "## Summary")
    assert row["95 % interval"].endswith(" *") and row["CER"].endswith(") *")


def test_a_copy_keeps_what_people_wrote(recipe):
    make_experiment(recipe, "a", {})
    text = make_report("--copy_to", "RESULTS.md")
    copy = recipe / "RESULTS.md"
    assert copy.read_text() == f"{BEGIN}\n{text}{END}\n"
    copy.write_text(f"Our words.\n{BEGIN}\nold tables\n{END}\nMore words.\n")
    text = make_report("--copy_to", "RESULTS.md")
    assert copy.read_text() == f"Our words.\n{BEGIN}\n{text}{END}\nMore words.\n"
    copy.write_text("Our words, no marks.\n")
    with pytest.raises(UserError, match="was not written by this command"):
        make_report("--copy_to", "RESULTS.md")
    assert copy.read_text() == "Our words, no marks.\n"


def test_results_that_are_not_at_hand_are_not_overwritten(recipe):
    make_experiment(recipe, "a", {})
    copy = recipe / "RESULTS.md"
    before = f"{BEGIN}\n## Experiments\n\n### asr_of_last_year\n\n{END}\n"
    copy.write_text(before)
    with pytest.raises(UserError, match=r"1 experiment not at hand: asr_of_last_year"):
        make_report("--copy_to", "RESULTS.md")
    assert copy.read_text() == before


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_results_overwrites_nothing_that_is_not_at_hand(tmp_path):
    folder = tmp_path / "egs/x"
    folder.mkdir(parents=True)
    makefile = Path(__file__).parents[2] / "Makefile"

    def make_results():
        command = ["make", "-f", str(makefile), "results", "RECIPE=x"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    old = "### asr_a\nWER 1\n### asr_b\nWER 2\n"
    (folder / "RESULTS.md").write_text(old)
    assert make_results().returncode != 0  # nothing has been run
    (folder / "exp/more").mkdir(parents=True)
    (folder / "exp/RESULTS.md").write_text("### asr_a\nWER 3\n")
    done = make_results()
    assert done.returncode != 0 and "### asr_b" in done.stderr and "### asr_a" not in done.stderr
    assert (folder / "RESULTS.md").read_text() == old
    (folder / "exp/more/RESULTS.md").write_text("### asr_b\nWER 4\n")
    assert make_results().returncode == 0
    assert (folder / "RESULTS.md").read_text() == "### asr_a\nWER 3\n### asr_b\nWER 4\n"
    assert not (folder / "exp/.results.md").exists()


def test_reports_without_decode_records(recipe):
    """Hypotheses of another system can be scored and reported too."""
    exp = make_experiment(recipe, "a", {})
    (exp / "decode" / "test" / "decode.json").unlink()
    text = make_report()
    (row,) = rows_of(text, "## Summary")
    assert (row["RTF"], row["parameters"]) == ("–", "–")
    assert "- not recorded" in text
    assert "- decoding `decode/test`: search options not recorded (no decode.json)" in text
