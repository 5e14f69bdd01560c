"""Measure how long an update takes here, by a few of them."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from espnet_spike.advice.measure import FRAME_RATE, Measured
from espnet_spike.utils.cli import quiet

MOST_SECONDS = 60.0  # of a trial; a large model does fewer updates in it


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        parameters: of the model.
        cost: seconds of training for a second of speech.
        processor: seconds of processor time, of all cores, for a second of speech.
        updates: that it was measured by.
    """

    parameters: int
    cost: float
    processor: float
    updates: int


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
    with quiet(logging.WARNING), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SpikeASRTask.build_model(args)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        begun, seconds, processor, heard, done = time.perf_counter(), 0.0, 0.0, 0.0, 0
        while done <= updates and (done < 2 or time.perf_counter() - begun < MOST_SECONDS):
            # ESPnet's batches hold utterances of like length
            length = measured.lengths[(4 * done) % len(measured.lengths)]
            batch = _noise(measured, length, batch_seconds, len(args.token_list))
            start, used = time.perf_counter(), time.process_time()
            optimizer.zero_grad()
            model(**batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            if done:  # the first compiles
                seconds += time.perf_counter() - start
                processor += time.process_time() - used
                heard += len(batch["speech"]) * length
            done += 1
    size = sum(p.numel() for p in model.parameters())
    return Trial(size, seconds / heard, processor / heard, done - 1)


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
