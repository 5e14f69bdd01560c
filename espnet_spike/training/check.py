"""Whether what a training is given is sound: features, statistics, GPUs, disk.

Nothing is written here.
"""

import shutil
from pathlib import Path

from espnet_spike.data.ark import parse_entry
from espnet_spike.errors import UserError
from espnet_spike.utils.archives import load_arrays
from espnet_spike.utils.files import (
    has_mark,
    iter_all_lines,
    name_some,
    plural,
    present,
    read_table,
)


def check_data_dir(folder: Path) -> None:
    """Raise a ``UserError`` if features or transcripts are missing in a data directory."""
    for name in ("feats.scp", "text"):
        if not present(folder / name):
            raise UserError(f"missing: {folder / name}", "run the stages before training first")


def feature_size(shape_file: Path) -> int | None:
    """Return the feature dimension of a shape file "utt frames,dim"; None of one "utt samples".

    Raises:
        UserError: no such file, it is empty or malformed, or utterances differ in dimension.
    """
    if not present(shape_file):
        raise UserError(f"missing: {shape_file}", "run the stats stage (7) first")
    sizes: dict[str, str] = {}
    for utt, shape in read_table(shape_file).items():
        frames, comma, size = shape.partition(",")
        if not frames.isdigit() or bool(comma) != size.isdigit():
            raise UserError(f"{shape_file}: {utt} has shape {shape!r}, not 'frames,dim'")
        sizes.setdefault(size, utt)
    if not sizes:
        raise UserError(f"{shape_file} is empty", "check the data of the stages before")
    if len(sizes) > 1:
        some = ", ".join(f"{utt} has {size or 'none'}" for size, utt in sizes.items())
        raise UserError(f"{shape_file}: the feature dimension differs: {some}")
    size = next(iter(sizes))
    return int(size) if size else None


def check_keys(data_dir: Path) -> None:
    """Check that features, shapes and transcripts name the same utterances in the same order.

    ESPnet reads the files side by side, and stops at a difference without a helpful word.

    Raises:
        UserError: naming the files and the utterances.
    """
    keys = {}
    for name in ("feats.scp", "feats_shape", "text"):
        table = read_table(data_dir / name)
        keys[name] = list(table)
        empty = [utt for utt, value in table.items() if not value]
        if empty:
            raise UserError(
                f"{data_dir / name}: nothing behind {name_some(empty)}",
                "run the data and filter stages, which drop such utterances",
            )
        if name == "feats.scp":
            for utt, entry in table.items():
                parse_entry(utt, entry)
        if has_mark(data_dir / name) or not all(map(str.strip, iter_all_lines(data_dir / name))):
            raise UserError(
                f"{data_dir / name} has blank lines, or a byte order mark",
                "run the stage that makes this folder again: ESPnet stops there",
            )
    for name in ("feats_shape", "text"):
        odd = set(keys["feats.scp"]) ^ set(keys[name])
        if odd:
            raise UserError(
                f"{data_dir}: feats.scp and {name} do not name the same utterances: "
                f"{name_some(sorted(odd))}",
                "run the stages that make this folder again",
            )
        if keys["feats.scp"] != keys[name]:
            raise UserError(
                f"{data_dir}: feats.scp and {name} are not in the same order",
                "sort both by utterance (LC_ALL=C sort)",
            )


def check_finite(stats_dir: Path, data_dir: Path) -> None:
    """Check that the feature statistics are finite.

    One NaN frame in one utterance makes ESPnet skip every update and end with status 0.

    Raises:
        UserError: they are not; names the utterances whose features are to blame.
    """
    import numpy as np

    path = stats_dir / "feats_stats.npz"
    if not present(path):
        raise UserError(f"missing: {path}", "run the stats stage (7) first")
    cure = "run the stats stage (7) again"
    stats = load_arrays(path, cure)
    try:
        if all(np.isfinite(stats[key]).all() for key in ("count", "sum", "sum_square")):
            return
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}", cure) from error
    raise damage(data_dir) or UserError(f"{path} is not finite, but the features now are", cure)


def check_complete(stats_dir: Path, data_dir: Path) -> None:
    """Check that there are statistics of every utterance.

    Raises:
        UserError: naming those without.
    """
    wanted = read_table(data_dir / "feats_shape").keys()
    found = read_table(stats_dir / "speech_shape").keys()
    if wanted != found:
        raise UserError(
            f"{stats_dir}: {len(found)} of {plural(len(wanted), 'utterance')} have statistics, "
            f"missing: {name_some(wanted - found)}",
            f"see {stats_dir.parent / 'stats.log'}",
        )


def damage(data_dir: Path) -> UserError | None:
    """Read all features of a data directory; return what is wrong with them, or None.

    Missing and truncated arks, garbage and non-finite values are found, each with its utterance,
    which ESPnet does not name.
    """
    from espnet_spike.data.ark import ArkReader

    found: dict[str, str] = {}
    with ArkReader() as reader:
        for utt, entry in read_table(data_dir / "feats.scp").items():
            try:
                reader.read(utt, entry)
            except UserError as error:
                found[utt] = error.message
    if not found:
        return None
    more = f" (and {len(found) - 1} more: {name_some(found)})" if len(found) > 1 else ""
    return UserError(
        f"{data_dir}: {next(iter(found.values()))}{more}",
        "fix or remove the audio, then extract the features again (stage 3)",
    )


def check_machine(folder: Path, ngpu: int, parameters: int, keep_nbest: int) -> None:
    """Check that there are as many GPUs as are asked for, and that the checkpoints will fit.

    Those are two with Adam's state, the best epochs, and an average.

    Args:
        folder: of the experiment; it need not exist.
        ngpu: how many GPUs are asked for.
        parameters: of the model.
        keep_nbest: how many best epochs are kept.

    Raises:
        UserError: names what is asked for and what there is.
    """
    import torch

    found = torch.cuda.device_count()
    if ngpu > found:
        raise UserError(f"--ngpu {ngpu}, but {plural(found, 'GPU')} seen", f"give --ngpu {found}")
    needed = 4 * parameters * (2 * 3 + keep_nbest + 2)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 1e9:.2f} GB free, training needs about {needed / 1e9:.2f} GB",
            "free disk space, or lower keep_nbest_models",
        )
