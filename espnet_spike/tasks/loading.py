"""A trained model, from an experiment folder, a pack of it or one of its model files."""

import argparse
import contextlib
import copy
import functools
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.tokens import read_bpe_model, spoken
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.experiment import check_files, experiment_of, model_file, read_config
from espnet_spike.tasks.output_length import OutputLength
from espnet_spike.utils.archives import check_sums, unpack
from espnet_spike.utils.cli import quiet
from espnet_spike.utils.files import present
from espnet_spike.utils.resources import pretrained
from espnet_spike.utils.yaml import read_yaml, write_config

META = "meta.yaml"  # of a pack: which file is which


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        model: an ``ESPnetASRModel`` in evaluation mode, on the CPU.
        options: what it was trained with.
        checkpoint: the file of its parameters.
        to_text: makes a text of token numbers.
        to_tokens: makes token numbers of a text.
    """

    model: Any
    options: Namespace
    checkpoint: Path
    to_text: Callable[[Sequence[int]], str]
    to_tokens: Callable[[str], list[int]]


@dataclass(frozen=True)
class ModelFolder:
    """Where a trained model lies.

    Attributes:
        path: the experiment folder, or what was unpacked.
        packed: of a pack, its files under the names of ESPnet's options.
        chosen: the model file that was asked for by its path.
    """

    path: Path
    packed: Mapping[str, str] = field(default_factory=dict)
    chosen: Path | None = None

    def resolved(self) -> "ModelFolder":
        """Return the same with absolute paths, which hold in any working directory."""
        chosen = None if self.chosen is None else self.chosen.resolve()
        return replace(self, path=self.path.resolve(), chosen=chosen)

    def checkpoint(self, name: str | None = None) -> Path:
        """Return the model file: the one named, or the only one there is to take, or the best.

        Raises:
            UserError: there is none of that name.
        """
        only = Path(self.packed["asr_model_file"]) if self.packed else self.chosen
        if only is None:
            return model_file(self.path, name)
        if name not in (None, only.name):
            raise UserError(f"no model file {name}: {only.name} is what was given")
        return only

    def files(self, name: str | None = None) -> dict[str, str]:
        """Return the files under the names of ESPnet's options, see ``checkpoint``."""
        if self.packed:
            return dict(self.packed)
        own = {
            "asr_train_config": self.path / "config.yaml",
            "asr_model_file": self.checkpoint(name),
        }
        return {key: str(path) for key, path in own.items()}


@contextlib.contextmanager
def open_model(model: Path) -> Iterator[ModelFolder]:
    """Yield the folder of a trained model; a pack is unpacked within the context.

    Args:
        model: experiment folder ``exp/asr_...``, a pack of it, a model file (``.pth``) in it, or
            the name of a model that comes with the package. A path that is there goes first.

    Raises:
        UserError: it is nothing of the kind.
    """
    shipped = pretrained()
    if not model.exists() and str(model) in shipped:
        model = shipped[str(model)]
    exp = experiment_of(model)
    if model.is_file() and model.suffix == ".pth" and present(exp / "config.yaml"):
        yield ModelFolder(exp, chosen=model)
    elif model.is_file():
        with tempfile.TemporaryDirectory(prefix="pack") as folder:
            place = Path(folder) / "pack"
            try:
                files = unpack_pack(model, place)
                yield ModelFolder(Path(files["asr_train_config"]).parent, files)
            except UserError as error:  # of a file in it: that folder is gone when this is read
                message, hint = (
                    text.replace(str(place), str(model)) for text in (error.message, error.hint)
                )
                raise UserError(message, hint) from error
    elif present(model / "config.yaml"):
        yield ModelFolder(model)
    else:
        nearest = "" if model.exists() else did_you_mean(str(model), shipped)
        raise UserError(
            f"{model}: no trained model{nearest}",
            "give an experiment folder (exp/asr_...), its pack.zip, or a model that comes with the "
            f"package: {', '.join(shipped)}",
        )


def unpack_pack(archive: Path | str, folder: Path | str) -> dict[str, str]:
    """Unpack a model that ``espnet2.bin.pack`` packed, into a new folder.

    Its YAML files are written anew: what names a file of the pack names the unpacked one.

    Args:
        archive: the pack, tar or zip.
        folder: must not exist; appears when all is unpacked.

    Returns:
        The files under the names of options of ESPnet's ``Speech2Text``.

    Raises:
        UserError: it is no pack, is damaged, or refers to files outside of itself.
    """
    archive, folder = Path(archive), Path(folder)
    no_pack = f"{archive}: no packed model"
    try:
        found = {str(path) for path in unpack(archive, folder)}
    except UserError as error:
        raise UserError(f"{no_pack}: {error.message}", error.hint) from error
    try:
        metas = [name for name in sorted(found) if Path(name).name == META]
        if not metas:
            raise UserError(f"{no_pack}: it holds no {META}", "stage 15 makes one")
        place = folder / min(metas, key=lambda name: (name.count("/"), name))
        try:
            check_sums(place.parent, [META])
        except UserError as error:
            raise UserError(f"{archive}: {error.message}", error.hint) from error
        meta = read_yaml(place)
        yamls, others = meta.get("yaml_files"), meta.get("files")
        if not (isinstance(yamls, dict) and isinstance(others, dict)):
            raise UserError(f"{no_pack}: {META} names no files", "stage 15 makes one")
        files: dict[str, str] = {}
        for option, name in (*yamls.items(), *others.items()):
            inside = os.path.normpath(name) if isinstance(name, str) else ""
            if inside not in found:
                raise UserError(
                    f"{no_pack}: {option} is {name!r}, which is not in it",
                    "pack it again, from the folder that its paths begin at",
                )
            files[str(option)] = str(folder / inside)
        if not {"asr_train_config", "asr_model_file"} <= files.keys():
            raise UserError(f"{no_pack}: it holds no ASR model", "stage 15 makes one")
        if ("lm_train_config" in files) != ("lm_file" in files):
            raise UserError(f"{no_pack}: it holds half a language model", "stage 15 makes one")
        places = {name: str(folder / name) for name in found}
        for option in yamls:
            path = Path(files[str(option)])
            write_config(path, _moved(read_yaml(path), places))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return files


def _moved(value: Any, places: Mapping[str, str]) -> Any:
    """Put the places of files for their names, anywhere in a configuration."""
    if isinstance(value, dict):
        return {key: _moved(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, places) for item in value]
    if isinstance(value, str):
        return places.get(os.path.normpath(value), value) if value else value
    return value


def load_model(
    model: Path | ModelFolder,
    checkpoint: str | None = None,
    spike_options: SpikeOptions | None = None,
) -> Trained:
    """Load a trained model.

    Args:
        model: see ``open_model``, or what that yields. Files that the configuration of an
            experiment names are looked up as in training: from the folder of the recipe.
        checkpoint: name of a model file of the experiment; the best if None.
        spike_options: how the encoder runs; None for as it was trained.

    Raises:
        UserError: no trained model, parameters of another one, or it cannot run so.
    """
    if isinstance(model, Path):
        with open_model(model) as folder:
            return load_model(folder, checkpoint, spike_options)
    options = Namespace(**read_config(model.path))
    file = model.checkpoint(checkpoint)
    network = build(options, file).eval()
    (spike_options or SpikeOptions()).apply(network.encoder)

    @functools.cache
    def tokens() -> tuple:
        from espnet2.text.build_tokenizer import build_tokenizer
        from espnet2.text.token_id_converter import TokenIDConverter

        if options.token_type == "bpe":
            if options.bpemodel:
                check_files({"bpemodel": options.bpemodel}, model.path / "config.yaml")
            read_bpe_model(Path(options.bpemodel or ""))  # says what is wrong with it
        tokenizer = build_tokenizer(token_type=options.token_type, bpemodel=options.bpemodel)
        return tokenizer, TokenIDConverter(options.token_list)

    def to_text(ids: Sequence[int]) -> str:
        tokenizer, converter = tokens()
        return tokenizer.tokens2text(converter.ids2tokens(spoken(ids, converter.token_list)))

    def to_tokens(text: str) -> list[int]:
        tokenizer, converter = tokens()
        return converter.tokens2ids(tokenizer.text2tokens(text))

    if model.packed:
        tokens()[0].text2tokens("")  # reads files that will be gone
    return Trained(network, options, file, to_text, to_tokens)


def build(args: argparse.Namespace, model_file: Path, strict: bool = True) -> Any:
    """Build an ``ESPnetASRModel`` and load its parameters, on the CPU.

    Args:
        args: its configuration.
        model_file: the parameters.
        strict: it must hold every one; otherwise thresholds, all that a dense model lacks, may be
            absent.

    Raises:
        UserError: the parameters are those of another model.
    """
    from espnet_spike.tasks.asr import SpikeASRTask
    from espnet_spike.tasks.espnet import build_filled

    lacking = None if strict else lambda name: name.endswith(".fixed_T")
    with quiet():
        return build_filled(SpikeASRTask, copy.deepcopy(args), model_file, lacking)


@torch.no_grad()
def encoder_inputs(
    model: Any, data: Path, utterances: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what the encoder gets for each utterance, or the first: ``(1, F, D)`` and lengths.

    Utterances that are too short for the encoder are left out.
    """
    feats = FeatureDir.read(data).feats
    output_length: OutputLength | None = None
    with ArkReader() as reader:
        for utt in list(feats)[:utterances]:
            speech = torch.from_numpy(reader.read(utt, feats[utt]).copy())[None].float()
            frames = speech.shape[1]
            lengths = torch.tensor([frames])
            size = speech.shape[2] if speech.dim() == 3 else None
            output_length = output_length or OutputLength(model, lambda: model, size)
            if model.frontend is not None:
                speech, lengths = model.frontend(speech, lengths)
            if model.normalize is not None:
                speech, lengths = model.normalize(speech, lengths)
            if output_length(frames) > 0:
                yield speech, lengths
