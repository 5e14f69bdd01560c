"""Size a training to its data, to this machine and to a budget of minutes."""

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from espnet_spike.advice.config import training_config
from espnet_spike.advice.measure import Measured
from espnet_spike.advice.plan import (
    FEWEST_UPDATES,
    SIZES,
    Plan,
    Size,
    base_of,
    make_plan,
    size_of,
    trial_seconds,
)
from espnet_spike.advice.spectrum import GIVEN, SAID
from espnet_spike.advice.trial import Trial, count_parameters, run_trial
from espnet_spike.utils.files import plural
from espnet_spike.utils.resources import shipped
from espnet_spike.utils.yaml import read_yaml

FORWARD = 1 / 3  # of the time of an update goes into the forward pass, all that validation does
SHORTEST = 0.5  # of the rule's updates; where a budget leaves less, a smaller model is taken
BUSY = 0.7  # of the time; a training that gets the processor less waits for others
LETTERS = {"bpe": "pieces", "char": "characters", "word": "words"}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sized:
    """A training that fits.

    Attributes:
        plan: of the training.
        config: content of its YAML.
        parameters: of the model.
        trial: how fast it is here; None if that was not measured.
        valid_seconds: of speech in the validation set.
    """

    plan: Plan
    config: dict[str, Any]
    parameters: int
    trial: Trial | None
    valid_seconds: float

    @property
    def minutes(self) -> float | None:
        """Minutes of the whole training, validation included; None if nothing was measured."""
        if self.trial is None:
            return None
        plan = self.plan
        trained = plan.passes * plan.measured.seconds
        return self.trial.cost * (trained + FORWARD * plan.epochs * self.valid_seconds) / 60

    @property
    def share(self) -> float:
        """Share of the processor that a training gets here now; 1 if nothing was measured."""
        return 1.0 if self.trial is None else self.trial.free / self.trial.cost

    def lines(self) -> list[tuple[str, str]]:
        """Return the plan as pairs of what and how much."""
        plan, data = self.plan, self.plan.measured
        unit = LETTERS[plan.token_type]
        rate = "that of the file" if plan.learning_rate is None else f"{plan.learning_rate:g}"
        batch = f"{plan.batch_seconds:.0f} s of speech"
        if plan.accum_grad > 1:
            batch += f", {plural(plan.accum_grad, 'batch', 'batches')} an update"
        model = f"{plan.encoder}, {self.parameters / 1e6:.2f} million parameters"
        model += f", as conf/{plan.base}" if plan.base else f" ({plan.size.name})"
        lines = [
            ("speech", f"{data.hours:.2f} hours, {plural(data.utterances, 'utterance')}"),
            ("speakers", f"{data.speakers}"),
            ("alphabet", f"{plural(data.alphabet, 'letter')}, {plural(data.words, 'word')}"),
            (
                "features",
                f"{data.dims} dims, {data.convention or 'of a kind that is not known'}"
                + (f" ({data.grounds})" if data.grounds else "")
                + (f", {plan.fs} Hz" if plan.fs else ""),
            ),
            ("model", model),
            ("vocabulary", f"{plural(plan.vocabulary, 'token')}, {unit}"),
            ("batch", batch),
            (
                "updates",
                f"{plan.updates}: {plural(plan.epochs, 'epoch')} of {plan.updates_an_epoch}",
            ),
            ("passes over the data", f"{plan.passes:.1f}"),
            ("warm-up", f"{plural(plan.warm_up, 'update')}, to a learning rate of {rate}"),
            (
                "SpecAug",
                "masks of up to "
                + (f"{plural(plan.freq_mask, 'dim')} and " if plan.freq_mask else "")
                + plural(plan.time_mask, "frame"),
            ),
            ("augmentation", self._augmentation()),
        ]
        if self.trial is not None and self.minutes is not None:
            figure = f"{self.minutes:.1f}"
            if self.share < BUSY:
                load = "" if self.trial.load is None else f" (load {self.trial.load:.1f})"
                figure = f"{self.minutes * self.share:.1f} on a free core; now about {figure}, "
                figure += f"since other programs use the processor{load}"
            measured = f"{plural(self.trial.updates, 'update')} of {trial_seconds(plan):.0f} s"
            lines.append(("minutes here", f"{figure}, measured by {measured}"))
        return lines

    def _augmentation(self) -> str:
        """Return what is drawn anew for each utterance, in words."""
        drawn = self.config["model_conf"].get("augment")
        if drawn is None:
            return "that of the file"
        factors = drawn["time_stretch"]["factors"]
        said = f"tempo {min(factors):g} to {max(factors):g}"
        if (tract := drawn.get("vtlp")) is None:
            return f"{said}; no vocal tracts, which need log-mel features or cepstra"
        low, high = tract["alpha"]
        return f"{said}, vocal tract {low:g} to {high:g}"

    def doubts(self, budget: float | None) -> list[str]:
        """Return what speaks against the plan, in sentences.

        Args:
            budget: in minutes.
        """
        found = []
        if self.plan.updates < FEWEST_UPDATES:
            found.append(
                f"{plural(self.plan.updates, 'update')} in all: with under {FEWEST_UPDATES} a "
                "model seldom writes words. Give a larger --budget, train on a GPU, or expect "
                "little"
            )
        elif self.plan.cut < 1:
            found.append(
                f"the budget of {budget:g} minutes leaves {self.plan.cut:.0%} of the updates that "
                "the rule asks for"
            )
        if budget is not None and self.minutes is not None and self.minutes > budget:
            found.append(
                f"this takes {self.minutes:.1f} minutes, more than the budget of {budget:g}: one "
                f"validation has {plural(round(self.valid_seconds), 'second')} of speech, and "
                f"there are {self.plan.epochs}"
            )
        if self.plan.cut < 1 and self.share < BUSY:
            found.append(
                f"this machine is busy with other things, which took {1 - self.share:.0%} of the "
                "time: remove the recipe and make it again when it is free, or give a larger "
                "--budget"
            )
        data = self.plan.measured
        if data.convention is None and data.grounds != SAID:
            found.append(
                f"it is not certain what the features are ({data.grounds}), so frequencies are "
                "neither masked nor warped. If you know it, remove the recipe and make it again "
                f"with --features {' or '.join(GIVEN[:2])}"
            )
        if data.hours < 0.25:
            found.append(
                f"{60 * data.hours:.0f} min of speech are little: known speakers "
                "and sentences may be recognised, others hardly"
            )
        return found


def size_training(
    measured: Measured,
    valid_seconds: float,
    encoder: str = "iml_spikeformer",
    *,
    token_type: str | None = None,
    pieces: int | None = None,
    budget: float | None = None,
    trial_updates: int = 20,
    trial: Callable[[Mapping[str, Any], Measured, float, int], Trial] = run_trial,
) -> Sized:
    """Return the training for some data: that of the rule, or what a budget leaves of it.

    A budget takes updates away; where it would take more than half, a smaller model is tried.

    Args:
        measured: the training set.
        valid_seconds: of speech in the validation set.
        encoder: its name.
        token_type, pieces: as of `make_plan`.
        budget: minutes of training here.
        trial_updates: updates to measure by; 0: nothing is measured, which excludes a budget.
        trial: measures; see `run_trial`.

    Raises:
        UserError: see `make_plan`.
        ValueError: a budget without a trial.
    """
    if budget is not None and not trial_updates:
        raise ValueError("a budget needs a trial")

    def sized(size: Size, most_updates: int | None = None, old: Trial | None = None) -> Sized:
        name = base_of(measured, encoder, size)
        base = None if name is None else read_yaml(shipped(name))
        plan = make_plan(
            measured,
            encoder,
            token_type=token_type,
            pieces=pieces,
            size=size,
            base=base,
            most_updates=most_updates,
        )
        config = training_config(plan, base)
        found = old
        if found is None and trial_updates:
            _logger.info("measuring up to %d updates of %s, about a minute", trial_updates, encoder)
            found = trial(config, measured, trial_seconds(plan), trial_updates)
        parameters = count_parameters(config, measured) if found is None else found.parameters
        return Sized(plan, config, parameters, found, valid_seconds)

    largest = SIZES.index(size_of(measured.hours))
    found = sized(SIZES[largest])
    for number in range(largest, -1, -1):
        if number < largest:
            found = sized(SIZES[number])
        if budget is None or found.minutes is None or found.minutes <= budget:
            return found
        if found.minutes * SHORTEST <= budget or number == 0:
            break
    return _longest(found, budget or 0.0, lambda most: sized(found.plan.size, most, found.trial))


def _longest(found: Sized, budget: float, shorter: Callable[[int], Sized]) -> Sized:
    """Return the longest training that ends within a budget; where none does, the shortest."""
    known = {1: shorter(1)}

    def minutes(most: int) -> float:
        known[most] = shorter(most)
        return known[most].minutes or 0.0

    fitting = bisect_right(range(1, found.plan.updates), budget, key=minutes)
    return known[max(fitting, 1)]
