"""Fetching and unpacking public corpora so that nothing half done is taken for whole."""

import hashlib
import logging
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from espnet_spike.errors import UserError, system_error
from espnet_spike.utils.archives import unpack_into
from espnet_spike.utils.files import present
from espnet_spike.utils.locks import alone

logger = logging.getLogger("download")
TRIES = 3
TIMEOUT = 30  # seconds without a byte
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")

# homes of the corpora of openslr.org
MIRRORS = {
    "main": "https://www.openslr.org/resources",
    "us": "https://openslr.trmal.net/resources",
    "eu": "https://openslr.elda.org/resources",
    "cn": "https://openslr.magicdatatech.com/resources",
}


@dataclass(frozen=True)
class Archive:
    """An archive of a corpus.

    Attributes:
        place: its address, or what follows a mirror's, such as ``12/dev-clean.tar.gz``.
        checksum: ``md5:...``, ``sha256:...`` or both of the file as published; empty when none is,
            and then it has to come by https.
        expansion: bytes when unpacked for each byte of the archive, about.
    """

    place: str
    checksum: str = ""
    expansion: float = 1.1

    @property
    def name(self) -> str:
        """File name."""
        return self.place.rsplit("/", 1)[-1]

    def url(self, mirror: str) -> str:
        """Return the address; ``mirror`` is a name in ``MIRRORS`` or the beginning of an URL.

        Raises:
            UserError: neither of the two.
        """
        if "://" in self.place:
            return self.place
        base = MIRRORS.get(mirror, mirror)
        if "://" not in base:
            raise UserError(
                f"--mirror {mirror}: unknown", f"use {', '.join(MIRRORS)} or the address of one"
            )
        return f"{base.rstrip('/')}/{self.place}"


def obtain(
    archive: Archive,
    mirror: str,
    downloads: Path,
    target: Path,
    strip: int = 0,
    sha256: str | None = None,
) -> Path:
    """Download, verify and unpack an archive, then remove it; at once when it was done before.

    Args:
        archive: what to fetch.
        mirror: where from, see `Archive.url`.
        downloads: folder for the archive.
        target: folder that receives what is in it.
        strip: leading parts of member names to leave out.
        sha256: of the archive, from the user.

    Raises:
        UserError: it cannot be fetched, is damaged, or the disk is too small.
    """
    if _marker(target, archive.name).exists():
        return target
    downloads.mkdir(parents=True, exist_ok=True)
    with alone(downloads / f".{target.name}.obtained.lock", f"fetching of {archive.name}"):
        if not _marker(target, archive.name).exists():  # else by the process that was waited for
            _obtain(archive, mirror, downloads, target, strip, sha256)
    return target


def _obtain(
    archive: Archive, mirror: str, downloads: Path, target: Path, strip: int, sha256: str | None
) -> None:
    hint = "fix the network, choose another --mirror, or give --corpus_dir with a local copy"
    checksum = f"{archive.checksum} sha256:{sha256.lower()}" if sha256 else archive.checksum
    path = download(archive.url(mirror), downloads / archive.name, hint, checksum=checksum)
    need = path.stat().st_size * archive.expansion
    check_space(target if target.exists() else downloads, need, f"unpacking {archive.name}")
    extract(path, target, strip=strip)
    path.unlink()


def check_space(folder: Path, need: float, what: str) -> None:
    """Raise a UserError when fewer than ``need`` bytes are free in an existing folder."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{what} needs {need / 1e9:.1f} GB, {folder.resolve()} has {free / 1e9:.1f} GB free",
            "free some disk space, or give --corpus_dir with a copy elsewhere",
        )


def download(
    url: str,
    path: Path,
    hint: str,
    tries: int = TRIES,
    pause: float = 2.0,
    checksum: str = "",
) -> Path:
    """Fetch a file, going on from where an earlier try broke off when the server allows it.

    What has arrived lies in ``path`` + ``.part`` until it is complete and verified.

    Args:
        url: where from.
        path: where to; returned at once when it exists.
        hint: what the user can do when it cannot be fetched.
        tries: how often to try.
        pause: seconds before the second try, doubled after each.
        checksum: ``md5:...``, ``sha256:...`` or both of the whole file.

    Raises:
        UserError: after the last try, a wrong check sum, too little disk space, or a file that
            anybody on the way may have changed: no https and no check sum.
    """
    if path.exists():
        return path
    _check_way(url, checksum)
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_name(f".{path.name}.lock"), f"download of {path.name}"):
        return path if path.exists() else _download(url, path, hint, tries, pause, checksum)


def _download(url: str, path: Path, hint: str, tries: int, pause: float, checksum: str) -> Path:
    part = path.with_name(path.name + ".part")
    for attempt in range(1, tries + 1):
        try:
            _check_way(_fetch(url, part), checksum)
            _verify(part, checksum, url)
            os.replace(part, path)
            return path
        except OSError as error:  # urllib's errors and socket timeouts are OSErrors
            if known := system_error(error):  # of this machine
                raise known from error
            reason = getattr(error, "reason", None) or error
            logger.warning("%s: try %d of %d failed: %s", url, attempt, tries, reason)
            final = isinstance(error, urllib.error.HTTPError) and error.code in (403, 404, 410)
            if attempt == tries or final:
                raise UserError(f"cannot download {url}: {reason}", hint) from error
            time.sleep(pause * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def _check_way(url: str, checksum: str) -> None:
    """Refuse a file without a check sum that comes neither by https nor from this machine."""
    address = urllib.parse.urlsplit(url)
    if not (checksum or address.scheme in ("https", "file") or address.hostname in THIS_MACHINE):
        raise UserError(
            f"{url} comes by {address.scheme}, and no check sum of it is known: it could be "
            "anybody's",
            "give --sha256 SUM of a copy that you trust, where the recipe has that option, or "
            "unpack it yourself and give --corpus_dir",
        )


def _fetch(url: str, part: Path) -> str:
    """Fetch a file, or the rest of it; return the address that it came from at last."""
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
        if length:
            check_space(part.parent, int(length), f"downloading {part.stem}")
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
    return response.url


def _verify(part: Path, checksum: str, url: str) -> None:
    """Remove a file whose check sum is not the published one."""
    for kind, _, expected in (one.partition(":") for one in checksum.split()):
        with part.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != expected:
            part.unlink()
            raise UserError(
                f"{url}: {kind} is {found}, not {expected} as published; the file was removed",
                "run the same command again, or choose another --mirror",
            )


def _marker(target: Path, name: str) -> Path:
    return target / f".done-{name}"


def extract(archive: Path, target: Path, members: str = "", strip: int = 0) -> Path:
    """Unpack an archive into ``target``, all of it or nothing.

    Everything is unpacked beside the target first; ``target/.done-NAME`` is written last, and with
    it there nothing is done again.

    Args:
        archive: tar or zip file, see `espnet_spike.utils.archives`.
        target: folder that receives the members.
        members: only members whose name begins so.
        strip: leading parts of member names to leave out.

    Raises:
        UserError: damaged archive, or no such members.
    """
    if not _marker(target, archive.name).exists():
        if not present(archive):
            raise UserError(
                f"{archive}: no such archive", "fetch it, or give the folder of the corpus"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target.with_name(f".{target.name}.lock"), f"unpacking of {archive.name}"):
            _extract(archive, target, members, strip)
    return target


def _extract(archive: Path, target: Path, members: str, strip: int) -> None:
    from tqdm import tqdm

    marker = _marker(target, archive.name)
    if marker.exists():  # by the process that was waited for
        return
    staging = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    with tqdm(
        total=archive.stat().st_size,
        desc=f"unpack {archive.name}",
        unit="B",
        unit_scale=True,
        delay=2,
    ) as bar:
        unpack_into(
            archive, staging, members, strip, advance=lambda position: bar.update(position - bar.n)
        )
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
