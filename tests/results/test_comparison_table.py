"""Experiments side by side: errors and what they cost."""

import csv
import json
import shutil

import pytest

from espnet_spike.bin import compare
from espnet_spike.errors import UserError
from espnet_spike.results import experiments as experiments_module
from espnet_spike.results.comparison_table import (
    HEAD,
    learning_curves,
    read_breakdowns,
    read_rows,
    to_csv,
    to_html,
    to_markdown,
)
from tests.helpers.experiments import make_experiment

COUNTED = {
    "sparsity": {"firing_rate": 0.1, "activations": 0.75},
    "per_second": {"synops": 2.5e6},
    "energy": {
        "horowitz45_fp32": {
            "source": "Horowitz 2014",
            "technology": "45 nm",
            "compute": {
                **{"joules_per_second": 2e-6, "ratio": 5.0},
                "against": {"trained_twin": {"ratio": 2.5}, "twin": {}, "quantised": None},
            },
            "total": {"joules_per_second": 4e-6, "ratio": 2.0, "against": {}},
        }
    },
}


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    """A good experiment that has been counted, and a bad one that has not."""
    monkeypatch.chdir(tmp_path)
    good = make_experiment(tmp_path, "good", {"u00": "one two"}, encoder="iml_spikeformer")
    bad = make_experiment(tmp_path, "b&d", {f"u{i:02d}": "" for i in range(20)})
    for experiment in experiments_module.find_experiments(tmp_path / "exp"):
        experiments_module.write_results(experiment)
    found = json.loads((good / "results.json").read_text())
    found["decodes"]["decode"]["test"] |= COUNTED
    (good / "results.json").write_text(json.dumps(found))
    return [good, bad]


def test_rows_hold_errors_and_costs(experiments):
    good, bad = read_rows(experiments)
    assert (good.experiment, good.set, good.p_better) == ("asr_good", "test", None)
    assert bad.p_better < 0.01
    values = good.values("horowitz45_fp32")
    assert values["wer"] == pytest.approx(100 / 90, abs=1e-3)
    assert (values["sparsity"], values["twin_over_compute"]) == (0.75, 5.0)
    assert bad.values("horowitz45_fp32")["sparsity"] is None


def test_the_first_is_what_the_others_are_compared_with(experiments):
    assert read_rows(experiments[::-1])[1].p_better > 0.99


def test_markdown_says_what_was_not_measured(experiments):
    text = to_markdown(read_rows(experiments), "horowitz45_fp32")
    good, bad = (line for line in text.splitlines() if line.startswith("|asr_"))
    assert good.count("|") == bad.count("|") == len(HEAD) + 1
    assert "|75.0|2.5 M|0.002|2.50|5.00|–|0.004|–|2.00|" in good and "|–|–|–|–|–|–|" in bad
    assert "Horowitz 2014, 45 nm" in text and "Text normalization: none." in text
    assert "No experiment has been counted under x" in to_markdown(read_rows(experiments), "x")


def test_csv_holds_unrounded_figures(experiments):
    good, bad = csv.DictReader(to_csv(read_rows(experiments), "horowitz45_fp32").splitlines())
    assert float(good["compute_joules_per_second"]) == 2e-6 and bad["sparsity"] == ""
    assert int(good["parameters"]) == 12345
    assert (good["trained_twin_over_compute"], good["trained_twin_over_total"]) == ("2.5", "")


def test_page_is_escaped_and_whole(experiments):
    page = to_html(read_rows(experiments), "horowitz45_fp32")
    assert "b&amp;d" in page and "b&d" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_command_writes_every_form(experiments, tmp_path, capsys):
    paths = {kind: tmp_path / f"t.{kind}" for kind in ("csv", "html", "markdown")}
    options = [word for kind, path in paths.items() for word in (f"--{kind}", str(path))]
    compare.main([*map(str, experiments), *options])
    assert capsys.readouterr().out.rstrip() == paths["markdown"].read_text().rstrip()
    assert all(path.stat().st_size > 100 for path in paths.values())


def test_what_cannot_be_compared_is_said(experiments, tmp_path):
    with pytest.raises(UserError, match="no decoding 'x'"):
        read_rows(experiments, "x")
    (tmp_path / "exp" / "asr_none").mkdir()
    with pytest.raises(UserError, match=r"has no results\.json"):
        read_rows([*experiments, tmp_path / "exp" / "asr_none"])
    (tmp_path / "exp" / "asr_none" / "results.json").write_text('{"simulate": {}}')
    with pytest.raises(UserError, match=r"asr_none/results\.json has no error rates"):
        read_rows([*experiments, tmp_path / "exp" / "asr_none"])


def test_page_has_learning_curves_on_one_axis_and_says_where_the_errors_are(experiments):
    for experiment, losses in zip(experiments, ([3.0, 2.0, 1.0], [4.0, None]), strict=True):
        lines = [
            json.dumps({"epoch": number, "seconds": 1.0, "valid": {"loss": loss}})
            for number, loss in enumerate(losses, 1)
        ]
        (experiment / "epochs.jsonl").write_text("\n".join(lines) + "\n")
    rows = read_rows(experiments)
    (svg,) = learning_curves(rows)
    assert "learning curve: loss" in svg and "asr_good" in svg and "asr_b&amp;d" in svg
    page = to_html(rows, "x")
    assert svg in page and "<h3>test: WER by words of an utterance, %</h3>" in page
    assert "WER by speaker" in page and "training text" not in page  # there is none


def test_experiments_of_one_name_are_told_apart(experiments, tmp_path):
    good, _ = experiments
    other = tmp_path / "other" / good.name
    other.parent.mkdir()
    shutil.copytree(good, other)
    one, *_ = read_breakdowns(read_rows([good, other]))
    assert one.head[2:] == [str(good), str(other)]


def test_command_prints_where_the_errors_are_on_demand(experiments, capsys, tmp_path):
    paths = [*map(str, experiments)]
    compare.main(paths)
    assert "WER by" not in capsys.readouterr().out
    compare.main([*paths, "--breakdown", "--markdown", str(tmp_path / "x.md")])
    printed = capsys.readouterr().out
    assert "### test: WER by speaker, %" in printed
    assert "|3-4|90|" in printed and (tmp_path / "x.md").read_text().strip() == printed.strip()


def test_energy_by_earlier_rules_stands_in_no_column(experiments):
    good, _ = experiments
    found = json.loads((good / "results.json").read_text())
    for column in ("compute", "total"):
        del found["decodes"]["decode"]["test"]["energy"]["horowitz45_fp32"][column]["against"]
    (good / "results.json").write_text(json.dumps(found))
    rows = read_rows(experiments)
    cells = rows[0].cells("horowitz45_fp32")
    assert cells.count("count again") == 2 + 3 + 2  # all energy, and no figure of it
    assert rows[1].cells("horowitz45_fp32").count("count again") == 0
    values = rows[0].values("horowitz45_fp32")
    assert [k for k, v in values.items() if "joules" in k or "_over_" in k if v is not None] == []
    assert "--stage count" in to_markdown(rows, "horowitz45_fp32")
