"""Word, character and token error rates of one decoded set, with their alignments.

jiwer aligns with equal costs for substitution, deletion and insertion, so the *total* is the
Levenshtein distance, which kaldialign confirms. sclite weights them 4/3/3: its split into
S, D and I, and on rare occasions its total, can differ; kaldialign's ``sclite_mode`` counts are
printed beside ours.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jiwer
import kaldialign
import numpy as np

from espnet_spike.data.dropping import read_dropped
from espnet_spike.data.text_normalization import profile
from espnet_spike.data.tokens import SPACE, UNKNOWN, read_bpe_model
from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.results import formatting
from espnet_spike.results.bootstrap import SEED, Interval, error_interval
from espnet_spike.utils.files import (
    name_some,
    plural,
    present,
    read_json,
    read_lines,
    read_table,
    write_json,
    write_lines,
)

METRICS = ("wer", "cer", "ter")
COLUMNS = ("corr", "sub", "del", "ins")
JIWER_KINDS = ("equal", "substitute", "delete", "insert")  # jiwer's names, in the same order
FREQUENT = 10  # how many of the most frequent errors are listed

Pairs = list[tuple[str | None, str | None]]
"""The alignment of an utterance: reference unit or None, hypothesis unit or None."""


@dataclass(frozen=True)
class Counts:
    """Correct and wrong units of each of U utterances.

    Attributes:
        path: the folder of the set they come from.
        keys, speakers: of the utterances.
        table: (U, 4) correct, substituted, deleted, inserted.
    """

    path: Path
    keys: list[str]
    speakers: list[str]
    table: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Reference units of each utterance (U,)."""
        return self.table[:, :3].sum(axis=1)

    @property
    def errors(self) -> np.ndarray:
        """Errors of each utterance (U,)."""
        return self.table[:, 1:].sum(axis=1)

    @cached_property
    def interval(self) -> Interval:
        """The 95 % interval of the error rate."""
        return error_interval(self.errors, self.lengths, self.speakers)


@dataclass(frozen=True)
class Score:
    """References and hypotheses of a set, cut into units and aligned.

    Attributes:
        metric: ``wer``, ``cer`` or ``ter``.
        refs, hyps: the units of the U utterances.
        alignments: for each utterance, pairs (reference unit or None, hypothesis unit or None).
        counts: what the alignments amount to.
    """

    metric: str
    refs: list[list[str]]
    hyps: list[list[str]]
    alignments: list[Pairs]
    counts: Counts


def read_pairs(
    ref_path: Path, hyp_path: Path, normalization: str = "none"
) -> tuple[list[str], list[str], list[str]]:
    """Read references and hypotheses of the same utterances.

    Returns:
        Sorted keys, reference texts and hypothesis texts. A hypothesis may be blank.

    Raises:
        UserError: the keys differ, a reference is blank, or the profile is unknown.
    """
    refs, hyps = read_table(ref_path), read_table(hyp_path)
    return normalized_pairs(refs, hyps, normalization, ref_path, hyp_path)


def normalized_pairs(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    normalization: str,
    ref_path: Path,
    hyp_path: Path,
) -> tuple[list[str], list[str], list[str]]:
    """Bring texts by utterance into the form in which they are compared.

    Args:
        refs, hyps: utterance -> text.
        normalization: a name in ``espnet_spike.data.text_normalization.PROFILES``.
        ref_path, hyp_path: where they come from, for errors.

    Returns, raises: see `read_pairs`.
    """
    normalize = profile(normalization)
    check_same_keys(refs, hyps, ref_path, hyp_path)
    keys = sorted(refs)
    ref_texts = [normalize(refs[key]) for key in keys]
    blank = [key for key, text in zip(keys, ref_texts, strict=True) if not text]
    if blank:
        raise UserError(
            f"{ref_path}: {plural(len(blank), 'blank reference')}: {name_some(blank)}",
            "an error rate needs something to compare with: remove these utterances from the set",
        )
    return keys, ref_texts, [normalize(hyps[key]) for key in keys]


def check_same_keys(
    refs: Mapping[str, str], hyps: Mapping[str, str], ref_path: Path, hyp_path: Path
) -> None:
    """Raise a UserError that lists what one file has and the other has not."""
    missing, extra = sorted(refs.keys() - hyps.keys()), sorted(hyps.keys() - refs.keys())
    if missing or extra:
        parts = [f"{len(missing)} without a hypothesis: {name_some(missing)}"] if missing else []
        parts += [f"{len(extra)} without a reference: {name_some(extra)}"] if extra else []
        raise UserError(
            f"{hyp_path} and {ref_path} are not of the same utterances; {'; '.join(parts)}",
            "decode the set again (--stage decode), or score it against the folder it came from",
        )
    if not refs:
        raise UserError(f"{ref_path} is empty", "there is nothing to score")


def word_units(text: str) -> list[str]:
    """Cut a normalised text at its spaces."""
    return text.split()


def character_units(text: str) -> list[str]:
    """Cut a text into characters; a space between words counts, as in ESPnet and jiwer.

    ``<unk>``, what a model writes for a unit that it does not know, is one.
    """
    if UNKNOWN in text:
        found = re.findall(f"{UNKNOWN}|.", text, re.DOTALL)
        return [SPACE if unit == " " else unit for unit in found]
    return [SPACE if character == " " else character for character in text]


def token_units(token_type: str, bpemodel: Path | None) -> Callable[[str], list[str]]:
    """Return the function that cuts a text into the tokens of the model.

    Args:
        token_type: ``bpe``, ``char`` or ``word``.
        bpemodel: the SentencePiece model, for ``bpe``.

    Raises:
        UserError: an unknown type, or no such model.
    """
    if token_type == "char":
        return character_units
    if token_type == "word":
        return word_units
    if token_type != "bpe":
        raise UserError(
            f"unknown token type {token_type!r}" + did_you_mean(token_type, ["bpe", "char", "word"])
        )
    return read_bpe_model(bpemodel).encode_as_pieces


def token_spelling(token_type: str, bpemodel: Path | None) -> Callable[[str], str]:
    """Return what the tokens of a model can spell of a text, by its SentencePiece model's rule.

    A model whose tokens were learnt under ``nmt_nfkc``, as sentencepiece does when it is not told
    otherwise, cannot write full-width letters or Thai's SARA AM as one character.
    """
    if token_type != "bpe" or bpemodel is None:
        return str
    normalize = read_bpe_model(bpemodel).normalize
    return lambda text: normalize(text).replace("\u2581", " ").strip()


def read_vocabulary(token_list: Path) -> frozenset[str]:
    """Read a token list, one token per line.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    tokens = frozenset(line.strip() for line in read_lines(token_list))
    if not tokens:
        raise UserError(f"{token_list} holds no tokens", "stage 5 (tokens) makes it")
    return tokens


def align(
    metric: str,
    path: Path,
    keys: list[str],
    speakers: list[str],
    refs: list[list[str]],
    hyps: list[list[str]],
) -> Score:
    """Align every utterance with jiwer; kaldialign has to count as many errors.

    Args:
        metric: name of the error rate, ``wer``, ``cer`` or ``ter``.
        path: the folder of the set.
        keys, speakers, refs, hyps: of the U utterances, in the same order.
    """
    process: Any = jiwer.process_words  # its types know text only; list leaves units as they are
    output = process(refs, hyps, reference_transform=list, hypothesis_transform=list)
    table = np.zeros((len(keys), len(COLUMNS)), dtype=np.int64)
    alignments = []
    for row, ref, hyp, chunks in zip(table, refs, hyps, output.alignments, strict=True):
        pairs: list[tuple[str | None, str | None]] = []
        for chunk in chunks:
            left = ref[chunk.ref_start_idx : chunk.ref_end_idx]
            right = hyp[chunk.hyp_start_idx : chunk.hyp_end_idx]
            row[JIWER_KINDS.index(chunk.type)] += max(len(left), len(right))
            pairs += zip_longest(left, right)
        alignments.append(pairs)
    counts = Counts(path, keys, speakers, table)
    total = kaldialign.batch_error_rate(refs, hyps)["total"]
    if total != counts.errors.sum():
        raise AssertionError(
            f"{metric}: {plural(counts.errors.sum(), 'error')} by jiwer, {total} by kaldialign"
        )
    return Score(metric, refs, hyps, alignments, counts)


def rates(counts: np.ndarray) -> dict[str, Any]:
    """Return the rates in %, and the counts behind them, of utterances with counts (U, 4)."""
    sums, length = counts.sum(axis=0), counts[:, :3].sum()
    errors = counts[:, 1:].sum(axis=1)
    return {
        "err": percent(errors.sum(), length),
        **{name: percent(count, length) for name, count in zip(COLUMNS, sums, strict=True)},
        "sentence_err": percent(int((errors > 0).sum()), len(counts)),
        "sentences": len(counts),
        "units": int(length),
        "counts": {name: int(count) for name, count in zip(COLUMNS, sums, strict=True)},
    }


def error_rates(
    refs: Mapping[str, str], hyps: Mapping[str, str], normalize: Callable[[str], str]
) -> tuple[float, float]:
    """Return word and character error rate in % of texts by utterance."""

    def rate(cut: Callable[[str], list[str]]) -> float:
        ref, hyp = ([cut(normalize(texts[utt])) for utt in refs] for texts in (refs, hyps))
        return percent(kaldialign.batch_error_rate(ref, hyp)["total"], sum(map(len, ref)))

    return rate(word_units), rate(character_units)


def interval_fields(interval: Interval) -> dict[str, Any]:
    """Return an interval as the fields of a result file."""
    return {
        "ci": [round(interval.low, 4), round(interval.high, 4)],
        "ci_unit": interval.unit,
        "ci_units": interval.units,
        "ci_meaningful": interval.meaningful,
    }


def interval_text(fields: Mapping[str, Any]) -> str:
    """Return the interval that `interval_fields` wrote, as one reads it."""
    low, high = fields["ci"]
    unit, units, meaningful = (fields[f"ci_{name}"] for name in ("unit", "units", "meaningful"))
    return str(Interval(low, high, unit, units, meaningful))


def percent(part: float, whole: float) -> float:
    """Return 100 * part / whole, rounded to what a table can use."""
    return round(100.0 * float(part) / float(whole), 4)


TABLE_RULE = "|---|---:|---:|---:|---:|---:|---:|---:|---:|"


def table_head(first: str, metric: str) -> list[str]:
    """Return the head of ESPnet's result table."""
    unit = {"wer": "Wrd", "cer": "Chr", "ter": "Tok"}[metric]
    return [f"|{first}|Snt|{unit}|Corr|Sub|Del|Ins|Err|S.Err|", TABLE_RULE]


def table_row(name: str, figures: Mapping[str, Any]) -> str:
    """Return a row of ESPnet's result table; all but the two totals in %."""
    cells = [figures[column] for column in (*COLUMNS, "err", "sentence_err")]
    body = "|".join(f"{cell:.2f}" for cell in cells)
    return f"|{formatting.cell(name)}|{figures['sentences']}|{figures['units']}|{body}|"


def summary(score: Score, figures: Mapping[str, Any], normalization: str) -> list[str]:
    """Return the lines of ``result.txt``: the rate, the speakers, the most frequent errors."""
    sums, counts = figures["counts"], score.counts
    sclite = kaldialign.batch_error_rate(score.refs, score.hyps, sclite_mode=True)
    lines = [
        f"%{score.metric.upper()} {figures['err']:.2f} [ {counts.errors.sum()} / "
        f"{figures['units']}, {sums['ins']} ins, {sums['del']} del, {sums['sub']} sub ]",
        f"%SER {figures['sentence_err']:.2f} [ {(counts.errors > 0).sum()} / {len(counts.keys)} ]",
        f"95 % interval: {counts.interval}; bootstrap, seed {SEED}",
        f"text normalization: {normalization}",
        f"aligned by jiwer with equal costs; sclite's costs give {sclite['ins']} ins, "
        f"{sclite['del']} del, {sclite['sub']} sub",
        "",
        *table_head("speaker", score.metric),
    ]
    names = np.asarray(counts.speakers)
    lines += [table_row(name, rates(counts.table[names == name])) for name in np.unique(names)]
    lines.append(table_row("all", figures))
    errors = Counter(pair for pairs in score.alignments for pair in pairs if pair[0] != pair[1])
    kinds = {"S": "substitutions", "D": "deletions", "I": "insertions"}
    for kind, name in kinds.items():
        found = [(n, r or "***", h or "***") for (r, h), n in errors.items() if mark(r, h) == kind]
        found.sort(key=lambda item: (-item[0], *item[1:]))
        if found:
            lines += ["", f"most frequent {name} (count: reference -> hypothesis)"]
            lines += [f"{n:6d}: {ref} -> {hyp}" for n, ref, hyp in found[:FREQUENT]]
    return lines


def mark(ref: str | None, hyp: str | None) -> str:
    """Return ``S``, ``D``, ``I`` or, for a correct pair, nothing."""
    return "" if ref == hyp else "D" if hyp is None else "I" if ref is None else "S"


def _width(text: str) -> int:
    """Columns a text takes on a terminal: two for East Asian wide, none for combining marks."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def alignment_lines(score: Score) -> list[str]:
    """Return every utterance, its reference and hypothesis one above the other, errors marked."""
    lines = []
    counts = score.counts
    for key, speaker, pairs, row in zip(
        counts.keys, counts.speakers, score.alignments, counts.table, strict=True
    ):
        rows: dict[str, list[str]] = {"REF:": [], "HYP:": [], "": []}
        for ref, hyp in pairs:
            width = max(1, _width(ref or ""), _width(hyp or ""))
            cells = (ref or "*" * width, hyp or "*" * width, mark(ref, hyp))
            for out, cell in zip(rows.values(), cells, strict=True):
                out.append(cell + " " * (width - _width(cell)))
        lines += [f"id: {key} speaker: {speaker}", f"scores: (C S D I) {' '.join(map(str, row))}"]
        lines += [f"{name:5s}{' '.join(cells)}".rstrip() for name, cells in rows.items()]
    return lines


def read_alignments(set_dir: Path, metric: str = "wer") -> dict[str, Pairs]:
    """Read the alignments of a scored set, as `alignment_lines` writes them.

    Raises:
        UserError: the set has not been scored, or the file is damaged.
    """
    path = set_dir / f"score_{metric}" / "alignment.txt"
    if not present(path):
        raise UserError(f"{path} does not exist", "score the set first (--stage score)")
    # the line of marks is left out: a blank one is not read
    lines = [line for line in read_lines(path) if not line.startswith(" ")]
    found: dict[str, Pairs] = {}
    for at in range(0, len(lines), 4):
        head, scores, *rows = lines[at : at + 4]
        refs, hyps = (row.split()[1:] for row in (*rows, "", "")[:2])
        pairs = [_unpadded(ref, hyp) for ref, hyp in zip(refs, hyps, strict=False)]
        marks = [mark(ref, hyp) for ref, hyp in pairs]
        if scores.split()[-4:] != [str(marks.count(kind)) for kind in ("", "S", "D", "I")]:
            raise UserError(
                f"{path} is damaged, or holds words of asterisks, at {head}",
                "score the set again (--stage score)",
            )
        found[head.split()[1]] = pairs
    return found


def _unpadded(ref: str, hyp: str) -> tuple[str | None, str | None]:
    """Return a pair of cells; asterisks alone stand for nothing."""
    if ref == hyp:
        return ref, hyp
    return None if not ref.strip("*") else ref, None if not hyp.strip("*") else hyp


def count_lines(counts: Counts) -> list[str]:
    """Return the counts of every utterance as the table that `read_counts` reads."""
    rows = zip(counts.keys, counts.speakers, counts.table, strict=True)
    return [
        "\t".join(["utterance", "speaker", *COLUMNS]),
        *("\t".join([key, speaker, *map(str, row)]) for key, speaker, row in rows),
    ]


def read_counts(set_dir: Path, metric: str = "wer") -> Counts:
    """Read the counts of a scored set.

    Raises:
        UserError: the set has not been scored, or its counts are damaged, or not those of the
            ``result.json`` beside them.
    """
    cure = "score the set again: --stage score --stop_stage score --force true"
    path = set_dir / f"score_{metric}" / "counts.tsv"
    if not present(path):
        raise UserError(f"{path} does not exist", "score the set first (--stage score)")
    rows = [line.split("\t") for line in read_lines(path)]
    try:
        if rows.pop(0) != ["utterance", "speaker", *COLUMNS]:
            raise ValueError("no counts")
        if any(len(row) != 2 + len(COLUMNS) for row in rows):
            raise ValueError("a line without all counts")
        if odd := [x for row in rows for x in row[2:] if not (x.isascii() and x.isdigit())]:
            raise ValueError(f"{odd[0]!r} is no count")
        table = np.array([row[2:] for row in rows], dtype=np.int64).reshape(-1, len(COLUMNS))
        if not table[:, :3].any():  # a reference has units, so there are none at all
            raise ValueError("it counts no units")
    except (ValueError, IndexError, OverflowError) as error:
        raise UserError(f"{path} is damaged: {error}", cure) from None
    if present(result := set_dir / "result.json"):
        known, found = read_json(result, cure), rates(table)
        known = known.get(metric) if isinstance(known, dict) else None
        known = known if isinstance(known, dict) else {}
        for key in ("sentences", "units", "counts"):  # whole numbers; the last came later
            if key in known and known[key] != found[key]:
                raise UserError(
                    f"{path} is damaged: its {key} are {found[key]}, and in {result} {known[key]}",
                    cure,
                )
    return Counts(set_dir, [row[0] for row in rows], [row[1] for row in rows], table)


def score_set(
    name: str,
    data_dir: Path,
    set_dir: Path,
    cut_tokens: Callable[[str], list[str]],
    vocabulary: Collection[str],
    normalization: str = "none",
    spelling: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Score one decoded set and write ``score_{wer,cer,ter}/`` and ``result.json`` beside it.

    Args:
        name: the name of the set.
        data_dir: the folder with its references ``text`` and its ``utt2spk``.
        set_dir: the folder with its hypotheses ``text``.
        cut_tokens: cuts a text into the model's tokens, see `token_units`.
        vocabulary: the tokens that the model can write; others in the references are counted.
        normalization: a name in ``espnet_spike.data.text_normalization.PROFILES``.
        spelling: what the tokens can spell of a text, see `token_spelling`. References that are
            another text, and so cannot be recognised, are counted.

    Returns:
        What ``result.json`` holds.

    Raises:
        UserError: keys differ, a reference is blank, or a speaker is missing.
    """
    keys, ref_texts, hyp_texts = read_pairs(data_dir / "text", set_dir / "text", normalization)
    utt2spk = read_table(data_dir / "utt2spk")
    unknown = [key for key in keys if key not in utt2spk]
    if unknown:
        raise UserError(f"{data_dir / 'utt2spk'}: no speaker for {name_some(unknown)}")
    speakers = [utt2spk[key] for key in keys]
    result: dict[str, Any] = {
        "set": name,
        "utterances": len(keys),
        "utterances_given": len({*keys, *read_dropped(data_dir)}),
        "speakers": len(set(speakers)),
        "blank_hypotheses": sum(not text for text in hyp_texts),
        "normalization": normalization,
    }
    normalize = profile(normalization)
    result["unspellable_references"] = sum(normalize(spelling(t)) != t for t in ref_texts)
    cutters = {"wer": word_units, "cer": character_units, "ter": cut_tokens}
    for metric, cut in cutters.items():
        units = [*map(cut, ref_texts)], [*map(cut, hyp_texts)]
        score = align(metric, set_dir, keys, speakers, *units)
        result[metric] = rates(score.counts.table) | interval_fields(score.counts.interval)
        folder = set_dir / f"score_{metric}"
        folder.mkdir(exist_ok=True)
        write_lines(folder / "result.txt", summary(score, result[metric], normalization))
        write_lines(folder / "alignment.txt", alignment_lines(score))
        write_lines(folder / "counts.tsv", count_lines(score.counts))
    result["oov_tokens"] = sum(token not in vocabulary for ref in score.refs for token in ref)
    write_json(set_dir / "result.json", result, ensure_ascii=False)
    return result
