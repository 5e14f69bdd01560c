import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.filtering import Limits, filter_dir, reason_to_drop
from espnet_spike.errors import UserError
from tests.data.test_feature_dir import make


def test_what_training_cannot_use_is_dropped_with_the_reason():
    data = make({"fits": 100, "short": 9, "edge": 10, "long": 3001, "limit": 3000, "dense": 12})
    data.text |= {"dense": "A" * 13, "edge": "A" * 10}
    reasons = {
        utt: reason_to_drop(frames, data.text[utt], Limits(10, 3000))
        for utt, (frames, _) in data.shapes.items()
    }
    assert reasons == dict.fromkeys(("fits", "edge", "limit"), "") | {
        "short": "too short: 9 frames",
        "long": "too long: 3001 frames",
        "dense": "text longer than audio: 13 characters, 12 frames",
    }


@given(
    st.dictionaries(st.text("abc", min_size=1), st.integers(0, 50), min_size=1),
    st.integers(1, 50),
    st.integers(0, 50),
)
@settings(deadline=None)
def test_every_utterance_is_kept_within_the_limits_or_accounted_for(
    tmp_path_factory, frames, low, span
):
    folder, data = tmp_path_factory.mktemp("filter"), make(frames)
    data.write(folder / "org")
    try:
        dropped = filter_dir(folder / "org", folder / "new", Limits(low, low + span))
    except UserError:
        assert not (folder / "new").exists()
        return
    kept = FeatureDir.read(folder / "new")
    assert kept == data.subset(kept.feats)  # written line by line, as a whole directory is
    assert set(kept.feats) | set(dropped) == set(data.feats)
    assert not set(kept.feats) & set(dropped)
    assert all(low <= t <= low + span and t >= 3 for t, _ in kept.shapes.values())


def test_what_is_kept_is_written_and_the_rest_listed(tmp_path, caplog):
    caplog.set_level("INFO")
    make({"a": 100, "b": 5, "c": 7}).write(tmp_path / "org")
    filter_dir(tmp_path / "org", tmp_path / "new", Limits())
    assert set(FeatureDir.read(tmp_path / "new").feats) == {"a"}
    listed = (tmp_path / "new/dropped.txt").read_text()
    assert listed == "b too short: 5 frames\nc too short: 7 frames\n"
    assert "1 of 3 utterances kept; dropped: 2 too short" in caplog.text
    assert set(FeatureDir.read(tmp_path / "org").feats) == {"a", "b", "c"}


def test_nothing_left_is_an_error_and_writes_nothing(tmp_path):
    make({"a": 5}).write(tmp_path / "org")
    with pytest.raises(UserError, match=r"no utterance is left .*1 too short"):
        filter_dir(tmp_path / "org", tmp_path / "new", Limits())
    assert not (tmp_path / "new").exists()
