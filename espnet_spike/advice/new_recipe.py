"""Recipes for one's own data: ``egs/NAME``, ready to run, made from the template."""

import logging
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from espnet_spike.advice.measure import measure
from espnet_spike.advice.plan import BROADBAND, ENCODERS
from espnet_spike.advice.sizing import Sized, size_training
from espnet_spike.corpora.own import import_set
from espnet_spike.corpora.sets import divide
from espnet_spike.data.audio import AudioInfo
from espnet_spike.data.kaldi_dir import DataDir
from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.utils.files import new_folder, plural
from espnet_spike.utils.yaml import write_config

_logger = logging.getLogger(__name__)
TEMPLATE = "TEMPLATE"
SHARE = 0.1  # of the training speakers, when no validation set is given
PERTURBATION = '\n./run.sh --speed_perturb_factors "0.9 1.0 1.1"    # more voices, as many updates'
CHANNEL = "alike"  # of audio with several channels: their mean, unless they differ


@dataclass(frozen=True)
class RecipeRequest:
    """What a recipe is made of.

    Attributes:
        name: of the recipe, and of its folder.
        train: source of the training set, see ``own.import_set``.
        valid: source of the validation set; None takes it from the training set.
        tests: test sets by name.
        token_type: modelling unit; None chooses by the transcripts.
        nbpe: size of the sentencepiece vocabulary; None chooses by the transcripts.
        encoder: name of the encoder.
        budget: minutes of training on this machine; None: as long as the rule asks for.
        trial_updates: updates by which the time of a training is measured; 0: it is not.
        features: what features that come without audio are, one of ``spectrum.GIVEN``; None: seen.
        audio_dir, columns, channel, normalization: how sources are read, see ``own.import_set``.
        valid_from_train: share of the training utterances for validation; 0 is the usual share.
    """

    name: str
    train: Path
    valid: Path | None = None
    tests: Mapping[str, Path] = field(default_factory=dict)
    token_type: str | None = None
    nbpe: int | None = None
    audio_dir: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    channel: str | None = CHANNEL
    normalization: str = "none"
    valid_from_train: float = 0.0
    encoder: str = "iml_spikeformer"
    budget: float | None = None
    trial_updates: int = 20
    features: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name) or self.name == TEMPLATE:
            raise UserError(f"{self.name!r} is no name for a recipe", "letters, digits, - and _")
        if self.encoder not in ENCODERS:
            raise UserError(
                f"--encoder {self.encoder}{did_you_mean(self.encoder, ENCODERS)}",
                f"choose one of {', '.join(ENCODERS)}",
            )
        if self.budget is not None and not self.trial_updates:
            raise UserError(
                "--budget and --trial_updates 0", "what fits into the budget has to be measured"
            )
        for name in self.tests:
            if name in ("train", "dev") or not re.fullmatch(r"\w[\w.-]*", name):
                raise UserError(f"--test {name}=...: choose another name for the set")
        if self.valid and self.valid_from_train:
            raise UserError(
                f"--valid {self.valid} and --valid_from_train {self.valid_from_train:g}",
                "give one of the two: where to take the validation set from",
            )

    @property
    def sets(self) -> dict[str, Path]:
        """Sources by the names of their sets."""
        valid = {"dev": self.valid} if self.valid else {}
        return {"train": self.train, **valid, **self.tests}

    @property
    def share(self) -> float:
        """Share of the training utterances that are taken for validation."""
        return 0.0 if self.valid else self.valid_from_train or SHARE

    @property
    def source_words(self) -> list[str]:
        """Options of ``espnet_spike.corpora.own`` that read the sources again."""
        words: list[str] = []
        for name, source in self.sets.items():
            words += ["--set", f"{name}={source.absolute()}"]
        if self.audio_dir is not None:
            words += ["--audio_dir", str(self.audio_dir.absolute())]
        if self.columns:
            words += ["--columns", *(f"{what}={name}" for what, name in self.columns.items())]
        if self.channel:
            words += ["--channel", self.channel]
        if self.share:
            words += ["--valid_from_train", str(self.share)]
        return [*words, "--normalization", self.normalization]


@dataclass(frozen=True)
class Recipe:
    """A recipe that was made: its folder, and how its training is sized."""

    folder: Path
    sized: Sized


def make_recipe(request: RecipeRequest, template: Path, folder: Path) -> Recipe:
    """Read the sources once, to see that they can be used, then write the recipe.

    Args:
        request: what it is made of.
        template: folder of the files to fill in, ``egs/TEMPLATE``.
        folder: where its own folder is made.

    Raises:
        UserError: it exists, or a source cannot be used.
    """
    target = folder / request.name
    if target.exists():
        raise UserError(f"{target} exists", "choose another name, or remove it")
    headers: dict[str, AudioInfo] = {}
    data = read_sources(request, headers)
    kinds = {"fbank" if tables.wav else "extracted" for tables in data.values()}
    if len(kinds) > 1:
        raise UserError("some sets have audio, others features alone", "they have to be alike")
    if request.share:
        divide(data, "train", "dev", request.share)
    if request.features and "fbank" in kinds:
        raise UserError(
            f"--features {request.features}, but the sets have audio",
            "leave it out: the recipe makes log-mel features itself",
        )
    measured = measure(data["train"], headers, request.features)
    valid = measure(data["dev"], headers, request.features)
    if valid.dims != measured.dims:
        raise UserError(
            f"features have {measured.dims} dims in train, {valid.dims} in dev",
            "they have to be made alike",
        )
    for line in decisions(request, headers):
        _logger.info(line)
    sized = size_training(
        measured,
        valid.seconds,
        request.encoder,
        token_type=request.token_type,
        pieces=request.nbpe,
        budget=request.budget,
        trial_updates=request.trial_updates,
    )
    plan, kind = sized.plan, kinds.pop()
    values = {
        "sources": shlex.join(request.source_words),
        "test_sets": " ".join(request.tests) or "dev",
        "feats_type": kind,
        "fs": str(plan.fs or ""),
        "token_type": plan.token_type,
        "nbpe": str(plan.pieces),
        "normalization": request.normalization,
        "encoder": request.encoder,
        "decode": "decode_asr" if sized.config["model_conf"]["ctc_weight"] < 1 else "decode_ctc",
        "name": request.name,
        # features without audio cannot be played faster
        "perturbation": PERTURBATION if kind == "fbank" else "",
        "summary": "\n".join(
            f"* `{name}`: {plural(len(tables.text), 'utterance')}" for name, tables in data.items()
        ),
        "plan": "\n".join(f"| {what} | {figure} |" for what, figure in sized.lines()),
    }
    with new_folder(target) as staging:
        shutil.copytree(template, staging, dirs_exist_ok=True)
        fill(staging, values)
        write_config(staging / f"conf/train_{request.encoder}_sized.yaml", sized.config)
    if not request.tests:
        _logger.warning("no --test NAME=SOURCE: the validation set is decoded, which flatters")
    for doubt in sized.doubts(request.budget):
        _logger.warning(doubt)
    return Recipe(target, sized)


def read_sources(request: RecipeRequest, headers: dict[str, AudioInfo]) -> dict[str, DataDir]:
    """Return the sets of a request by name.

    Args:
        request: what a recipe is made of.
        headers: gets, by value of ``wav.scp``, what the headers of audio files say.

    Raises:
        UserError: a source cannot be used.
    """
    data = {}
    for name, source in request.sets.items():
        data[name] = import_set(
            source,
            request.audio_dir,
            request.columns,
            request.channel,
            request.normalization,
            headers,
        )
        speakers = len(set(data[name].utt2spk.values()))
        sizes = plural(len(data[name].text), "utterance"), plural(speakers, "speaker")
        _logger.info("%s: %s, %s", source, *sizes)
    return data


def decisions(request: RecipeRequest, headers: Mapping[str, AudioInfo]) -> list[str]:
    """Return what was decided about rates and channels, in sentences."""
    found = []
    rates = Counter(info.rate for info in headers.values())
    if len(rates) > 1 or any(rate > BROADBAND for rate in rates):
        some = ", ".join(f"{rate} Hz ({count})" for rate, count in rates.most_common(5))
        found.append(f"files have {some}: all are brought to {BROADBAND} Hz (--fs)")
    several = sum(info.channels > 1 for info in headers.values())
    if several and request.channel == CHANNEL:
        found.append(
            f"{plural(several, 'file')} with channels that hold the same: their mean is taken"
        )
    return found


_PLACES = re.compile(r'"@(?P<quoted>\w+)@"|@(?P<plain>\w+)@')


def fill(folder: Path, values: Mapping[str, str]) -> None:
    """Replace ``@name@`` in the files of a new recipe; in scripts also the quotes around it."""

    def replaced(place: re.Match[str]) -> str:
        name = place["quoted"] or place["plain"]
        if name not in values:
            return place[0]
        whole = place["plain"] or name in ("sources", "name")
        return values[name] if whole else shlex.quote(values[name])

    for path in (folder / "run.sh", folder / "local/data.sh", folder / "README.md"):
        text = path.read_text(encoding="utf-8")
        # in one pass: what a value looks like is no place for another
        path.write_text(_PLACES.sub(replaced, text), encoding="utf-8")
