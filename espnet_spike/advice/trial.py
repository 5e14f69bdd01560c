"""Measure how long an update takes here, by a few of them."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from espnet_spike.advice.measure import FRAME_RATE, Measured
from espnet_spike.utils.cli import quiet

MOST_SECONDS = 60.0  # of a trial; a large model does fewer updates in it

STEADY = (
    0.9  # of what updates of like length last, the least of them; below, others want the processor
)


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        parameters: of the model.
        cost: seconds of training for a second of speech, as busy as this machine is.
        free: the same where nothing else wants the processor, see `Clock`.
        updates: that it was measured by.
        load: processes that ran or waited for a core in the minute before; None: not known.
    """

    parameters: int
    cost: float
    free: float
    updates: int
    load: float | None = None


@dataclass
class Clock:
    """Times updates, by the wall and by the processor time of this process.

    Another program makes an update last longer, but takes none of its processor time; threads that
    wait for each other use processor time, but each no more than the update lasts. So an update
    lasts on a free core what is less of both, and the least of all on utterances of one length.

    Attributes:
        wall, processor: of time in seconds, from any moment on.
    """

    wall: Callable[[], float] = time.perf_counter
    processor: Callable[[], float] = time.process_time
    _seconds: float = 0.0
    _heard: float = 0.0
    _rounds: dict[float, list[tuple[float, float]]] = field(default_factory=dict)

    def start(self) -> tuple[float, float]:
        """Return what `stop` takes."""
        return self.wall(), self.processor()

    def stop(self, started: tuple[float, float], length: float, speech: float) -> None:
        """Note an update.

        Args:
            started: when it began.
            length: of its utterances in seconds.
            speech: seconds in it.
        """
        wall, used = self.wall() - started[0], self.processor() - started[1]
        self._seconds += wall
        self._heard += speech
        self._rounds.setdefault(length, []).append((min(wall, used), speech))

    @property
    def updates(self) -> int:
        """How many were noted."""
        return sum(len(found) for found in self._rounds.values())

    @property
    def cost(self) -> float:
        """Seconds for a second of speech, by the wall."""
        return self._seconds / self._heard

    @property
    def free(self) -> float:
        """Seconds for a second of speech on a free core."""
        least = sum(
            min(seconds for seconds, _ in found) * len(found) for found in self._rounds.values()
        )
        return least / self._heard


def count_parameters(config: Mapping[str, Any], measured: Measured) -> int:
    """Return the parameters of the model that a configuration describes, without building it.

    Raises:
        UserError: a mistake in the configuration.
    """
    _, model = _checked(config, measured)
    return sum(p.numel() for p in model.parameters())


def run_trial(
    config: Mapping[str, Any], measured: Measured, batch_seconds: float, updates: int = 20
) -> Trial:
    """Train on noise of the lengths and the dimension of the data.

    Args:
        config: content of the YAML, with ``spike_meta``.
        measured: the data.
        batch_seconds: of speech in a batch.
        updates: that are timed, fewer where they take more than a minute; one before them is not.

    Raises:
        UserError: a mistake in the configuration.
    """
    import torch

    from espnet_spike.tasks.asr import SpikeASRTask

    args, _ = _checked(config, measured)
    if args.normalize == "global_mvn":  # its file of statistics is made later
        args.normalize, args.normalize_conf = None, {}
    load, threads = _load(), torch.get_num_threads()
    with quiet(logging.WARNING), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SpikeASRTask.build_model(args)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)

        def update(length: float) -> float:
            batch = _noise(measured, length, batch_seconds, len(args.token_list))
            optimizer.zero_grad()
            model(**batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            return len(batch["speech"]) * length

        clock = time_updates(update, measured.lengths, updates)
        free = clock.free
        if threads > 1 and (free < STEADY * clock.cost or (load or 0.0) >= 1.0):
            # threads that wait for one which another program delays use processor time in vain
            torch.set_num_threads(1)
            try:
                free = min(free, time_updates(update, measured.lengths, updates).free)
            finally:
                torch.set_num_threads(threads)
    size = sum(p.numel() for p in model.parameters())
    return Trial(size, clock.cost, free, clock.updates, load)


def time_updates(
    update: Callable[[float], float],
    lengths: Sequence[float],
    updates: int,
    clock: Clock | None = None,
) -> Clock:
    """Return the clock after some updates.

    Args:
        update: makes one on utterances of a length in seconds, and returns the speech in it.
        lengths: that are taken in turn, for ESPnet's batches hold utterances of like length.
        updates: that are timed, fewer where they take more than a minute; one before them, which
            compiles, is not.
        clock: a new one if None.
    """
    clock = clock or Clock()
    begun, done = clock.wall(), 0
    while done <= updates and (done < 2 or clock.wall() - begun < MOST_SECONDS):
        length = lengths[(4 * done) % len(lengths)]
        started = clock.start()
        speech = update(length)
        if done:
            clock.stop(started, length, speech)
        done += 1
    return clock


def _load() -> float | None:
    """Return how many processes ran or waited for a core, the mean of the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _noise(measured: Measured, length: float, batch_seconds: float, tokens: int) -> dict[str, Any]:
    """Return a batch of utterances of one length in seconds."""
    import torch

    frames = max(round(length * FRAME_RATE), 20)
    size = max(round(batch_seconds / length), 1)
    letters = max(min(round(measured.units_a_second * length), frames // 10), 1)
    return {
        "speech": torch.randn(size, frames, measured.dims),
        "speech_lengths": torch.full((size,), frames),
        "text": torch.randint(2, max(tokens - 1, 3), (size, letters)),
        "text_lengths": torch.full((size,), letters),
    }


def _checked(config: Mapping[str, Any], measured: Measured) -> tuple[Any, Any]:
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.config_check import check_training_config

    meta = config["spike_meta"]
    own = {key: value for key, value in config.items() if key != "spike_meta"}
    sizes = {"vocab_size": meta["vocab_size"], "input_size": measured.dims}
    with quiet(logging.WARNING):
        return check_training_config(SpikeASRTask, own, "the planned configuration", **sizes)
