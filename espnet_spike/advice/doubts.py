"""What speaks against a configuration before it is trained: it contradicts itself or the data.

Light: nothing of torch or ESPnet is imported.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_spike.advice.plan import FEWEST_PIECES, FEWEST_UPDATES, MOST_PIECES, WORDS_A_PIECE
from espnet_spike.tasks.arguments import split_args
from espnet_spike.utils.files import iter_table, plural, present

WIDE = 0.5  # share of the dims that a mask covers at most, to leave something to learn from
MOST_EPOCHS = 500  # that are advised; where that is too few, an epoch has to have more updates
CROWDED = 2.0  # times the vocabulary that a text allows


@dataclass(frozen=True)
class Doubt:
    """Something that speaks against a configuration, and the option to change."""

    text: str
    option: str

    def __str__(self) -> str:
        return f"{self.text}: change {self.option}"


@dataclass(frozen=True)
class Facts:
    """What is known of the data; None of what is not.

    Attributes:
        utterances, frames: of the training set.
        dims: of the features.
        words, alphabet: of the transcripts, and how many letters are different.
        vocabulary: tokens of the model, where they are pieces.
    """

    utterances: int | None = None
    frames: int | None = None
    dims: int | None = None
    words: int | None = None
    alphabet: int | None = None
    vocabulary: int | None = None


def facts_of(train_dir: Path | None, dims: int | None = None, pieces: int | None = None) -> Facts:
    """Return what a data directory with features tells; of one that is not there yet, nothing.

    Args:
        train_dir: holds ``feats_shape`` and ``text``.
        dims: of the features, where the folder does not say.
        pieces: of the vocabulary, where it is one of pieces.
    """
    utterances = frames = words = alphabet = None
    if train_dir is not None and present(train_dir / "feats_shape"):
        utterances = frames = 0
        for _, shape in iter_table(train_dir / "feats_shape"):
            length, _, size = shape.partition(",")
            if length.isdigit() and size.isdigit():  # what is not, the training names
                utterances, frames, dims = utterances + 1, frames + int(length), int(size)
    if train_dir is not None and present(train_dir / "text"):
        words, letters = 0, set()
        for _, text in iter_table(train_dir / "text"):
            words += len(text.split())
            letters |= set(text)
        alphabet = len(letters)
    return Facts(utterances, frames, dims, words, alphabet, pieces)


def with_arguments(config: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    """Return a configuration with options such as ``--max_epoch 3 --optim_conf lr=0.1`` over it.

    Raises:
        UserError: an open quote.
    """
    found: dict[str, Any] = dict(config)
    key = ""
    for word in split_args(arguments):
        if word.startswith("--"):
            key, equals, word = word.removeprefix("--").partition("=")
            if not equals:
                continue
        name, equals, value = word.partition("=")
        if equals and key:
            found[key] = {**(found.get(key) or {}), name: _number(value)}
        elif key:
            found[key] = _number(word)
    return found


def count_updates(config: Mapping[str, Any], facts: Facts) -> int | None:
    """Return about how many updates a training makes, or None where that is not known."""
    epochs, batches = config.get("max_epoch"), config.get("num_iters_per_epoch")
    if batches is None:
        batches = _count_batches(config, facts)
    if not isinstance(epochs, int) or not isinstance(batches, int):
        return None
    return epochs * (batches // (config.get("accum_grad") or 1))


def doubts(config: Mapping[str, Any], facts: Facts, updates: int | None = None) -> list[Doubt]:
    """Return what speaks against a configuration, the most likely to hinder first.

    Args:
        config: content of the YAML.
        facts: of the data.
        updates: that were made, if it has been trained; else they are estimated.
    """
    planned = count_updates(config, facts)
    updates = planned if updates is None else updates
    found = _schedule_doubts(config, updates, planned)
    if updates is not None and updates < FEWEST_UPDATES:
        text = plural(updates, "update")
        found.append(
            Doubt(
                f"{text} in all: under {FEWEST_UPDATES} models seldom write words",
                f"batch_bins or batch_size (smaller) or "
                f"{longer(config, updates if planned is None else planned)}",
            )
        )
    masks = config.get("specaug_conf") or {}
    width = masks.get("freq_mask_width_range") or 0
    widest = width if isinstance(width, int) else width[-1]
    dims = facts.dims
    if config.get("frontend"):  # of audio, dims are samples
        dims = (config.get("frontend_conf") or {}).get("n_mels", 80)
    if config.get("specaug") and masks.get("apply_freq_mask", True) and dims:
        if widest > dims:
            text = f"frequency masks cover up to {widest} dims, and features have {dims}"
        else:
            text = f"frequency masks cover up to {widest} of {dims} dims, more than half"
        if widest > WIDE * dims:
            option = f"specaug_conf freq_mask_width_range (to [0, {dims // 4}])"
            found.append(Doubt(text, option))
    if facts.vocabulary and facts.words and facts.alphabet:
        wanted = min(facts.words // WORDS_A_PIECE, MOST_PIECES)
        allowed = max(FEWEST_PIECES, facts.alphabet + 4, wanted)
        if facts.vocabulary > CROWDED * allowed:
            found.append(
                Doubt(
                    f"{facts.vocabulary} pieces are more than {facts.words} words of text can "
                    "teach",
                    f"--nbpe (to about {allowed})",
                )
            )
    return found


def longer(config: Mapping[str, Any], updates: int | None = None) -> str:
    """Return how to train longer, as it is typed: the schedule has to grow with it.

    Args:
        config: content of the YAML.
        updates: that its epochs make, where they are too few: it takes as many epochs as reach
            ``FEWEST_UPDATES``, ``MOST_EPOCHS`` at most. At least, and else, twice as many.
    """
    epochs, conf = config.get("max_epoch"), config.get("scheduler_conf") or {}
    if not isinstance(epochs, int):
        return "max_epoch (more)"
    needed = 0 if updates is None else math.ceil(epochs * FEWEST_UPDATES / max(updates, 1))
    wanted = max(2 * epochs, min(needed, MOST_EPOCHS))
    words = [f"--max_epoch {wanted}"]
    if (total := conf.get("total_steps")) is not None:
        counted = config.get("num_iters_per_epoch") is not None
        known = isinstance(total, int) and not counted
        steps = math.ceil(total * wanted / max(epochs, 1)) if known else "auto"
        words.append(f"--scheduler_conf total_steps={steps}")
    return f'max_epoch (more), such as --asr_args "{" ".join(words)}"'


def _schedule_doubts(
    config: Mapping[str, Any], updates: int | None, planned: int | None
) -> list[Doubt]:
    conf = config.get("scheduler_conf") or {}
    steps, total = conf.get("warmup_steps"), conf.get("total_steps")
    if updates is None:
        return []
    if isinstance(steps, int | float) and steps > updates:
        return [
            Doubt(
                f"the warm-up of {steps:g} updates is longer than the training of {updates}, the "
                "learning rate never reaches its height",
                f"scheduler_conf warmup_steps (to about {max(updates // 10, 1)})",
            )
        ]
    if isinstance(total, int) and total > 1.05 * updates:
        return [
            Doubt(
                f"the schedule has {total} updates, the training {updates}: the learning rate does "
                "not come down",
                # no fewer than the updates to come, of which some may have been skipped before
                f"scheduler_conf total_steps (to {max(updates, planned or 0)})",
            )
        ]
    return []


def _count_batches(config: Mapping[str, Any], facts: Facts) -> int | None:
    """Return about how many batches make a pass over the data; tokens and padding are left out."""
    if facts.frames is None or facts.utterances is None or facts.dims is None:
        return None
    size, bins = config.get("batch_size") or 20, config.get("batch_bins") or 1_000_000
    kind = config.get("batch_type", "folded")
    if not isinstance(size, int) or not isinstance(bins, int | float):
        return None
    if kind in ("numel", "length"):
        return max(math.ceil(facts.frames * (facts.dims if kind == "numel" else 1) / bins), 1)
    return max(math.ceil(facts.utterances / size), 1)


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
