"""ESPnet's ASR inference with this package's encoders, run after run in one process.

Importing ESPnet takes several seconds, so one process decodes its share of every test set.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

import espnet_spike.task  # noqa: F401  registers encoders and models
from espnet_spike.data.ark import FeatureTable
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.inference.batches import DONE, PARENT, PROGRESS
from espnet_spike.inference.speech2text import Speech2Text, too_short_result
from espnet_spike.tasks.arguments import check_search, parse_espnet
from espnet_spike.tasks.espnet import asr_inference
from espnet_spike.utils.cli import Parser
from espnet_spike.utils.files import write_json


class MeteredSpeech2Text(Speech2Text):
    """``Speech2Text`` that tells how long it takes.

    Attributes:
        progress: file that gets a line "utterances seconds" for every batch, or None.
        execution: how the encoder of an instance made from now on runs.
        instance: the one that was made last.
    """

    execution = SpikeOptions()
    progress: Path | None = None
    instance: "MeteredSpeech2Text | None" = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self.asr_model
        self.execution.apply(model.encoder)
        self.utterances = 0
        self.seconds = 0.0
        self._nested = False
        MeteredSpeech2Text.instance = self

    def __call__(self, speech: Any) -> Any:
        """Decode one utterance; see `Speech2Text`."""
        with self._metered(1):
            return super().__call__(speech)

    def batch_decode(self, speech: Any, speech_lengths: Any = None) -> Any:
        """Decode a batch; see `Speech2Text`."""
        with self._metered(len(speech)):
            return super().batch_decode(speech, speech_lengths)

    @contextlib.contextmanager
    def _metered(self, utterances: int) -> Iterator[None]:
        if self._nested:  # one decodes by the other when a batch does not fit
            yield
            return
        self._nested = True
        start = time.perf_counter()
        try:
            yield
        except TooShortUttError:
            if utterances > 1:  # ESPnet tries them again, one at a time
                utterances = 0
            raise
        finally:
            self._nested = False
            seconds = time.perf_counter() - start
            _stop_without_parent()
            self.utterances += utterances
            self.seconds += seconds
            if self.progress is not None:
                with self.progress.open("a") as file:
                    file.write(f"{utterances} {seconds:.6f}\n")


def get_run_parser() -> argparse.ArgumentParser:
    """Return the parser of our own options of a run; the others are ESPnet's."""
    parser = Parser(add_help=False)
    parser.add_argument("--log_file", type=Path, help="send the output of this run there")
    SpikeOptions.add_arguments(parser)
    parser.add_argument("--fingerprint", help="what identifies the run, copied to done.json")
    return parser


def infer(words: Sequence[str]) -> None:
    """Decode one set as ``espnet2.bin.asr_inference`` does.

    Besides ESPnet's files the output folder gets ``progress``, a line a batch, and at the end
    ``done.json``: times, utterances, parameters and every option as ESPnet understood it.

    Args:
        words: ESPnet's options and those of `get_run_parser`.

    Raises:
        UserError: an unknown option or configuration key, no features, or parameters of another
            model.
    """
    own, rest = get_run_parser().parse_known_args(words)
    if own.log_file is not None:
        _send_output_to(own.log_file)
    _stop_without_parent()
    options = vars(parse_espnet(asr_inference, {}, rest))
    options.pop("config")
    check_search(options)
    for path, name, kind in options["data_path_and_name_and_type"]:
        if (name, kind) != ("speech", "kaldi_ark"):
            raise UserError(
                f"--data_path_and_name_and_type {path},{name},{kind}: not read here",
                "give features: feats.scp,speech,kaldi_ark",
            )
        table = FeatureTable(path)
        for utt in table:  # ESPnet's reader does not know whose features are damaged
            table[utt]
    output_dir = Path(options["output_dir"])
    output_dir.mkdir(parents=True, exist_ok=True)
    MeteredSpeech2Text.execution = SpikeOptions.from_options(own)
    MeteredSpeech2Text.instance = None  # frees the model of the run before
    MeteredSpeech2Text.progress = output_dir / PROGRESS
    MeteredSpeech2Text.progress.write_text("")
    start = time.perf_counter()
    before = asr_inference.Speech2Text, asr_inference._too_short_result
    # the names that inference() looks up
    asr_inference.Speech2Text = MeteredSpeech2Text
    asr_inference._too_short_result = too_short_result
    try:
        asr_inference.inference(**options)
    finally:
        asr_inference.Speech2Text, asr_inference._too_short_result = before
        MeteredSpeech2Text.progress = None
    speech2text: Any = MeteredSpeech2Text.instance  # made by inference()
    report = {
        "fingerprint": own.fingerprint,
        "utterances": speech2text.utterances,
        "decode_seconds": speech2text.seconds,
        "total_seconds": time.perf_counter() - start,
        "parameters": sum(p.numel() for p in speech2text.asr_model.parameters()),
        "threads": torch.get_num_threads(),
        "options": options,
    }
    write_json(output_dir / DONE, report, default=str)


def _stop_without_parent() -> None:
    """Leave when the decode command that started this process has been killed."""
    if PARENT in os.environ and os.getppid() != int(os.environ[PARENT]):
        sys.exit("the parent process exited")


def _send_output_to(log_file: Path) -> None:
    """From now on write standard output and error, and those of children, to a file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
