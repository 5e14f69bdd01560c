"""What a language model is trained on: transcripts and other texts."""

import argparse
import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from espnet_spike.data.tokens import read_token_list
from espnet_spike.errors import UserError
from espnet_spike.tasks.loaders import explained
from espnet_spike.training.progress import logged
from espnet_spike.utils.files import (
    file_digest,
    has_mark,
    iter_all_lines,
    present,
    read_text,
    write_lines,
)

# fold_length of ESPnet's recipes, in tokens, for batch_type folded
FOLD_LENGTH = 150

_logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """The training or the validation part of `Texts`."""

    name: str
    """``train`` or ``valid``, as in the names of ESPnet's options"""
    given: tuple[Path, ...]
    path: Path
    """what ESPnet reads: the file given, or a copy of the files without empty lines"""
    empty: int
    """lines that hold a key alone, which ESPnet refuses"""
    shapes: Path
    """lengths of the lines"""


@dataclass(frozen=True)
class Texts:
    """Kaldi texts, read line by line: that of a language model may be larger than memory.

    Args:
        train: one file or several.
        valid: one file.
        stats_dir: gets the lengths of lines.
        token_type: what lengths are counted in.
    """

    train: tuple[Path, ...]
    valid: Path
    stats_dir: Path
    token_type: str

    @property
    def task(self) -> type:
        """ESPnet's task."""
        from espnet_spike.tasks.lm import SpikeLMTask

        return SpikeLMTask

    @cached_property
    def parts(self) -> tuple[Part, Part]:
        """The training and the validation part; lines are counted when it is first asked for.

        Raises:
            UserError: a text holds nothing.
        """
        return self._part("train", self.train), self._part("valid", (self.valid,))

    def files(self) -> dict[str, Path]:
        """Return the texts, by number."""
        texts = enumerate((*self.train, self.valid), 1)
        return {f"text {number}": text for number, text in texts if present(text)}

    def check(self) -> None:
        """Check the texts.

        Raises:
            UserError: one is missing, holds nothing, or has a name that ESPnet cannot take.
        """
        for text in (*self.train, self.valid):
            if not present(text):
                raise UserError(f"no such text: {text}", "run the stages before this one first")
            if "," in str(text):
                raise UserError(f"the path {text} holds a comma", "ESPnet splits there; rename it")
        _ = self.parts

    def words(self, exp_dir: Path) -> list[str]:
        """Return ESPnet's options for what `prepare` writes."""
        words = []
        for part in self.parts:
            words += [f"--{part.name}_data_path_and_name_and_type", f"{part.path},text,text"]
            words += [f"--{part.name}_shape_file", str(part.shapes)]
        return words

    def complete(self, args: argparse.Namespace) -> None:
        """Set what neither the YAML nor an option says."""
        if args.batch_type == "folded" and not args.fold_length:
            args.fold_length = [FOLD_LENGTH]

    def prepare(self, exp_dir: Path, args: argparse.Namespace, model: Any) -> None:
        """Write copies without empty lines, and the number of tokens in every line.

        Those are kept where they are of these texts and tokens.
        """
        for part in self.parts:
            _write_copy(part)
        mark = self.stats_dir / "content"
        with contextlib.suppress(UserError):  # missing or damaged ones are made
            if read_text(mark).splitlines() == self._content(args):
                return
        mark.unlink(missing_ok=True)
        self._count_tokens(args)
        write_lines(mark, self._content(args))

    def is_prepared(self, exp_dir: Path) -> bool:
        """Return True: no later stage reads what `prepare` writes."""
        return True

    def explain(self, error: BaseException | None) -> None:
        """Return None: what ESPnet says of a text needs no explanation."""

    def _content(self, args: argparse.Namespace) -> list[str]:
        """Return the digests of what is counted, and of the lengths that came out."""
        inputs = (*(part.path for part in self.parts), args.token_list, args.bpemodel)
        paths = [*filter(None, inputs), *(part.shapes for part in self.parts)]
        return [file_digest(Path(path)) for path in paths if present(Path(path))]

    def _part(self, name: str, given: tuple[Path, ...]) -> Part:
        empty = 0
        for path in given:
            lines = [_is_empty(line) for line in iter_all_lines(path)]
            if not lines:
                raise UserError(f"{path} is empty", "copy it again, or leave it out")
            if all(lines):
                raise UserError(
                    f"{path} holds no text, only keys", "copy it again, or leave it out"
                )
            empty += sum(lines)
        folder = self.stats_dir / name
        plain = not empty and len(given) == 1 and not has_mark(given[0])
        path = given[0] if plain else folder / "text"
        return Part(name, given, path, empty, folder / f"text_shape.{self.token_type}")

    def _count_tokens(self, args: argparse.Namespace) -> None:
        task: Any = self.task
        vocabulary = len(read_token_list(Path(args.token_list)))
        args = argparse.Namespace(**vars(args))
        args.collect_stats = True
        args.output_dir = str(self.stats_dir)
        # without a shape file every line is read, in order
        args.train_shape_file, args.valid_shape_file = [], []
        args.multiprocessing_distributed, args.ngpu = False, 0
        # alone, also where a launcher started several processes: they wait for the training
        args.dist_world_size, args.dist_launcher = 1, None
        with logged(self.stats_dir / "stats.log", show_epochs=False), explained():
            task.main(args=args)
        for part in self.parts:
            lines = _lines([self.stats_dir / part.name / "text_shape"])
            write_lines(part.shapes, (f"{line},{vocabulary}" for line in lines))


def _write_copy(part: Part) -> None:
    """Write the copy without empty lines, unless the text is read as it is."""
    if part.path in part.given:
        return
    part.path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(part.path, (line for line in _lines(part.given) if not _is_empty(line)))
    if part.empty:
        names = ", ".join(map(str, part.given))
        _logger.warning("%s: %d empty lines are left out", names, part.empty)


def _lines(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        yield from iter_all_lines(path)


def _is_empty(line: str) -> bool:
    return len(line.split(maxsplit=1)) < 2
