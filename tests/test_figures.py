"""Figures of README.md and of the recipes' pages are rows of the tables that they point to."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from espnet_spike.results.scoring import read_counts

ROOT = Path(__file__).parents[1]
NUMBER = r"[-+]?\d+(?:\.\d+)?"
WITH_INTERVAL = re.compile(rf"({NUMBER})(?: %)?\*{{0,2}} \(({NUMBER})\s*\.\.\s*({NUMBER})[;)]")
TOLD = re.compile(rf"({NUMBER})[^()|]{{0,25}}\(({NUMBER})\s*\.\.\s*({NUMBER})")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("egs/*/README.md"))]
FSDD = ROOT / "egs/fsdd/RESULTS.md"
PLAIN = "# Results: fsdd"
PUBLISHED = "# Results: fsdd, SpeechMamba in the published layout"
AUGMENTED = "# Results: fsdd, with augmentation"
ENCODERS = {  # label in README.md: part of RESULTS.md, experiment without its seed
    "`iml_spikeformer`, T = 6": (PLAIN, "asr_iml_spikeformer_fbank_bpe_unigram30"),
    "ESPnet `transformer`": (PLAIN, "asr_transformer_fbank_bpe_unigram30"),
    "`iml_spikeformer_augmented`": (
        AUGMENTED,
        "asr_iml_spikeformer_augmented_fbank_bpe_unigram30",
    ),
    "the same, [from its twin](docs/from_twin.md)": (
        AUGMENTED,
        "asr_iml_spikeformer_from_twin_fbank_bpe_unigram30",
    ),
    "`speech_mamba`, dense": (PUBLISHED, "asr_speech_mamba_fbank_bpe_unigram30"),
    "`event_speech_mamba`": (PUBLISHED, "asr_event_speech_mamba_fbank_bpe_unigram30_sparsified"),
    "`spiking_speech_mamba`": (PUBLISHED, "asr_spiking_speech_mamba_fbank_bpe_unigram30"),
}
Row = dict[str, str]


def tables(lines: Iterable[str]) -> Iterator[list[Row]]:
    """Give the tables of Markdown; a column without a name of its own has that of the one before.

    So ``ratio`` behind ``dense twin`` is ``dense twin: ratio``.
    """
    block: list[list[str]] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif block:
            head, named = [], ""
            for name in block[0]:
                again = block[0].count(name) > 1
                named = named if again else name
                head.append(f"{named}: {name}" if again else name)
            yield [dict(zip(head, cells, strict=False)) for cells in block[2:]]
            block = []


def parts(path: Path) -> dict[str, list[str]]:
    """Return the lines below each heading of the first level."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            found[line] = lines = []
        elif found:
            lines.append(line)
    return found


def is_rounded(shown: str, cell: str) -> bool:
    """Whether a figure is a cell's, in as many digits or in fewer; units are alike."""
    wanted, there = (re.fullmatch(rf"({NUMBER}) ?([kMG]?)", x.strip(" *")) for x in (shown, cell))
    if wanted is None or there is None or wanted[2] != there[2]:
        return False
    coarse, fine = (0.5 * 10.0 ** -len(x[1].partition(".")[2]) for x in (wanted, there))
    # 23 and 23.0 are three digits of one figure; a rounding of a rounding may be off by its half
    return abs(float(wanted[1]) - float(there[1])) <= coarse + (fine if fine < coarse else 0) + 1e-9


def has_row(rows: list[Row], figure: str, low: str, high: str) -> bool:
    """Whether a row has a figure, and its interval in another cell."""
    for row in rows:
        cells = list(row.values())
        pairs = [cell.replace(" *", "").split(" .. ") for cell in cells if " .. " in cell]
        if any(is_rounded(low, a) and is_rounded(high, b) for a, b in pairs) and any(
            is_rounded(figure, cell) for cell in cells
        ):
            return True
    return False


def find(part: str, **where: str) -> Row:
    """Return the one row of FSDD's results that has these columns and values."""
    wanted = {name.replace("_", " "): value for name, value in where.items()}
    columns = wanted.pop("has").split(" & ")
    (row,) = [
        row
        for rows in tables(parts(FSDD)[part])
        for row in rows
        if all(column in row for column in columns) and wanted.items() <= row.items()
    ]
    return row


def readme_table(first: str, column: str) -> list[Row]:
    """Return the table of README.md with these two columns."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (found,) = [rows for rows in tables(lines) if {first, column} <= rows[0].keys()]
    return found


def sections(page: Path) -> Iterator[tuple[int, str]]:
    """Give the parts of a page that link a table of results, with the line each begins at."""
    text = page.read_text(encoding="utf-8")
    cuts = [m.start() for m in re.finditer(r"^#+ ", text, re.M)]
    for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True):
        if "RESULTS.md" in text[start:end]:
            yield text[:start].count("\n") + 1, text[start:end]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_figures_with_intervals_are_in_the_tables(page):
    for line, text in sections(page):
        targets = re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", text)
        linked = {(page.parent / target).resolve() for target in targets}
        linked |= {path for path in [page.with_name("RESULTS.md")] if path.is_file()}
        there = "\n".join(path.read_text(encoding="utf-8") for path in sorted(linked - {page}))
        rows = [row for found in tables(there.splitlines()) for row in found]
        told = TOLD.findall(there)
        for found in WITH_INTERVAL.finditer(text):
            figures = found.groups()
            at = line + text[: found.start()].count("\n")
            assert has_row(rows, *figures) or any(
                all(is_rounded(*pair) for pair in zip(figures, other, strict=True))
                for other in told
            ), f"{page}:{at}: {' '.join(found.group(0).split())}"


KEPT = sorted(ROOT.glob("egs/*/scored/*/*/*/result.json"))


@pytest.mark.parametrize("result", KEPT, ids=lambda path: "/".join(path.parts[-6:-1:2]))
def test_counts_that_are_kept_are_those_of_the_tables(result):
    folder = result.parent
    recipe, experiment, decoding, name = (folder.parts[i] for i in (-5, -3, -2, -1))
    counts = read_counts(folder)
    page = ROOT / "egs" / recipe / "RESULTS.md"
    where = {"experiment": experiment, "decoding": decoding, "set": name}
    shown = [
        row["WER"]
        for rows in tables(page.read_text(encoding="utf-8").splitlines())
        for row in rows
        if where.items() <= row.items() and "WER" in row
    ]
    assert [
        is_rounded(figure, f"{100 * counts.errors.sum() / counts.lengths.sum():.4f}")
        for figure in shown
    ] == [True]


def test_error_rates_of_the_first_page():
    names = {"test_seen": "known speakers (`test_seen`)", "test": "unseen speaker (`test`)"}
    shown = 0
    for row in readme_table("encoder", "unseen speaker (`test`)"):
        label = row["encoder"].removesuffix(", thresholds learnt")
        if label not in ENCODERS:
            assert label.startswith("first minus fourth row")
            continue
        part, group = ENCODERS[label]
        for name, column in names.items():
            told = find(part, has="mean WER", experiments=group, set=name)
            assert row["seeds"] == told["seeds"]
            figure = WITH_INTERVAL.fullmatch(row[column])
            assert figure is not None, row
            assert has_row([told], *figure.groups()), (row, told)
            shown += 1
    assert shown == 2 * len(ENCODERS)


def test_energies_of_the_first_page():
    shown = 0
    for row in readme_table("encoder", "SynOps"):
        label, _, sparse = row["encoder"].partition(", ")
        label = row["encoder"] if sparse == "dense" else label
        part, group = ENCODERS[label]
        name = re.sub(r"(?=_sparsified|$)", "_seed1", group, count=1)
        where = {"experiment": name, "set": "test"}
        counts = find(part, has="SynOps/s", **where)
        prices = ["`horowitz45_fp32`", "`horowitz45_int8`"]
        ours = "ours mJ/s"
        trained, dense = "trained twin, zeros skipped: ratio", "dense twin, nothing skipped: ratio"
        head = f"{ours} & {trained}"
        products = [find(part, has=head, prices=price, **where) for price in prices]
        moved = [f"{price}, output stationary" for price in prices]
        memory = [find(part, has=head, prices=price, **where) for price in moved]
        expected = {
            "SynOps": [counts["SynOps/s"]],
            "MACs": [counts["MAC/s"]],
            "products": [products[0][ours]],
            "products: trained twin": [told[trained] for told in products],
            "dense twin": [told[dense] for told in products],
            "with memory": [memory[0][ours]],
            "with memory: trained twin": [told[trained] for told in memory],
        }
        if sparse.endswith("% sparse"):
            zeros = counts["zeros: neuron outputs %"]
            assert is_rounded(sparse.removesuffix(" % sparse"), zeros), (row, counts)
        for column, cells in expected.items():
            figures = row[column].removesuffix(" mJ").split(" / ") if row[column] else []
            if not figures:
                assert cells in (["0"], ["–", "–"]), (column, row)
                continue
            assert len(figures) == len(cells)
            for figure, cell in zip(figures, cells, strict=True):
                assert is_rounded(figure, cell), (column, row, cells)
                shown += 1
    assert shown > 30


def test_cycles_of_the_first_page():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    saved = re.findall(r"(\d+) %(?: of the cycles of the dense blocks)? in (`\w+`)", text)
    assert len(saved) == 3
    for figure, label in saved:
        part, group = ENCODERS[label]
        name = re.sub(r"(?=_sparsified|$)", "_seed1", group, count=1)
        against = "own dense coding" if part == AUGMENTED else "dense"
        told = find(part, has="cycles saved, % & sparsity, %", experiment=name, against=against)
        assert is_rounded(figure, told["cycles saved, %"]), (label, told)


def test_headline_is_a_row_of_the_assumptions():
    lines = (ROOT / "benchmarks/results/assumptions.md").read_text(encoding="utf-8").splitlines()
    found: dict[str, Row] = {}
    for line in lines:
        if line.startswith("## "):
            heading, block = line.removeprefix("## "), []
        elif line.startswith("|"):
            block.append(line)
            if "as the cost model has it" in line and heading not in found:
                (found[heading],) = next(tables([*block, ""]))
    for row in readme_table("encoder", "SynOps"):
        label = row["encoder"].partition(",")[0]
        if label not in ENCODERS:
            continue
        name = re.sub(r"(?=_sparsified|$)", "_seed1", ENCODERS[label][1], count=1)
        told = found[f"{name}, test, `horowitz45_fp32`"]
        ours = row["products"].removesuffix(" mJ")
        assert is_rounded(ours, list(told.values())[1]), (row, told)


def test_the_test_of_figures_can_fail():
    rows = [{"WER": "8.80", "95 %": "5.92 .. 11.71"}]
    assert has_row(rows, "8.80", "5.92", "11.71") and has_row(rows, "8.8", "5.9", "11.7")
    assert not has_row(rows, "8.81", "5.92", "11.71") and not has_row(rows, "8.80", "5.92", "11.72")
    assert is_rounded("12.0 M", "12 M") and not is_rounded("12.0 M", "12 k")
    assert is_rounded("0.0645", "0.06452") and not is_rounded("0.0644", "0.06452")
