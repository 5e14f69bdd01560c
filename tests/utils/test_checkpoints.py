"""Model files: whole or not, and read without running what is in them."""

import os
import pickle
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.errors import UserError
from espnet_spike.utils.checkpoints import fill, is_whole, load_parameters, load_tensors
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
    whole = is_whole(path)
    assert whole in (True, False)
    try:
        found = load_tensors(path)
    except UserError as error:
        assert "a.pth" in error.message
    else:  # of a name or a date
        assert whole and torch.equal(found["w"], torch.ones(3)) and found["n"] == 1


@pytest.mark.parametrize("wrapper", [None, "module", "state_dict"])
def test_a_model_is_filled_with_its_own_parameters(tmp_path, wrapper):
    import torch

    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    state = model.state_dict()
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "a.pth")
    fill(other, tmp_path / "a.pth")
    assert torch.equal(other.weight, model.weight) and torch.equal(other.bias, model.bias)


def test_parameters_of_another_model_are_an_error_with_the_first_names(tmp_path):
    import torch

    path = tmp_path / "a.pth"
    model = torch.nn.BatchNorm1d(3)
    for change, message in (
        ({"weight": torch.ones(2)}, r"weight: copying a param with shape torch.Size\(\[2\]\)"),
        ({"bias": None}, r"it lacks bias\n"),
        ({n: None for n in model.state_dict()}, "it lacks weight, bias, running_mean and 2 more\n"),
        ({"more": torch.ones(1)}, "the model lacks more\n"),
        ({"bias": torch.ones(3, dtype=torch.long)}, r"bias \(3,\) of whole numbers for \(3,\)\n"),
    ):
        state = {n: v for n, v in (model.state_dict() | change).items() if v is not None}
        torch.save(state, path)
        with pytest.raises(UserError, match=rf"a\.pth is not of this model: .*{message}"):
            fill(model, path)
    torch.save({"weight": torch.ones(3)}, path)
    fill(model, path, lambda name: name != "weight")


def test_only_the_finite_parameters_of_one_model_are_taken(tmp_path):
    import torch

    path = tmp_path / "a.pth"
    for state, message in (
        ({"model": {"w": torch.ones(1)}, "reporter": {}}, "else than .* resumes a training"),
        ({"w": torch.ones(1), "n": 1}, "something else"),
        ([torch.ones(1)], "something else"),
        ({1: torch.ones(1)}, "something else"),
        ({"w": torch.tensor([0.0, float("nan")])}, "not a number, or infinite: w"),
        ({"w": torch.tensor([float("inf")], dtype=torch.half)}, "not a number, or infinite: w"),
    ):
        torch.save(state, path)
        with pytest.raises(UserError, match=rf"a\.pth.*{message}"):
            load_parameters(path)
