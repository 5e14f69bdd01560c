"""A recording that is kept is the one that was made, and no other is taken for it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from espnet_spike.data.ark import parse_entry
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.errors import UserError
from espnet_spike.inference.ctc import Word
from espnet_spike.results.recording import (
    RECORDING,
    DecodedUtterance,
    LayerSpikes,
    Recording,
    choose_utterance,
    read_recording,
    write_recording,
)
from espnet_spike.results.utterance import record_decoded
from espnet_spike.utils.archives import load_arrays
from tests.export.test_reparameterize import MODEL, experiment


def test_the_utterance_of_the_nearest_duration_is_chosen():
    assert choose_utterance({"b": 3.0, "a": 5.0, "c": 9.0}) == "a"
    assert choose_utterance({"b": 3.0, "c": 9.0}, seconds=8.0) == "c"


def same(one, two):
    assert (one.utt, one.seconds, one.events, one.frames) == (
        *(two.utt, two.seconds, two.events, two.frames),
    )
    assert one.words == two.words
    assert np.array_equal(one.features, two.features)
    assert [(a.name, a.levels) for a in one.layers] == [(b.name, b.levels) for b in two.layers]
    for a, b in zip(one.layers, two.layers, strict=True):
        assert a.counts.dtype == b.counts.dtype and np.array_equal(a.counts, b.counts)
    assert list(one.log_gammas) == list(two.log_gammas)
    for name, decay in one.log_gammas.items():
        assert np.array_equal(decay, two.log_gammas[name])


RNG = np.random.default_rng(0)
RECORDINGS = {
    "spikes": Recording(
        *("漢 1", 1.234567, RNG.normal(size=(7, 3)).astype(np.float32)),
        [
            LayerSpikes("embed.0", RNG.integers(0, 6, (7, 4)).astype(np.float32), 6),
            LayerSpikes("embed.1", np.full((2, 2), 300, np.float32), 400),
            LayerSpikes("not whole", np.full((2, 2), 0.5, np.float32), 1),
        ],
        words=[Word("今", 0.0, 1 / 3), Word('"<b>', 0.4, 0.5)],
        log_gammas={"encoders.0.attn.decay": RNG.normal(size=4)},
        frames=7,
    ),
    "nothing to show": Recording("u", 2.0, np.zeros((2, 3)), events=True),
    "nothing recognised": Recording("u", 2.0, np.zeros((2, 3)), words=[]),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_is_read_is_what_was_written(tmp_path, name):
    path = tmp_path / RECORDING
    write_recording(path, RECORDINGS[name], "digest")
    found = read_recording(path, "digest")
    assert found is not None
    same(found, RECORDINGS[name])
    assert read_recording(path, "another digest") is None


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn"])
def test_what_is_no_recording_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / RECORDING).write_bytes(content)
    assert read_recording(tmp_path / RECORDING, "digest") is None


@pytest.fixture
def decoded(tmp_path):
    exp, folder = experiment(tmp_path)
    data = FeatureDir.read(folder)
    set_dir = exp / "decode" / "test"
    set_dir.mkdir(parents=True)
    options = {"T": 4, "beam_size": 3}
    return DecodedUtterance(exp / MODEL, set_dir, options, data, sorted(data.feats)[0])


def test_an_utterance_is_kept_as_it_was_recorded(decoded):
    assert decoded.kept() is None
    first = record_decoded(decoded)
    assert first.layers and first.log_gammas
    same(decoded.kept(), first)


def test_what_changes_a_recording_makes_it_another(decoded):
    record_decoded(decoded)
    assert replace(decoded, options={"T": 4}).kept()  # the search is not of the encoder
    assert not replace(decoded, options={"T": 2}).kept()
    assert not replace(decoded, utt=sorted(decoded.data.feats)[1]).kept()
    tokens = decoded.set_dir / "token_int"
    tokens.write_text("".join(f"{key} 3 4\n" for key in decoded.data.feats))
    assert not decoded.kept()
    assert record_decoded(decoded).words is not None and decoded.kept().words is not None
    for file in (decoded.checkpoint, decoded.checkpoint.parent / "config.yaml", ark(decoded)):
        content, times = file.read_bytes(), file.stat()
        os.utime(file, ns=(0, times.st_mtime_ns + 1))
        assert decoded.kept()  # a copy is as good
        changed = bytearray(content)
        changed[content.index(b"\0B") + 40 if file.suffix == ".ark" else -1] ^= 1
        file.write_bytes(changed)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert not decoded.kept()
        file.write_bytes(content)
    assert decoded.kept()


def ark(decoded):
    return Path(parse_entry(decoded.utt, decoded.data.feats[decoded.utt]).path)


def test_a_damaged_recording_is_none(tmp_path):
    """Whatever is damaged in it, also where it is a whole file again."""
    path = tmp_path / RECORDING
    write_recording(path, RECORDINGS["spikes"], "digest")
    content = path.read_bytes()
    arrays = load_arrays(path)
    assert read_recording(path, "digest") is not None
    for change in (
        {"features": np.zeros((7, 3), np.float32)},
        {"counts0": arrays["counts0"] + np.uint8(1)},
        {"facts": np.array(str(arrays["facts"]).replace("1.234567", "9.234567"))},
        {"more": np.zeros(1)},
        {"check": np.array("x")},
        {"facts": np.array("{}")},
    ):
        np.savez_compressed(path, allow_pickle=False, **(arrays | change))
        assert read_recording(path, "digest") is None
    for bad in (content[:-30], content[:200] + b"\xff" + content[201:]):
        path.write_bytes(bad)
        assert read_recording(path, "digest") is None


@pytest.mark.parametrize("line", ["", "3 x", "other 3"])
def test_damaged_ids_of_tokens_are_named(decoded, line):
    key = "other" if line.startswith("other") else decoded.utt
    (decoded.set_dir / "token_int").write_text(f"{key} {line.removeprefix('other ')}\n")
    if line:
        with pytest.raises(UserError, match=rf"token_int: {decoded.utt}: no ids of tokens"):
            _ = decoded.hypothesis
    else:
        assert decoded.hypothesis == []
