"""Archives: what is whole is unpacked as tarfile and zipfile do, all else leaves nothing behind."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.utils import archives
from espnet_spike.utils.archives import Limits, load_arrays, unpack, unpack_into

PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
LONG = "/".join(["a folder with a long name"] * 12) + "/ünï語"
FILES = {"x": b"1", "d/y": bytes(range(256)) * 4100, "d/e/empty": b"", LONG: b"deep" * 600}


def tar(members, pack=bytes, form=tarfile.PAX_FORMAT, headers=None):
    """Return a tar archive of ``name -> content`` and `TarInfo`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers=headers or {}) as out:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            out.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return pack(buffer.getvalue())


def zipped(members):
    """Return a zip archive of ``name -> content`` and pairs of mode and content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, tuple):
                mode, content = content
                info.external_attr = mode << 16
            out.writestr(info, content)
    return buffer.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(tmp_path, content, match="cannot be unpacked"):
    """Check that an archive is refused and that there is nothing but it afterwards."""
    room = tmp_path / "room"
    room.mkdir(exist_ok=True)
    (room / "a").write_bytes(content)
    with pytest.raises(UserError, match=match) as caught:
        unpack(room / "a", room / "out")
    assert caught.value.hint
    assert [path.name for path in room.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["room"]


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(tmp_path, pack, form):
    files = {name: content for name, content in FILES.items() if name != LONG}
    files |= {LONG: FILES[LONG]} if form != tarfile.USTAR_FORMAT else {"p/" * 60 + "z" * 90: b"2"}
    folder = special("d", tarfile.DIRTYPE)
    headers = {"comment": "a commit"} if form == tarfile.PAX_FORMAT else {}
    limits = Limits(depth=64)
    (tmp_path / "a").write_bytes(tar({"d": folder} | files, pack, form, headers))
    found = unpack(tmp_path / "a", tmp_path / "out", limits=limits)
    assert contents(tmp_path / "out") == files
    assert {path.as_posix() for path in found} == set(files)


def test_zip_is_read(tmp_path):
    (tmp_path / "a").write_bytes(zipped({"d/": (stat.S_IFDIR | 0o755, b"")} | FILES))
    unpack(tmp_path / "a", tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_names_are_normalised_chosen_and_stripped(tmp_path):
    (tmp_path / "a").write_bytes(tar({"./top//d/./x": b"1", "top/y": b"2", "other/z": b"3"}))
    unpack_into(tmp_path / "a", tmp_path / "out", members="top/", strip=1)
    assert contents(tmp_path / "out") == {"d/x": b"1", "y": b"2"}


def test_a_later_member_of_a_name_takes_the_place_of_the_former(tmp_path):
    (tmp_path / "a").write_bytes(tar({"x": b"long", "": special(".", tarfile.DIRTYPE), "./x": b""}))
    unpack(tmp_path / "a", tmp_path / "out")
    assert contents(tmp_path / "out") == {"x": b""}


OUTSIDE = ["../evil", "/evil", "a/../../evil", "a/..", "..", "a\\..\\..\\evil", "//evil"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("make", [tar, zipped])
def test_names_that_lead_out_are_refused(tmp_path, make, name):
    refused(tmp_path, make({"first": b"1", name: b"evil"}), "leads out")


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
        *(tarfile.GNUTYPE_SPARSE, b"Z"),
    ],
)
def test_what_is_no_file_and_no_folder_is_refused(tmp_path, kind):
    refused(tmp_path, tar({"x": b"1", "bad": special("bad", kind, "x")}), "'bad' is neither")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_holds_no_links_either(tmp_path, kind):
    refused(tmp_path, zipped({"x": b"1", "bad": (kind | 0o777, b"x")}), "'bad' is neither")


def test_a_chain_of_links_leads_nowhere(tmp_path):
    """As in CVE-2025-4517, by which filters of tarfile are passed by."""
    long = "d" * 200
    members = {}
    for step in "abcdefghijklmnop":
        members[long] = special(long, tarfile.DIRTYPE)
        members[step] = special(step, tarfile.SYMTYPE, long)
    members["escape"] = special("escape", tarfile.SYMTYPE, "/".join("abcdefghijklmnop") + "/../..")
    members["escape/evil"] = b"evil"
    refused(tmp_path, tar(members), "neither a file nor a folder")


@pytest.mark.parametrize("make", [lambda m: tar(m, gzip.compress), lambda m: tar(m, lzma.compress)])
def test_a_bomb_is_refused(tmp_path, make):
    refused(tmp_path, make({"zeros": bytes(36 << 20)}), "times its size")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_zip_members", None)
    refused(tmp_path, zipped({"zeros": bytes(36 << 20)}), "times its size")


def test_a_bomb_behind_the_end_and_one_in_a_header_are_refused(tmp_path):
    refused(tmp_path, gzip.compress(tar({"x": b"1"}) + bytes(70 << 20)), "times its size")
    name = "n" * (archives.HEADER + 1)
    refused(tmp_path, tar({name: b"1"}, gzip.compress), "header is too long")
    refused(tmp_path, tar({name: b"1"}, gzip.compress, tarfile.GNU_FORMAT), "header is too long")


def test_a_text_is_read_to_its_checksum_and_no_further_than_its_limits(tmp_path):
    path, text = tmp_path / "a.gz", "one\r\nzwölf\n" * 100
    whole = gzip.compress(text.encode())
    path.write_bytes(whole)
    with archives.open_gzip_text(path) as file:
        assert file.read() == text
    damaged = bytearray(whole)
    damaged[-5] ^= 1  # of the checksum
    path.write_bytes(damaged)
    with archives.open_gzip_text(path) as file, pytest.raises(OSError, match="CRC"):
        file.read()
    path.write_bytes(gzip.compress(bytes(1 << 20)))
    limits = Limits(factor=1, spare=1 << 19)
    with archives.open_gzip_text(path, limits=limits) as file, pytest.raises(OSError, match="many"):
        next(file)


def test_numbers_of_members_and_folders_are_limited(tmp_path):
    (tmp_path / "a").write_bytes(tar({str(n): b"" for n in range(11)}))
    with pytest.raises(UserError, match="more than 10 members"):
        unpack(tmp_path / "a", tmp_path / "out", limits=Limits(members=10))
    (tmp_path / "a").write_bytes(tar({"d/" * 40 + "x": b""}))
    with pytest.raises(UserError, match="folders deep"):
        unpack(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_every_cut_is_found(tmp_path, pack):
    whole = tar({"x": b"12345", "y": bytes(2000)}, pack)
    # of the 20 blocks that tar writes, those behind the first of zeros say nothing
    end = len(whole) if pack is not bytes else 8 * archives.BLOCK
    for length in range(0, end, 97):
        refused(tmp_path, whole[:length])


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_members_behind_the_end_are_not_passed_over(tmp_path, pack):
    """A header that became zeros ends an archive, and the rest would be missing without a word."""
    whole = tar({"x": b"12345", "y": b"2"})
    lost = whole[:1024] + bytes(512) + whole[1536:]
    refused(tmp_path, pack(lost), "more behind its end")
    refused(tmp_path, pack(whole + tar({"z": b"3"})), "more behind its end")


@example(1790, 49)  # the first member's comment, in the list of members, swallows the second
@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("make", [lambda m: tar(m, gzip.compress), zipped], ids=["tgz", "zip"])
def test_one_changed_byte_never_changes_a_file(tmp_path_factory, make, place, change):
    """What gzip and zip keep no checksum of are names and times: of those there is no word here."""
    room = tmp_path_factory.mktemp("room")
    files = {"x": b"12345", "d/y": bytes(range(256)) * 4}
    content = bytearray(make(files))
    content[place % len(content)] ^= change
    (room / "a").write_bytes(content)
    try:
        unpack(room / "a", room / "out")
    except UserError:
        assert [path.name for path in room.iterdir()] == ["a"]
    else:
        assert sorted(contents(room / "out").values()) == sorted(files.values())


@given(st.binary(max_size=1500), st.sampled_from([b"", b"PK\3\4", b"\x1f\x8b\x08", b"BZh9"]))
@settings(max_examples=60, deadline=None)
def test_garbage_is_refused(tmp_path_factory, content, magic):
    room = tmp_path_factory.mktemp("room")
    (room / "a").write_bytes(magic + content)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(room / "a", room / "out")


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "a").write_bytes(tar({"x": b"1"}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    for function in (unpack, unpack_into):
        with pytest.raises(UserError, match="exists"):
            function(tmp_path / "a", tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"mine"}
    with pytest.raises(UserError, match="No such file"):
        unpack(tmp_path / "none", tmp_path / "new")


def test_an_interrupt_leaves_nothing(tmp_path):
    (tmp_path / "a").write_bytes(tar({"x": b"1", "y": b"2"}))

    def stop(position):
        if (tmp_path / "out/x").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack_into(tmp_path / "a", tmp_path / "out", advance=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_digests_tell_what_has_changed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x y").write_text("1")
    archives.check_sums(tmp_path)  # there are none
    archives.write_sums(tmp_path)
    archives.check_sums(tmp_path)
    sums = tmp_path / archives.SUMS
    for name in ("../x", "/etc/passwd", "", "a"):
        sums.write_text(f"{'0' * 64}  {name}\n")
        with pytest.raises(UserError, match="is missing"):
            archives.check_sums(tmp_path)
    archives.write_sums(tmp_path)
    (tmp_path / "a/x y").write_text("2")
    with pytest.raises(UserError, match="a/x y is not what was packed"):
        archives.check_sums(tmp_path)
    archives.write_sums(tmp_path)
    (tmp_path / "a/b").touch()
    with pytest.raises(UserError, match="does not name a/b"):
        archives.check_sums(tmp_path)
    sums.write_text("")
    with pytest.raises(UserError, match="does not name a/b, a/x y"):
        archives.check_sums(tmp_path)


def test_arrays_are_what_numpy_wrote(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array("text"), "c": np.zeros((0, 4))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = load_arrays(tmp_path / "x.npz")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array)


def test_damaged_arrays_are_refused_by_name(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(100.0))
    whole = path.read_bytes()
    damaged = [b"", b"\x93NUMPY", whole[:-9], whole[:300] + b"\1" + whole[301:], bytes(len(whole))]
    for objects in (np.array([print]), np.array([{}])):
        np.savez(path, allow_pickle=True, a=objects)
        damaged.append(path.read_bytes())
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("a.npy", whole)
    damaged.append(path.read_bytes())
    # more than a file of its size can hold
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.npy", bytes(1 << 27))
    damaged.append(path.read_bytes())
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.npz is damaged: .*") as caught:
            load_arrays(path, "make it again")
        assert caught.value.hint == "make it again"
    with pytest.raises(OSError, match="none"):
        load_arrays(tmp_path / "none.npz")
