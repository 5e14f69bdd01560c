"""The verdict after a training: what was learnt, beside what says nothing and is as good."""

import contextlib
import dataclasses
import logging
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_spike.advice.doubts import Doubt, doubts, facts_of, longer
from espnet_spike.data.ark import ArkReader
from espnet_spike.errors import UserError
from espnet_spike.experiment import (
    VERDICT,
    Epochs,
    best_checkpoint,
    read_config,
    read_epochs,
    unhealthy_layers,
)
from espnet_spike.utils.files import plural, present, read_table, write_json
from espnet_spike.utils.shapes import read_state

UTTERANCES = 100  # of the validation set, that are decoded for it
MOST_SECONDS = 60.0  # of decoding, after the first ten utterances
CANDIDATES = 40  # of the most frequent transcripts and words
LETTERS = 10  # the most frequent, of which a constant is put together
LONGEST = 40  # letters that a constant is lengthened to
FALLING = 0.01  # loss that falls faster an epoch would have gone on falling
LITTLE = 0.5  # of the constant's errors: models with more had 90 % WER and worse here
RISEN = 1.1  # times the lowest validation loss; the training loss is less than half of it then
RATES = (1e-5, 2e-2)  # learning rates beyond are seldom meant

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What a training has come to.

    Attributes:
        learnt: better than the best constant output.
        measure: ``cer`` of greedy CTC, or ``acc`` of a decoder without CTC.
        value: of the model on the validation set, in %.
        constant: of the best constant output there, in %.
        constant_text: what that says.
        utterances: that were looked at.
        empty: how many of them got no token; None without CTC.
        tokens: different ones that came out; None without CTC.
        tokens_a_frame: the most of a reference, for a frame of the encoder; None without CTC.
        updates: that were applied.
        rate: the highest learning rate.
        slope: of the validation loss at the end, a share of it an epoch.
        causes: why nothing or little was learnt, the likeliest first: what, and the option to
            change; empty where more was.
    """

    learnt: bool
    measure: str
    value: float
    constant: float
    constant_text: str
    utterances: int
    empty: int | None
    tokens: int | None
    tokens_a_frame: float | None
    updates: int
    rate: float | None
    slope: float | None
    causes: list[list[str]]

    @property
    def line(self) -> str:
        """One line for the terminal."""
        name = {"cer": "CER", "acc": "accuracy"}[self.measure]
        said = f"{name} {self.value:.1f} % on dev; the best constant output, "
        said += f"{self.constant_text!r}, has {self.constant:.1f} %"
        if self.empty is not None and self.empty == self.utterances:
            said += "; only blanks come out"
        elif self.tokens == 1:
            said += "; one token alone comes out"
        elif self.tokens is not None:
            said += f"; {plural(self.tokens, 'token')} in use"
            said += (
                f", {self.empty} of {plural(self.utterances, 'utterance')} empty"
                if self.empty
                else ""
            )
        said += f"; {plural(self.updates, 'update')}"
        if self.rate is not None:
            said += f", highest learning rate {self.rate:.3g}"
        if self.slope is not None:
            said += f", loss {100 * self.slope:+.1f} % an epoch at the end"
        if not self.learnt:
            return f"NOT LEARNT: {said}"
        return f"{'learnt little' if self.causes else 'learnt'}: {said}"

    @property
    def advice(self) -> list[str]:
        """The likely causes, a line each."""
        return [
            f"likely cause {number}: {text}: change {option}"
            for number, (text, option) in enumerate(self.causes, 1)
        ]


def give_verdict(exp_dir: Path, train_dir: Path, valid_dir: Path) -> Verdict:
    """Judge a finished training, say the verdict and write it to ``verdict.json``.

    A verdict that is younger than the model is read again.

    Args:
        exp_dir: folder of the experiment.
        train_dir: holds ``text`` and ``feats_shape`` of what it was trained on.
        valid_dir: the validation set.

    Raises:
        UserError: there is no trained model, or its data are gone.
    """
    path, model = exp_dir / VERDICT, best_checkpoint(exp_dir)
    verdict = None
    if present(path) and path.stat().st_mtime >= model.stat().st_mtime:
        with contextlib.suppress(UserError):  # a damaged one is made anew
            verdict = read_state(path, Verdict)
    if verdict is None:
        verdict = _judge(exp_dir, train_dir, valid_dir)
        write_json(path, dataclasses.asdict(verdict) | {"line": verdict.line}, ensure_ascii=False)
    (_logger.warning if verdict.causes else _logger.info)(verdict.line)
    for cause in verdict.advice:
        _logger.warning(cause)
    return verdict


def require(verdict: Verdict) -> None:
    """Raise if nothing was learnt.

    Raises:
        UserError: with the likeliest cause.
    """
    if not verdict.learnt:
        hint = verdict.advice[0] if verdict.causes else ""
        raise UserError("--require_learnt true: the model is no better than a constant", hint)


def best_constant(references: Sequence[str], texts: Sequence[str]) -> tuple[str, float]:
    """Return what to say always to make few character errors, and its CER in %.

    The best of nothing, frequent transcripts, words and letters, each of the two best lengthened
    letter by letter while that helps, to ``LONGEST``; no search is complete here, so it is an upper
    bound.

    Args:
        references: what it is measured on.
        texts: transcripts that it is made of.
    """
    import kaldialign

    counted = [list(text) for text in references]
    length = sum(map(len, counted))

    def rate(text: str) -> float:
        letters = list(text)
        errors = sum(kaldialign.edit_distance(ref, letters)["total"] for ref in counted)
        return 100 * errors / max(length, 1)

    letters = [c for c, _ in Counter("".join(texts)).most_common(LETTERS)]
    words = Counter(word for text in texts for word in text.split())
    candidates = ["", *letters]
    candidates += [text for text, _ in Counter(texts).most_common(CANDIDATES)]
    candidates += [word for word, _ in words.most_common(CANDIDATES)]
    rates = {text: rate(text) for text in dict.fromkeys(candidates)}
    for start in sorted(rates, key=lambda text: rates[text])[:2]:
        text, best = start, rates[start]
        while len(text) < LONGEST:
            longer = {text + letter: rate(text + letter) for letter in letters}
            if not longer or min(longer.values()) >= best:
                break
            text = min(longer, key=lambda key: longer[key])
            best = longer[text]
        rates[text] = best
    text = min(rates, key=lambda key: rates[key])
    return text, rates[text]


def causes(
    config: Mapping[str, Any], epochs: Epochs, train_dir: Path, rate: float | None
) -> list[Doubt]:
    """Return why nothing or little was learnt, the likeliest cause first.

    Args:
        config: of the training, as the experiment's ``config.yaml`` has it.
        epochs: its records.
        train_dir: what it was trained on.
        rate: the highest learning rate.
    """
    updates = sum(epoch["applied"] for epoch in epochs)
    skipped = sum(epoch["steps"] for epoch in epochs) - updates
    tokens = config.get("token_list") or []
    pieces = len(tokens) - 2 if config.get("token_type") == "bpe" else None
    found = doubts(config, facts_of(train_dir, config.get("input_size"), pieces), updates)
    if skipped > updates / 10:
        found.insert(
            0,
            Doubt(
                f"{plural(skipped, 'update')} skipped for gradients that are NaN or infinite",
                "optim_conf lr (smaller)",
            ),
        )
    if (text := by_heart(epochs)) is not None:
        option = "the data (more speech), --speed_perturb_factors or model_conf augment"
        found.insert(0, Doubt(text, option))
    slope = last_slope(epochs)
    if slope is not None and slope < -FALLING:
        text = f"the loss was still falling, {-100 * slope:.1f} % an epoch"
        found.append(Doubt(text, longer(config, updates + skipped)))
    if rate is not None and not RATES[0] <= rate <= RATES[1]:
        kind = "low" if rate < RATES[0] else "high"
        found.append(Doubt(f"the highest learning rate, {rate:.3g}, is {kind}", "optim_conf lr"))
    if odd := unhealthy_layers(epochs[-1]["valid"] if epochs else {}):
        found.append(Doubt(odd, "optim_conf weight_decay (0) or the options of the neuron"))
    found.append(
        Doubt(
            "transcripts that do not belong to their audio, or speech that features do not hold",
            "nothing before you have listened to some utterances of the training set",
        )
    )
    return found


def last_slope(epochs: Epochs) -> float | None:
    """Return the change of the validation loss an epoch, as a share, over the last fifth or so.

    None where there are fewer than two epochs with a loss.
    """
    losses = [epoch["valid"].get("loss") for epoch in epochs]
    losses = [loss for loss in losses if loss is not None][-max(len(losses) // 5, 3) :]
    if len(losses) < 2 or not losses[0]:
        return None
    slope, _ = statistics.linear_regression(range(len(losses)), losses)
    return slope / statistics.fmean(losses)


def by_heart(epochs: Epochs) -> str | None:
    """Return what shows that the training set was learnt by heart; None if nothing does.

    The validation loss has risen by a tenth, the training loss is less than half of it.
    """
    losses = [loss for e in epochs if (loss := e["valid"].get("loss")) is not None]
    last = epochs[-1]["train"].get("loss") if epochs else None
    if (
        last is None
        or not losses
        or not 0 < RISEN * min(losses) < losses[-1]
        or last > losses[-1] / 2
    ):
        return None
    return (
        f"the training set was learnt by heart: the loss is {last:.3g} there, on the validation "
        f"set it rose from {min(losses):.3g} to {losses[-1]:.3g}"
    )


def highest_rate(epochs: Epochs) -> float | None:
    """Return the highest learning rate; of records without it, the highest mean of an epoch."""
    rates = [e.get("highest_rate", e["train"].get("optim0_lr0")) for e in epochs]
    return max((rate for rate in rates if rate is not None), default=None)


def _judge(exp_dir: Path, train_dir: Path, valid_dir: Path) -> Verdict:
    config, epochs = read_config(exp_dir), read_epochs(exp_dir)
    texts = list(read_table(train_dir / "text").values())
    found: dict[str, Any]
    if config["model_conf"].get("ctc_weight", 0.5) > 0:
        found = _judge_ctc(exp_dir, valid_dir, texts)
    else:
        found = _judge_accuracy(config, epochs, texts)
    rate = highest_rate(epochs)
    errors, least = found["value"], found["constant"]
    if found["measure"] == "acc":
        errors, least = 100 - errors, 100 - least
    learnt = errors < least
    enough = learnt and errors <= LITTLE * least
    why = [] if enough else causes(config, epochs, train_dir, rate)
    return Verdict(
        learnt=learnt,
        updates=sum(epoch["applied"] for epoch in epochs),
        rate=rate,
        slope=last_slope(epochs),
        causes=[[doubt.text, doubt.option] for doubt in why],
        **found,
    )


def _judge_ctc(exp_dir: Path, valid_dir: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Decode a part of the validation set by greedy CTC, and compare."""
    import kaldialign

    references, said, used, densest = [], [], set(), 0.0
    for reference, tokens, text, density in _greedy(exp_dir, valid_dir):
        references.append(reference)
        said.append(text if tokens else "")
        used |= set(tokens)
        densest = max(densest, density)
    errors = sum(
        kaldialign.edit_distance(list(ref), list(hyp))["total"]
        for ref, hyp in zip(references, said, strict=True)
    )
    constant_text, constant = best_constant(references, texts)
    return {
        "measure": "cer",
        "value": 100 * errors / max(sum(map(len, references)), 1),
        "constant": constant,
        "constant_text": constant_text,
        "utterances": len(references),
        "empty": sum(not text for text in said),
        "tokens": len(used),
        "tokens_a_frame": densest,
    }


def _greedy(exp_dir: Path, valid_dir: Path) -> Iterator[tuple[str, list[int], str, float]]:
    """Yield what is said and found in utterances spread over a set.

    That is reference, tokens, their text, and the reference's tokens for a frame of the encoder; of
    one that is too short for that 0.
    """
    import torch
    from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

    from espnet_spike.inference.ctc import best_path
    from espnet_spike.tasks.loading import load_model

    trained = load_model(exp_dir)
    feats, texts = read_table(valid_dir / "feats.scp"), read_table(valid_dir / "text")
    names = [utt for utt in feats if texts.get(utt)]
    count = min(len(names), UTTERANCES)
    names = [names[len(names) * place // count] for place in range(count)]
    start = time.monotonic()
    with ArkReader() as reader, torch.no_grad():
        for number, utt in enumerate(names):
            if number >= 10 and time.monotonic() - start > MOST_SECONDS:
                return
            speech = torch.from_numpy(reader.read(utt, feats[utt]).copy())[None].float()
            lengths = torch.tensor([speech.shape[1]])
            try:
                output, _ = trained.model.encode(speech, lengths)
            except TooShortUttError:
                yield texts[utt], [], "", 0.0
                continue
            output = output[0] if isinstance(output, tuple) else output
            tokens = best_path(trained.model.ctc.log_softmax(output)[0].numpy())
            density = len(trained.to_tokens(texts[utt])) / output.shape[1]
            yield texts[utt], tokens, trained.to_text(tokens), density


def _judge_accuracy(
    config: Mapping[str, Any], epochs: Epochs, texts: Sequence[str]
) -> dict[str, Any]:
    """Compare the accuracy of a decoder without CTC with that of its most frequent letter."""
    letters = Counter("".join(texts))
    letter, count = letters.most_common(1)[0]
    values = [epoch["valid"].get("acc") for epoch in epochs]
    return {
        "measure": "acc",
        "value": 100 * max((value for value in values if value is not None), default=0.0),
        "constant": 100 * count / letters.total(),
        "constant_text": letter,
        "utterances": 0,
        "empty": None,
        "tokens": None,
        "tokens_a_frame": None,
    }
