import numpy as np
import pytest

from espnet_spike.data.ark import ArkWriter
from espnet_spike.data.noises import RecordedNoise
from espnet_spike.errors import UserError


def write(folder, sizes=(3, 5)):
    rows = []
    with ArkWriter(folder / "feats.ark") as ark:
        for i, frames in enumerate(sizes):
            matrix = np.full((frames, 4), i, dtype=np.float32)
            rows.append(f"noise{i} {folder}/feats.ark:{ark.write(f'noise{i}', matrix)}\n")
    (folder / "feats.scp").write_text("".join(rows))


def test_recordings_are_read_in_the_order_of_the_table(tmp_path):
    write(tmp_path)
    noise = RecordedNoise(tmp_path)
    assert len(noise) == 2 and noise.names == ["noise0", "noise1"]
    assert noise[1].shape == (5, 4) and [matrix[0, 0] for matrix in noise[:]] == [0, 1]


def test_an_absent_or_empty_folder_is_named_at_first_use(tmp_path):
    noise = RecordedNoise(tmp_path / "noise")
    with pytest.raises(UserError, match=r"noise/feats\.scp: no such file"):
        len(noise)
    (tmp_path / "feats.scp").write_text("")
    with pytest.raises(UserError, match="names no recording"):
        RecordedNoise(tmp_path)[0]
