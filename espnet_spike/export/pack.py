"""Pack a trained model into one file with ``espnet2.bin.pack`` and prove that it loads.

ESPnet stores files by their path, absolute when they lie outside the working directory. So all
that decoding needs is first laid out in a folder of its own, and packed from there: the archive
knows nothing of the machine that made it.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from espnet_spike.data.fbank import load_config
from espnet_spike.data.feature_extractor import FEATURES, FeatureExtractor
from espnet_spike.data.tokens import read_token_list
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.experiment import VERDICT, model_file, read_config
from espnet_spike.inference.decode import Settings, search_options
from espnet_spike.results.experiments import RESULTS
from espnet_spike.tasks.loading import unpack_pack
from espnet_spike.utils.archives import deflate, write_sums
from espnet_spike.utils.cli import quiet
from espnet_spike.utils.files import fitting_name, present, write_lines
from espnet_spike.utils.jobs import terminated_is_interrupted
from espnet_spike.utils.locks import alone
from espnet_spike.utils.provenance import environment
from espnet_spike.utils.yaml import write_config

# what a configuration says about the training data and the machine; decoding asks for none of it
TRAINING_ONLY: dict[str, Any] = {
    "train_data_path_and_name_and_type": [],
    "valid_data_path_and_name_and_type": [],
    "train_shape_file": [],
    "valid_shape_file": [],
    "init_param": [],
    "fold_length": [],
    "output_dir": None,
    "config": None,
    "rir_scp": None,
    "noise_scp": None,
    "dist_init_method": "env://",
}
# of the synthetic utterance that original and copy have to decode alike
CHECK_FRAMES = 200
CHECK_SAMPLES = 32000  # of audio


@dataclass(frozen=True)
class Contents:
    """What goes into a pack.

    Attributes:
        asr_exp: experiment folder.
        lm_exp: folder of the language model, or None.
        settings: of the beam search.
        fbank_config: YAML of the features, or None when they came from elsewhere.
        fs: sampling rate of the audio in Hz, or None when it is not known.
        token_list: ``tokens.txt``, or None; the model's configuration holds the tokens anyway.
    """

    asr_exp: Path
    lm_exp: Path | None
    settings: Settings
    fbank_config: Path | None = None
    fs: int | None = None
    token_list: Path | None = None


def check_name(out: Path) -> None:
    """Check the name of an archive to write.

    Raises:
        UserError: its ending says no kind of archive.
    """
    if not out.name.endswith((".zip", ".tar", ".tgz", ".tar.gz")):
        raise UserError(f"{out}: unknown kind of archive", "end the name with .zip or .tgz")


def pack(contents: Contents, out: Path) -> None:
    """Write the pack and check it.

    Args:
        contents: what to pack.
        out: the archive; its ending (``.zip``, ``.tgz``) says which kind.

    Raises:
        UserError: a file is missing, or the pack does not decode as the original does.
    """
    check_name(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _staging(out) as folder:
        options = stage(contents, folder / "pack", out.name)
        command = [sys.executable, "-m", "espnet2.bin.pack", "asr", *options]
        archive = folder / out.name
        run = subprocess.run(
            [*command, "--outpath", str(archive)],
            cwd=folder / "pack",
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise UserError(f"espnet2.bin.pack failed:\n{run.stderr.strip()}")
        if out.suffix == ".zip":
            deflate(archive)
        # ESPnet prints both models at length, and warns of noise that reaches the longest output
        with quiet(logging.WARNING):
            check(contents, archive, folder / "check")
        os.replace(archive, out)


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside a file to be made, which is gone afterwards.

    What a killed process left of it goes first. One process at a time makes the file.
    """
    folder = out.with_name(f".{out.name}.packing").resolve()
    with terminated_is_interrupted(), alone(out.with_name(f".{out.name}.lock"), "pack"):
        for left in (folder, *out.parent.glob(".pack????????")):  # the second of former versions
            shutil.rmtree(left, ignore_errors=True)
        try:
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def stage(contents: Contents, folder: Path, archive: str) -> list[str]:
    """Lay the files out as they will lie in the archive; return the options of ESPnet's pack.

    Args:
        contents: what to pack.
        folder: where to lay it out.
        archive: name of the archive, for the README.
    """
    asr = Path("exp") / contents.asr_exp.resolve().name
    options = _stage_model(contents.asr_exp, contents.settings.asr_model, asr, folder, "asr")
    if contents.lm_exp is not None:
        lm = Path("exp") / contents.lm_exp.resolve().name
        options += _stage_model(contents.lm_exp, contents.settings.lm, lm, folder, "lm")
    write_config(folder / asr / "inference.yaml", search_options(contents.settings))
    extra = ["README.md", str(asr / "inference.yaml")]
    copies = {
        contents.asr_exp / RESULTS: asr / RESULTS,
        contents.asr_exp / FEATURES: asr / FEATURES,
        contents.asr_exp / VERDICT: asr / VERDICT,
        contents.asr_exp.parent / "RESULTS.md": Path("exp") / "RESULTS.md",
        contents.token_list: asr / "tokens.txt",
        contents.fbank_config: asr / "fbank.yaml",
    }
    known = FeatureExtractor.read(contents.asr_exp)  # says what is wrong with it
    if contents.fbank_config is not None:
        load_config(contents.fbank_config)
    if known is not None:
        known.check_given(contents.asr_exp, contents.fbank_config, contents.fs)
    if contents.token_list is not None:
        read_token_list(contents.token_list)
    for source, target in copies.items():
        if source is not None and present(source):
            _place(source, folder / target)
            extra.append(str(target))
    write_lines(folder / "README.md", readme(contents, asr, archive))
    extra.append(write_sums(folder).name)
    for path in extra:
        options += ["--option", path]
    return options


def _stage_model(exp: Path, name: str | None, target: Path, folder: Path, kind: str) -> list[str]:
    source = model_file(exp, name)
    _place(source, folder / target / source.name)
    files: dict[Path, Path] = {}
    config = portable_config(read_config(exp), target, files)
    write_config(folder / target / "config.yaml", config)
    options = [f"--{kind}_train_config", str(target / "config.yaml")]
    options += ["--asr_model_file" if kind == "asr" else "--lm_file", str(target / source.name)]
    for original, copy in files.items():
        _place(original, folder / copy)
        options += ["--option", str(copy)]
    return options


def portable_config(
    config: Mapping[str, Any], target: Path, files: dict[Path, Path]
) -> dict[str, Any]:
    """Return a training configuration that refers to files of the archive only.

    Args:
        config: content of ``config.yaml``.
        target: the folder in the archive.
        files: gets original -> place in the archive for every file the configuration refers to.
    """

    def rewrite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: rewrite(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [rewrite(item) for item in value]
        if isinstance(value, str) and os.path.isfile(value):
            taken = {copy for original, copy in files.items() if original != Path(value)}
            copy = target / Path(value).name
            while copy in taken:
                copy = copy.with_name(fitting_name(f"_{copy.stem}", copy.suffix))
            files[Path(value)] = copy
            return str(copy)
        return value

    kept = {key: value for key, value in config.items() if key not in TRAINING_ONLY}
    tokens = kept.pop("token_list", None)  # a token may look like a path
    changed = {key: value for key, value in TRAINING_ONLY.items() if key in config}
    return rewrite(kept) | changed | ({"token_list": tokens} if tokens is not None else {})


def _place(source: Path, target: Path) -> None:
    """Link or copy a file; ESPnet's pack follows symbolic links out of the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def readme(contents: Contents, asr: Path, archive: str) -> list[str]:
    """Return the lines of the README: what this is, and how to load and use it."""
    config = read_config(contents.asr_exp)
    lines = [
        f"# {asr.name}",
        "",
        f"A speech recognition model of espnet_spike: ESPnet with the encoder "
        f"`{config['encoder']}`. Needs `espnet_spike` "
        f"{environment()['espnet_spike']} and ESPnet {environment()['espnet']}; no network.",
        "",
        "```python",
        "from pathlib import Path",
        "",
        "import yaml",
        "from espnet2.bin.asr_inference import Speech2Text",
        "",
        "import espnet_spike.task  # makes the encoder known to ESPnet; without it loading fails",
        "from espnet_spike import unpack_pack",
        "",
        f'files = unpack_pack("{archive}", "unpacked")',
        'folder = Path(files["asr_train_config"]).parent',
        'search = yaml.safe_load((folder / "inference.yaml").read_text())',
        "speech2text = Speech2Text(**files, **search)",
    ]
    if (execution := contents.settings.execution) != SpikeOptions():
        lines += [
            "",
            "from espnet_spike import SpikeOptions",
            "",
            f"{execution}.apply(speech2text.asr_model.encoder)",
        ]
    if raw := config["input_size"] is None:
        lines += ["", "# the model has a front end of its own and takes audio"]
    if contents.fbank_config is not None or raw:
        rate = f"{contents.fs} Hz" if contents.fs else "the rate of the training audio"
        lines += [
            "",
            "import soundfile",
            "from espnet_spike import FeatureExtractor",
            "",
            f'wave, rate = soundfile.read("speech.wav", dtype="int16")  # mono, {rate}',
        ]
        lines += [f"assert rate == {contents.fs}"] if contents.fs else []
        lines += [
            "extract = FeatureExtractor.find(folder, fs=rate)",
            'features = extract(wave.astype("float32"))  # '
            + ("samples in [-1, 1)" if raw else "(frames, bins)"),
        ]
    else:
        lines += [
            "",
            f"# features as the model was trained on: float32, (frames, {config['input_size']})",
        ]
    if config["encoder_conf"].get("interctc_layer_idx"):
        lines += ["# with what greedy CTC finds after blocks that have a loss of their own"]
        lines += ["results, after_blocks = speech2text(features)"]
    else:
        lines += ["results = speech2text(features)"]
    lines += ["text, tokens, ids, hypothesis = results[0]", "print(text)", "```", ""]
    lines += [
        f"`{asr}/inference.yaml` holds the beam search; `{asr}/{RESULTS}` and `exp/RESULTS.md`, "
        "where they are given, what the model reaches and how it was made.",
    ]
    return lines


def check(contents: Contents, archive: Path, folder: Path) -> None:
    """Unpack the archive elsewhere and decode one synthetic utterance with original and copy.

    Raises:
        UserError: the copy does not load, or its hypothesis or score differs.
    """
    import numpy as np

    import espnet_spike.task  # noqa: F401  registers the encoders
    from espnet_spike.inference.speech2text import n_best
    from espnet_spike.tasks.espnet import asr_inference

    settings = contents.settings
    original = {
        "asr_train_config": str(contents.asr_exp / "config.yaml"),
        "asr_model_file": str(model_file(contents.asr_exp, settings.asr_model)),
    }
    if contents.lm_exp is not None:
        original["lm_train_config"] = str(contents.lm_exp / "config.yaml")
        original["lm_file"] = str(model_file(contents.lm_exp, settings.lm))
    search = search_options(settings) | {"beam_size": 2, "maxlenratio": -10.0, "minlenratio": 0.0}
    dimensions = read_config(contents.asr_exp)["input_size"]
    size = CHECK_SAMPLES if dimensions is None else (CHECK_FRAMES, dimensions)
    speech = np.random.default_rng(0).normal(size=size).astype(np.float32)
    expected: Any = n_best(asr_inference.Speech2Text(**original, **search)(speech))[0]
    folder.mkdir()
    with contextlib.chdir(folder):  # paths of this working directory lead nowhere there
        try:
            files = unpack_pack(archive, "unpacked")
            found: Any = n_best(asr_inference.Speech2Text(**files, **search)(speech))[0]
        except (OSError, RuntimeError, TypeError, KeyError, yaml.YAMLError) as error:
            raise UserError(f"the pack does not load: {type(error).__name__}: {error}") from error
    if expected[2] != found[2] or float(expected[3].score) != float(found[3].score):
        raise UserError(
            f"the pack decodes otherwise than {contents.asr_exp}: {found[0]!r} with score "
            f"{float(found[3].score)}, not {expected[0]!r} with {float(expected[3].score)}"
        )
