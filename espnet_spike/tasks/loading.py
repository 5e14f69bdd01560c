"""A trained model with what makes a text of its tokens, from an experiment folder or a pack."""

import argparse
import contextlib
import copy
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.errors import UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: an ``ESPnetASRModel`` in evaluation mode, on the CPU.
        options: what it was trained with.
        to_text: makes a text of token numbers.
    """

    model: "nn.Module"
    options: Namespace
    to_text: Callable[[Sequence[int]], str]


def load(asr_exp: Path, model_file: Path) -> Trained:
    """Load a model of an experiment.

    Args:
        asr_exp: its folder; files that its configuration names are looked up as in training.
        model_file: parameters.

    Raises:
        UserError: no trained model.
    """
    from espnet2.text.build_tokenizer import build_tokenizer
    from espnet2.text.token_id_converter import TokenIDConverter

    from espnet_spike.experiment import read_config

    options = Namespace(**read_config(asr_exp))
    model = build(options, model_file).eval()
    tokenizer = build_tokenizer(token_type=options.token_type, bpemodel=options.bpemodel)
    converter = TokenIDConverter(options.token_list)
    return Trained(
        model, options, lambda ids: tokenizer.tokens2text(converter.ids2tokens(list(ids)))
    )


def unpack(archive: Path, folder: Path) -> tuple[dict[str, str], Path]:
    """Unpack a packed model; return ESPnet's options and the folder with its files.

    Raises:
        UserError: it is no packed model.
    """
    from espnet2.main_funcs import pack_funcs

    try:
        files = pack_funcs.unpack(archive, folder)
    except (OSError, RuntimeError, KeyError, ValueError, BadZipFile, TarError) as error:
        raise UserError(f"{archive}: no packed model: {error}", "stage 15 makes one") from error
    return files, Path(files["asr_train_config"]).parent


@contextlib.contextmanager
def model_files(model: Path, name: str | None = None) -> Iterator[tuple[Path, Path]]:
    """Yield the experiment folder and the model file of an experiment, or of a pack of it.

    Args:
        model: experiment folder ``exp/asr_...``, or a pack.
        name: a model file of the folder; the best if None.

    Raises:
        UserError: it is neither.
    """
    from espnet_spike.experiment import model_file

    if model.is_file():
        with tempfile.TemporaryDirectory(prefix="pack") as folder:
            files, exp = unpack(model, Path(folder))
            yield exp, Path(files["asr_model_file"])
    elif (model / "config.yaml").is_file():
        yield model, model_file(model, name)
    else:
        raise UserError(
            f"{model}: no model", "give an experiment folder (exp/asr_...) or its pack.zip"
        )


@torch.no_grad()
def encoder_inputs(
    model: nn.Module, data: Path, utterances: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what the encoder gets for each utterance, or the first: ``(1, F, D)`` and lengths."""
    feats = FeatureDir.read(data).feats
    with ArkReader() as reader:
        for utt in list(feats)[:utterances]:
            speech = torch.from_numpy(reader.read(utt, feats[utt]).copy())[None].float()
            lengths = torch.tensor([speech.shape[1]])
            if model.normalize is not None:
                speech, lengths = model.normalize(speech, lengths)
            if model.encoder.output_lengths(lengths).item() > 0:
                yield speech, lengths


def build(args: argparse.Namespace, model_file: Path, strict: bool = True) -> torch.nn.Module:
    """Build a model and load its parameters, on the CPU."""
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.utils.cli import quiet

    with quiet():
        model = SpikeASRTask.build_model(copy.deepcopy(args))
    state = torch.load(model_file, map_location="cpu", weights_only=True)
    missing, unexpected = model.load_state_dict(state, strict=strict)
    # a threshold is all that a dense model may lack
    if unexpected or any(not key.endswith(".fixed_T") for key in missing):
        raise UserError(f"{model_file} is not of this model: {(unexpected + missing)[0]}")
    return model
