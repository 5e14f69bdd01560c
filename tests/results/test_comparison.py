import json

import numpy as np
import pytest

from espnet_spike.bin import compare_decodes
from espnet_spike.errors import UserError
from espnet_spike.results import comparison, scoring
from tests.helpers.scored import run_score, write


def test_compare_two_decodings(decoded, capsys, tmp_path):
    data, refs, put = decoded
    bad = put("decode_a", {utt: "one two" for utt in refs})
    good = put("decode_b", refs | {"u00": "one two"})
    for folder in (bad, good):
        run_score(data, folder)
    target = tmp_path / "comparison.json"
    compare_decodes.main([str(bad.parent), str(good.parent), "--json", str(target)])
    found = json.loads(target.read_text())["sets"]["test"]["difference"]
    assert found["difference"] == pytest.approx(-100 * 23 / 72)
    assert found["interval"]["high"] < 0
    assert found["p_second_better"] == 1.0
    assert found["p_joint"] is None and found["welch"] is None
    printed = capsys.readouterr().out
    assert "P(second better) > 0.999, of these two trainings" in printed
    lines = [line for line in printed.splitlines() if line.startswith("  ")]
    assert sum("(over 24 utterances, one training)" in line for line in lines) >= 3
    # folders of one set do as well
    compare_decodes.main([str(bad), str(good)])
    assert "P(second better) > 0.999" in capsys.readouterr().out


def test_compare_pools_runs(decoded, capsys):
    data, refs, put = decoded
    runs = {
        "a1": refs | {"u00": "one"},
        "a2": refs | {"u01": "one"},
        "b1": refs,
        "b2": refs | {"u00": "one", "u01": "one"},
    }
    folders = {tag: put(tag, hyps) for tag, hyps in runs.items()}
    for folder in folders.values():
        run_score(data, folder)
    group = [str(folders[tag].parent) for tag in ("a1", "a2")]
    other = [str(folders[tag].parent) for tag in ("b1", "b2")]
    capsys.readouterr()
    compare_decodes.main(["--group", *group, "--vs", *other])
    printed = capsys.readouterr().out
    # the same errors in the same utterances, however they are spread over the seeds
    assert "second - first +0.00" in printed
    assert "each run: 0.00, 5.56; std 3.93; over runs alone -32.52 .. 38.07" in printed
    assert "(over 24 utterances, two trainings)" in printed
    assert "over runs alone (Welch) -35.30 .. +35.30" in printed
    assert "P(second better) is not known: two trainings of a system" in printed


def test_three_runs_give_a_probability_with_the_runs_in_it(tmp_path):
    """Three runs of 0, 0 and 30 %, and three of 20 %, whatever the utterances: level, by luck.

    The difference is 10, the deviation of its mean 17.32 / sqrt(3) = 10: P(t < -1) of 2 degrees.
    """
    groups = {"a": [0, 0, 3], "b": [2, 2, 2]}
    folders = {
        name: [counted(tmp_path / f"{name}{i}" / "test", [n] * 30) for i, n in enumerate(ns)]
        for name, ns in groups.items()
    }
    a, b = (comparison.Pooled(tuple(runs)) for runs in folders.values())
    lines = comparison.Comparison(a, b, comparison.compare(a, b))
    found = lines.figures()
    # p_second_better and interval keep their meaning: of these runs, over utterances alone
    assert found["difference"]["p_second_better"] == 0.0
    assert found["difference"]["interval"]["low"] == pytest.approx(10)
    assert found["difference"]["joint"]["low"] == pytest.approx(10 - 43.03, abs=1)
    assert found["difference"]["p_joint"] == pytest.approx(0.2113, abs=0.005)
    assert found["first"]["std"] == pytest.approx(17.3205, abs=1e-3)
    assert found["first"]["interval"]["trainings"] == 3
    printed = "\n".join(lines.lines())
    assert "3 trainings" in printed and "utterances and runs drawn" in printed


def test_compare_refuses_other_utterances_and_references(decoded):
    data, refs, put = decoded
    first = put("a", refs)
    run_score(data, first)
    write(data / "text", {**refs, "u00": "one two three four"})
    second = put("b", refs)
    run_score(data, second)
    with pytest.raises(UserError, match="other references: u00"):
        compare_decodes.main([str(first.parent), str(second.parent)])
    write(data / "text", {k: v for k, v in refs.items() if k != "u00"})
    write(second / "text", {k: v for k, v in refs.items() if k != "u00"})
    run_score(data, second)
    with pytest.raises(UserError, match="not of the same utterances: u00"):
        compare_decodes.main([str(first.parent), str(second.parent)])


def test_compare_refuses_rates_under_another_normalization(decoded):
    data, refs, put = decoded
    first, second = put("a", refs), put("b", {utt: text.upper() for utt, text in refs.items()})
    run_score(data, first)
    run_score(data, second, "--normalization", "lower")
    message = "a/test is scored under text normalization none, .*b/test under lower"
    with pytest.raises(UserError, match=message):
        compare_decodes.main([str(first.parent), str(second.parent)])
    with pytest.raises(UserError, match=message):
        compare_decodes.main(["--group", str(first), str(second), "--vs", str(first)])


def test_compare_wants_scored_folders(decoded):
    _, refs, put = decoded
    folder = put("a", refs)
    with pytest.raises(UserError, match="no scored set in common"):
        compare_decodes.main([str(folder.parent), str(folder.parent)])
    with pytest.raises(UserError, match="1 folder,"):
        compare_decodes.main([str(folder)])
    with pytest.raises(UserError, match="no such folder"):
        compare_decodes.main([str(folder), "/nowhere"])


def counted(path, errors, normalization="none"):
    """Write nothing but what a comparison reads of a scored set."""
    path.mkdir(parents=True)
    (path / "result.json").write_text(json.dumps({"normalization": normalization}))
    table = np.array([[10 - e, e, 0, 0] for e in errors])
    keys = [f"u{i}" for i in range(len(errors))]
    return scoring.Counts(path, keys, ["s"] * len(errors), table)


def test_pooled_runs_sum_errors_utterance_by_utterance(tmp_path):
    runs = tuple(counted(tmp_path / str(i), e) for i, e in enumerate(([1, 0, 5], [3, 0, 1])))
    pooled = comparison.Pooled(runs)
    errors, lengths = pooled.sums
    assert errors.tolist() == [4, 0, 6] and lengths.tolist() == [20, 20, 20]
    assert pooled.rate == pytest.approx(100 * 10 / 60, abs=1e-4)
    assert pooled.rates == pytest.approx([20.0, 100 * 4 / 30], abs=1e-4)
    other = comparison.Pooled((counted(tmp_path / "x", [0, 0, 0]),))
    difference = comparison.compare(pooled, other)
    assert difference.difference == pytest.approx(-pooled.rate, abs=1e-4)


def test_the_sets_that_all_folders_have_are_compared(tmp_path):
    for run, sets in (("a", "dev test"), ("b", "test x"), ("c", "test")):
        for name in sets.split():
            counted(tmp_path / run / name, [1])
    a, b, c = (tmp_path / run for run in "abc")
    assert comparison.common_sets([a, b], [c]) == {"test": [[a / "test", b / "test"], [c / "test"]]}
    one = [a / "test"], [b / "test"]
    assert comparison.common_sets(*one) == {"test": [[a / "test"], [b / "test"]]}
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match=r"a: dev, test; .*d: none"):
        comparison.common_sets([a], [tmp_path / "d"])
