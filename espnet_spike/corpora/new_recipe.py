"""Recipes for one's own data: ``egs/NAME``, ready to run, made from the template."""

import logging
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from espnet_spike.corpora.own import import_set
from espnet_spike.corpora.sets import divide
from espnet_spike.errors import UserError
from espnet_spike.utils.files import new_folder

_logger = logging.getLogger(__name__)
TEMPLATE = "TEMPLATE"
SHARE = 0.1  # of the training speakers, when no validation set is given
# pieces of the sentencepiece vocabulary by words of training text
VOCABULARY = ((5_000, 50), (50_000, 200), (500_000, 1000), (10**12, 5000))


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
    channel: str | None = None
    normalization: str = "none"
    valid_from_train: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name) or self.name == TEMPLATE:
            raise UserError(f"{self.name!r} is no name for a recipe", "letters, digits, - and _")
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


def make_recipe(request: RecipeRequest, template: Path, folder: Path) -> Path:
    """Read the sources once, to see that they can be used, then write the recipe.

    Args:
        request: what it is made of.
        template: folder of the files to fill in, ``egs/TEMPLATE``.
        folder: where its own folder is made.

    Returns:
        the folder of the recipe.

    Raises:
        UserError: it exists, or a source cannot be used.
    """
    target = folder / request.name
    if target.exists():
        raise UserError(f"{target} exists", "choose another name, or remove it")
    data = {}
    for name, source in request.sets.items():
        data[name] = import_set(
            source, request.audio_dir, request.columns, request.channel, request.normalization
        )
        speakers = len(set(data[name].utt2spk.values()))
        _logger.info("%s: %d utterances, %d speakers", source, len(data[name].text), speakers)
    kinds = {"fbank" if tables.wav else "extracted" for tables in data.values()}
    if len(kinds) > 1:
        raise UserError("some sets have audio, others features alone", "they have to be alike")
    token_type, nbpe = choose_tokens(list(data["train"].text.values()))
    if request.share:
        divide(data, "train", "dev", request.share)
    values = {
        "sources": shlex.join(request.source_words),
        "test_sets": " ".join(request.tests) or "dev",
        "feats_type": kinds.pop(),
        "token_type": request.token_type or token_type,
        "nbpe": str(request.nbpe or nbpe),
        "normalization": request.normalization,
        "name": request.name,
        "summary": "\n".join(
            f"* `{name}`: {len(tables.text)} utterances" for name, tables in data.items()
        ),
    }
    with new_folder(target) as staging:
        shutil.copytree(template, staging, dirs_exist_ok=True)
        fill(staging, values)
    _logger.info("made %s: %s, %s", target, values["token_type"], values["feats_type"])
    if not request.tests:
        _logger.warning("no --test NAME=SOURCE: the validation set is decoded, which flatters")
    return target


def choose_tokens(texts: Sequence[str]) -> tuple[str, int]:
    """Return unit and vocabulary size: characters where words are not parted by spaces."""
    words = sum(len(text.split()) for text in texts)
    letters = Counter(c for text in texts for c in text if not c.isspace())
    ideographs = sum(count for c, count in letters.items() if "\u2e80" <= c <= "\u9fff")
    size = next(pieces for limit, pieces in VOCABULARY if words < limit)
    return ("char" if ideographs > sum(letters.values()) / 2 else "bpe"), size


def fill(folder: Path, values: Mapping[str, str]) -> None:
    """Replace ``@name@`` in the files of a new recipe; in scripts also the quotes around it."""
    for path in (folder / "run.sh", folder / "local/data.sh", folder / "README.md"):
        text = path.read_text(encoding="utf-8")
        for name, value in values.items():
            quoted = value if name in ("sources", "name") else shlex.quote(value)
            text = text.replace(f'"@{name}@"', quoted).replace(f"@{name}@", value)
        path.write_text(text, encoding="utf-8")
