"""Where the errors of a scored set are: by length of the utterance, speaker, and word frequency."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from espnet_spike.data.text_normalization import profile
from espnet_spike.experiment import read_config
from espnet_spike.results.scoring import (
    Counts,
    Pairs,
    percent,
    read_alignments,
    read_counts,
    word_units,
)
from espnet_spike.utils.files import iter_table

# upper ends of the groups; the last has none
LENGTHS = (1, 2, 4, 8, 16, 32)  # words of an utterance
FREQUENCIES = (0, 2, 9, 99, 999)  # occurrences of a word in the training text
SHOWN_SPEAKERS = 20


@dataclass(frozen=True)
class Group:
    """Some utterances or words.

    Attributes:
        name: what they have in common.
        units: how many utterances, or kinds of words.
        words: of the references.
        errors: substituted and deleted words; of utterances inserted ones, too.
    """

    name: str
    units: int
    words: int
    errors: int

    @property
    def rate(self) -> float:
        """The error rate, %."""
        return percent(self.errors, self.words)


def _name(number: int, ends: Sequence[int]) -> str:
    """Return the name of a group of numbers up to an end, ``3-4``, ``over 32``."""
    if number == len(ends):
        return f"over {ends[-1]}"
    low = ends[number - 1] + 1 if number else min(ends[0], 1)
    return str(ends[number]) if low == ends[number] else f"{low}-{ends[number]}"


def by_length(counts: Counts) -> list[Group]:
    """Return the utterances of a set by the number of their words, short ones first."""
    place = np.searchsorted(LENGTHS, counts.lengths)
    return [
        _of_utterances(_name(number, LENGTHS), counts, place == number)
        for number in range(len(LENGTHS) + 1)
        if (place == number).any()
    ]


def by_speaker(counts: Counts) -> list[Group]:
    """Return the utterances of a set by speaker, the worst first."""
    speakers = np.asarray(counts.speakers)
    found = [_of_utterances(name, counts, speakers == name) for name in np.unique(speakers)]
    return sorted(found, key=lambda group: (-group.rate, group.name))


def _of_utterances(name: str, counts: Counts, chosen: np.ndarray) -> Group:
    sums = int(counts.lengths[chosen].sum()), int(counts.errors[chosen].sum())
    return Group(str(name), int(chosen.sum()), *sums)


def by_frequency(alignments: Iterable[Pairs], frequency: Mapping[str, int]) -> list[Group]:
    """Return the words of references by how often the training text holds them, unseen ones first.

    An inserted word belongs to no word of a reference, and is not counted.

    Args:
        alignments: of each utterance.
        frequency: occurrences of the words that occur.
    """
    words: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for pairs in alignments:
        for ref, hyp in pairs:
            if ref is not None:
                words[ref] += 1
                errors[ref] += ref != hyp
    kinds = defaultdict(list)
    for word in words:
        kinds[int(np.searchsorted(FREQUENCIES, frequency.get(word, 0)))].append(word)
    return [
        Group(
            _name(number, FREQUENCIES),
            len(kinds[number]),
            sum(words[word] for word in kinds[number]),
            sum(errors[word] for word in kinds[number]),
        )
        for number in sorted(kinds)
    ]


def training_texts(asr_exp: Path) -> list[Path]:
    """Return the transcripts that an experiment was trained on, those that are still there.

    Its configuration names them as seen from the recipe.
    """
    sources = read_config(asr_exp).get("train_data_path_and_name_and_type") or []
    found = []
    for path, _, *_ in (source for source in sources if source[1] == "text"):
        places = [Path(path), asr_exp.resolve().parents[1] / path]
        place = next((place for place in places if place.exists()), None)
        if place is not None:  # large corpora: a folder of parts
            found += sorted(place.glob("split.*")) if place.is_dir() else [place]
    return found


def word_frequency(paths: Iterable[Path], normalization: str) -> Counter[str]:
    """Count the words of Kaldi texts, under a text normalization of scoring."""
    normalize = profile(normalization)
    counts: Counter[str] = Counter()
    for path in paths:
        for _, text in iter_table(path):
            counts.update(word_units(normalize(text)))
    return counts


def group_rows(groups: Iterable[Group]) -> list[list[Any]]:
    """Return name, units, words and rate of each group, for a table."""
    return [[g.name, g.units, g.words, f"{g.rate:.2f}"] for g in groups]


@dataclass(frozen=True)
class Breakdown:
    """Rates of several systems on the same groups of one set.

    Attributes:
        set: its name.
        by: what the groups are made by.
        head: columns of the table: the group, words, and a rate for each system.
        rows: its cells.
    """

    set: str
    by: str
    head: list[str]
    rows: list[list[str]]

    @property
    def title(self) -> str:
        """What the table shows."""
        return f"{self.set}: WER by {self.by}, %"


def breakdowns(systems: Mapping[str, Path], frequency: Mapping[str, int]) -> list[Breakdown]:
    """Return a table by length, by speaker and, where frequencies are known, by word frequency.

    Args:
        systems: name -> its scored folder of the set; all have the same references.
        frequency: of words in a training text; empty when it is not known.

    Raises:
        UserError: a system's scores are missing.
    """
    counts = [read_counts(folder) for folder in systems.values()]
    of_groups = {
        "words of an utterance": [by_length(one) for one in counts],
        "speaker": [by_speaker(one) for one in counts],
    }
    of_groups["speaker"][0] = of_groups["speaker"][0][:SHOWN_SPEAKERS]
    if frequency:
        of_groups["occurrences in the training text"] = [
            by_frequency(read_alignments(folder).values(), frequency) for folder in systems.values()
        ]
    name = next(iter(systems.values())).name
    found = []
    for by, columns in of_groups.items():
        rates = [{group.name: group.rate for group in groups} for groups in columns]
        rows = [
            [group.name, str(group.words), *(f"{each[group.name]:.2f}" for each in rates)]
            for group in columns[0]
        ]
        found.append(Breakdown(name, by, [by, "words", *systems], rows))
    return found
