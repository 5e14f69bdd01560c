"""Model files: whole or not, and read without running what is in them."""

import os
import pickle
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.utils.checkpoints import is_whole, load_tensors
from tests.helpers.pth import write_pth


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_damaged_file_is_not_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("pth") / "a.pth"
    write_pth(path, os.urandom(300))
    assert is_whole(path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert not is_whole(path)
    path.unlink()
    assert not is_whole(path)


@pytest.mark.parametrize("after", range(4))
def test_a_save_stopped_by_an_exception_is_not_whole(tmp_path, after):
    """Ctrl-C in torch.save closes the archive properly, so its checksums hold."""
    import torch

    path = tmp_path / "a.pth"
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    states = {"model": model.state_dict(), "optimizers": [optimizer.state_dict()], "n": None}
    torch.save(states, path)
    assert is_whole(path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "b.pth", "w") as partial:
        tensors = 0
        for name in archive.namelist():
            tensors += "/data/" in name
            if "/data/" not in name or tensors <= after:
                partial.writestr(name, archive.read(name))
    assert tensors > 4
    assert not is_whole(tmp_path / "b.pth")


def test_nothing_in_a_model_file_is_run(tmp_path):
    """A pickle can name any function; looking whether a file is whole must not call it."""
    harm = tmp_path / "harm"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(harm),)

    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([Evil()]))
    is_whole(tmp_path / "a.pth")
    assert not harm.exists()


class Evil:
    """Its pickle makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_come_back_and_objects_do_not(tmp_path, legacy, monkeypatch):
    import torch

    path = tmp_path / "a.pth"
    states = {"model": {"w": torch.arange(6.0).view(2, 3)}, "n": [1, None, "x"]}
    torch.save(states, path)
    found = load_tensors(path)
    assert torch.equal(found["model"]["w"], states["model"]["w"]) and found["n"] == states["n"]
    for trust in ("0", "1"):  # by which ESPnet's own function would be talked into it
        monkeypatch.setenv("ESPNET_ALLOW_UNSAFE_TORCH_LOAD", trust)
        torch.save([Evil(tmp_path / "harm")], path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match=r"a\.pth is damaged, or"):
            load_tensors(path)
    path.write_bytes(pickle.dumps(Evil(tmp_path / "harm")))
    with pytest.raises(UserError, match="no model file"):
        load_tensors(path)
    with pytest.raises(UserError, match="no such model file"):
        load_tensors(tmp_path / "none.pth")
    assert not (tmp_path / "harm").exists()


def test_a_model_file_that_unpacks_to_much_more_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": 1}))
        archive.writestr("archive/data/0", bytes(40 << 20))
    with pytest.raises(UserError, match="many times its size"):
        load_tensors(path)
    assert not is_whole(path)


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_damage_is_an_error_that_names_the_file(tmp_path_factory, data):
    import torch

    path = tmp_path_factory.mktemp("pth") / "a.pth"
    torch.save({"w": torch.ones(3), "n": 1}, path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert is_whole(path) in (True, False)
    try:
        assert isinstance(load_tensors(path), dict)
    except UserError as error:
        assert "a.pth" in error.message
