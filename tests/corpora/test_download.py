import hashlib
import http.server
import io
import shutil
import tarfile
import threading
from typing import ClassVar

import pytest

from espnet_spike.corpora import an4, fsdd, librispeech, speechocean762
from espnet_spike.corpora.download import MIRRORS, Archive, download, extract, obtain
from espnet_spike.errors import UserError

CONTENT = bytes(range(256)) * 4000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; ``plan`` says for each request in turn how it fares."""

    plan: ClassVar[list[str]] = []
    requests: ClassVar[list[str | None]] = []

    def do_GET(self):
        behaviour = self.plan.pop(0) if self.plan else "whole"
        asked = self.headers.get("Range")
        self.requests.append(asked)
        if behaviour == "missing":
            self.send_error(404)
            return
        if behaviour == "busy":
            self.send_error(503)
            return
        start = 0
        if asked and behaviour != "no ranges":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT) // 2 if behaviour == "cut" else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def url():
    Server.plan, Server.requests = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/corpus.tar.gz"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(url, path, tries=3):
    return download(url, path, hint="give --corpus_dir", tries=tries, pause=0.01)


def test_a_file_is_fetched_once(url, tmp_path):
    path = fetch(url, tmp_path / "new" / "corpus.tar.gz")
    assert path.read_bytes() == CONTENT
    fetch(url, path)
    assert len(Server.requests) == 1
    assert [file.name for file in path.parent.iterdir()] == ["corpus.tar.gz"]


def test_a_broken_transfer_is_resumed(url, tmp_path):
    Server.plan = ["cut"]
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT
    assert Server.requests == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_later_run_resumes_too(url, tmp_path):
    Server.plan = ["cut"]
    with pytest.raises(UserError):
        fetch(url, tmp_path / "x", tries=1)
    assert not (tmp_path / "x").exists()
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT
    assert Server.requests[1] == f"bytes={len(CONTENT) // 2}-"


def test_a_server_without_ranges_starts_again(url, tmp_path):
    Server.plan = ["cut", "no ranges"]
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(url, tmp_path):
    (tmp_path / "x.part").write_bytes(CONTENT + b"more")
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(url, tmp_path):
    Server.plan = ["busy", "busy"]
    assert fetch(url, tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize(("plan", "requests"), [(["busy"] * 3, 3), (["missing"], 1)])
def test_a_failure_names_the_address_and_the_way_out(url, tmp_path, plan, requests):
    Server.plan = list(plan)
    with pytest.raises(UserError, match=r"cannot download http://127") as caught:
        fetch(url, tmp_path / "x")
    assert "--corpus_dir" in caught.value.hint
    assert len(Server.requests) == requests


def test_a_wrong_check_sum_leaves_nothing(url, tmp_path):
    good = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    download(url, tmp_path / "good", hint="", checksum=good)
    with pytest.raises(UserError, match=r"md5 is .*, not 123 as published"):
        download(url, tmp_path / "bad", hint="", checksum="md5:123")
    assert [file.name for file in tmp_path.iterdir()] == ["good"]


def test_a_full_disk_is_found_before_the_transfer(url, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr("espnet_spike.corpora.download.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"downloading x needs .* GB free"):
        fetch(url, tmp_path / "x")
    assert len(Server.requests) == 1


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ("eu", "https://openslr.elda.org/resources/12/a.tgz"),
        ("http://here/slr/", "http://here/slr/12/a.tgz"),
    ],
)
def test_a_mirror_is_a_name_or_an_address(mirror, expected):
    assert Archive("12/a.tgz").url(mirror) == expected
    assert Archive("http://home/a.tgz").url(mirror) == "http://home/a.tgz"


def test_an_unknown_mirror_lists_the_known_ones():
    with pytest.raises(UserError, match="--mirror moon") as caught:
        Archive("12/a.tgz").url("moon")
    assert "eu" in caught.value.hint


def arrive(monkeypatch, content, at=None):
    """Let every download bring ``content``, from the address asked or another one."""

    def fetch(url, part):
        part.write_bytes(content)
        return at or url

    monkeypatch.setattr("espnet_spike.corpora.download._fetch", fetch)


@pytest.mark.parametrize(
    ("asked", "at"),
    [("http://far/a", None), ("ftp://far/a", None), ("https://far/a", "http://elsewhere/a")],
)
def test_what_anybody_could_have_sent_needs_a_check_sum(tmp_path, monkeypatch, asked, at):
    arrive(monkeypatch, CONTENT, at)
    with pytest.raises(UserError, match="no check sum of it is known") as caught:
        download(asked, tmp_path / "a", hint="")
    assert "--sha256" in caught.value.hint and "--corpus_dir" in caught.value.hint
    assert not (tmp_path / "a").exists()
    good = hashlib.sha256(CONTENT).hexdigest()
    md5 = hashlib.md5(CONTENT).hexdigest()
    for number, checksum in enumerate((f"sha256:{good}", f"md5:{md5}", f"md5:{md5} sha256:{good}")):
        download(asked, tmp_path / f"{number}", hint="", checksum=checksum)
    with pytest.raises(UserError, match=r"sha256 is .*, not 123"):
        download(asked, tmp_path / "bad", hint="", checksum=f"md5:{md5} sha256:123")


@pytest.mark.parametrize("corpus", [an4, speechocean762])
def test_a_corpus_without_a_published_sum_takes_one(tmp_path, monkeypatch, corpus):
    assert not corpus.ARCHIVE.checksum and corpus.ARCHIVE.url("main").startswith("https://")
    monkeypatch.setattr(corpus, "ARCHIVE", Archive("http://far/a.tgz"))
    arrive(monkeypatch, make_tar(tmp_path / "a", {"top/x": b"1"}).read_bytes())
    options = ["--downloads", str(tmp_path / "new"), "--data_dir", str(tmp_path / "data")]
    with pytest.raises(UserError, match="no check sum"):
        corpus.main(options)
    with pytest.raises(UserError, match="not 12ab as published"):
        corpus.main([*options, "--sha256", "12AB"])
    good = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    with pytest.raises(UserError, match="corpus"):  # it was taken, and is none
        corpus.main([*options, "--sha256", good])


def test_every_published_address_is_https():
    assert all(address.startswith("https://") for address in MIRRORS.values())
    assert fsdd.URL.startswith("https://")
    assert all(len(part.sha256) == 64 for part in librispeech.PARTS.values())


def test_a_corpus_is_fetched_unpacked_and_the_archive_removed(tmp_path, monkeypatch):
    published = make_tar(tmp_path / "a.tgz", {"top/x": b"1"})
    content = published.read_bytes()
    arrive(monkeypatch, content)
    archive = Archive("9/a.tgz", f"md5:{hashlib.md5(content).hexdigest()}")
    obtain(archive, "main", tmp_path / "downloads", tmp_path / "downloads/top", strip=1)
    assert (tmp_path / "downloads/top/x").read_bytes() == b"1"
    assert [file.name for file in (tmp_path / "downloads").iterdir()] == ["top"]
    monkeypatch.setattr("espnet_spike.corpora.download._fetch", None)  # not asked for again
    obtain(archive, "main", tmp_path / "downloads", tmp_path / "downloads/top", strip=1)


def test_offline_the_fsdd_recipe_names_corpus_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(fsdd, "URL", "http://127.0.0.1:9/none.tar.gz")
    monkeypatch.setattr("espnet_spike.corpora.download.time.sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"cannot download") as caught:
        fsdd.main(
            ["--downloads", str(tmp_path / "downloads"), "--data_dir", str(tmp_path / "data")]
        )
    assert "--corpus_dir" in caught.value.hint
    assert not (tmp_path / "data").exists()


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_an_archive_is_unpacked_once(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", {"top/d/x": b"1", "top/y": b"2", "other/z": b"3"})
    target = extract(archive, tmp_path / "out", members="top/", strip=1)
    assert (target / "d/x").read_bytes() == b"1"
    assert {file.name for file in target.iterdir()} == {"d", "y", ".done-a.tar.gz"}
    (target / "y").write_bytes(b"changed")
    extract(archive, target, members="top/", strip=1)
    assert (target / "y").read_bytes() == b"changed"


def test_a_damaged_archive_leaves_nothing(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", {"x": bytes(100000), "y": CONTENT})
    archive.write_bytes(archive.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"cannot be unpacked"):
        extract(archive, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar.gz"]


def test_what_an_interrupted_run_left_is_replaced(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", {"d/x": b"1"})
    (tmp_path / ".out.unpacking/d").mkdir(parents=True)
    (tmp_path / ".out.unpacking/d/half").write_bytes(b"")
    (tmp_path / "out/d").mkdir(parents=True)
    extract(archive, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out/d").iterdir()] == ["x"]


def test_members_outside_of_the_target_are_refused(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", {"../evil": b"1"})
    with pytest.raises(UserError, match=r"cannot be unpacked"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_an_archive_without_the_members_is_an_error(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", {"x": b"1"})
    with pytest.raises(UserError, match=r"holds nothing under 'top/'"):
        extract(archive, tmp_path / "out", members="top/")


@pytest.mark.parametrize("kind", ["missing", "folder", "loop"])
def test_an_archive_that_is_none_is_named(tmp_path, kind):
    archive = tmp_path / "x.tgz"
    if kind == "folder":
        archive.mkdir()
    elif kind == "loop":
        archive.symlink_to(archive.name)
    said = {"missing": "no such archive", "folder": "is a folder", "loop": "symbolic links"}[kind]
    with pytest.raises(UserError, match=rf"x\.tgz.* {said}"):
        extract(archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()
