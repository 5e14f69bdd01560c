"""Cut the lists of a large corpus into parts, which ESPnet takes one after the other in an epoch.

A training process then holds the lists of one part in memory, not those of the whole corpus.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.files import write_lines


def split(tables: Mapping[str, Path], num_splits: int, out: Path) -> None:
    """Write ``out/NAME/split.N`` and ``out/NAME/num_splits`` for each table, as ESPnet wants them.

    Utterance n goes to part n modulo ``num_splits``, so parts are alike. Line by line: memory does
    not grow with the corpus.

    Args:
        tables: name -> file, sorted by utterance. The first says which utterances there are; the
            others may hold more.
        num_splits: how many parts.
        out: folder.

    Raises:
        UserError: an utterance is missing in a table, or there are fewer utterances than parts.
    """
    from espnet2.bin.split_scps import split_scps

    names = list(tables)
    same = {names[0]: tables[names[0]]}
    same |= {name: out / name / "kept" for name in names[1:]}
    try:
        for name in names[1:]:
            same[name].parent.mkdir(parents=True, exist_ok=True)
            write_lines(same[name], _keep(tables[name], tables[names[0]]))
        split_scps([str(path) for path in same.values()], num_splits, names, str(out), "WARNING")
    except RuntimeError as error:
        raise UserError(f"{tables[names[0]]}: {error}", "lower --num_splits_asr") from error
    finally:
        for name in names[1:]:
            same[name].unlink(missing_ok=True)


def _keep(table: Path, reference: Path) -> Iterator[str]:
    """Yield the lines of ``table`` for the utterances of ``reference``, both in the same order."""
    with open(table, encoding="utf-8") as lines, open(reference, encoding="utf-8") as wanted:
        for utt in (line.split(maxsplit=1)[0] for line in wanted):
            for line in lines:
                if line.split(maxsplit=1)[0] == utt:
                    yield line.rstrip("\n")
                    break
            else:
                raise UserError(
                    f"{table}: no {utt}, which is in {reference}",
                    "both must be sorted; run the stats stage (7) again",
                )
