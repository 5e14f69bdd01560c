"""Fetching and unpacking public corpora so that nothing half done is taken for whole."""

import logging
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

from espnet_spike.errors import UserError

logger = logging.getLogger("download")
TRIES = 3
TIMEOUT = 30  # seconds without a byte


def download(url: str, path: Path, hint: str, tries: int = TRIES, pause: float = 2.0) -> Path:
    """Fetch a file, going on from where an earlier try broke off when the server allows it.

    What has arrived lies in ``path`` + ``.part`` until it is complete.

    Args:
        url: where from.
        path: where to; returned at once when it exists.
        hint: what the user can do when it cannot be fetched.
        tries: how often to try.
        pause: seconds before the second try, doubled after each.

    Raises:
        UserError: after the last try.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(1, tries + 1):
        try:
            _fetch(url, part)
            os.replace(part, path)
            return path
        except OSError as error:  # urllib's errors and socket timeouts are OSErrors
            reason = getattr(error, "reason", None) or error
            logger.warning("%s: try %d of %d failed: %s", url, attempt, tries, reason)
            final = isinstance(error, urllib.error.HTTPError) and error.code in (403, 404, 410)
            if attempt == tries or final:
                raise UserError(f"cannot download {url}: {reason}", hint) from error
            time.sleep(pause * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _fetch(url: str, part: Path) -> None:
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "espnet_spike"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is no beginning of this file: start again
            part.unlink()
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        expected = int(length) + have * resumed if length else None
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                total=expected,
                initial=have * resumed,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                delay=1,
            ) as bar,
        ):
            while block := response.read(1 << 18):
                file.write(block)
                bar.update(len(block))
    if expected is not None and part.stat().st_size != expected:
        raise ConnectionError(f"{part.stat().st_size} of {expected} bytes arrived")


def extract_tar(archive: Path, target: Path, members: str = "", strip: int = 0) -> Path:
    """Unpack an archive into ``target``, all of it or nothing.

    Everything is unpacked beside the target first; ``target/.done-NAME`` is written last, and with
    it there nothing is done again.

    Args:
        archive: tar file, compressed or not.
        target: folder that receives the members.
        members: only members whose name begins so.
        strip: leading parts of member names to leave out.

    Raises:
        UserError: damaged archive, or no such members.
    """
    marker = target / f".done-{archive.name}"
    if marker.exists():
        return target
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts[strip:]
                if member.name.startswith(members) and parts:
                    member.name = str(PurePosixPath(*parts))
                    tar.extract(member, staging, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UserError(
            f"{archive} cannot be unpacked: {error}", "remove it, so that it is fetched again"
        ) from error
    if not any(staging.iterdir()):
        staging.rmdir()
        raise UserError(f"{archive}: holds nothing under {members!r}")
    target.mkdir(parents=True, exist_ok=True)
    for item in staging.iterdir():
        place = target / item.name
        if place.is_dir():
            shutil.rmtree(place)
        os.replace(item, place)
    staging.rmdir()
    marker.touch()
    return target
