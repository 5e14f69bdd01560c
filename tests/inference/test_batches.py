import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet_spike.inference.batches import deal, make_batches, number_of_jobs
from espnet_spike.utils import jobs

pytestmark = pytest.mark.xdist_group("tiny_model")  # one process trains it once


frames = st.dictionaries(st.text("abc", min_size=1), st.integers(1, 3000), min_size=1, max_size=60)


@given(frames, st.integers(1, 9), st.integers(1, 5))
def test_batches_do_not_depend_on_the_number_of_jobs(lengths, batch_size, count):
    batches = make_batches(lengths, batch_size)
    assert sorted(key for batch in batches for key in batch) == sorted(lengths)
    shares = deal(batches, lengths, [0] * count)
    assert sorted(key for share in shares for key in share) == sorted(lengths)
    # ESPnet cuts a share into batches again: they must be the same ones
    again = [
        share[i : i + batch_size] for share in shares for i in range(0, len(share), batch_size)
    ]
    assert sorted(again) == sorted(batches)


@given(frames, st.integers(1, 5))
def test_jobs_get_about_the_same_work(lengths, count):
    loads = [0] * count
    deal(make_batches(lengths, 1), lengths, loads)
    assert sum(loads) == sum(lengths.values())
    assert max(loads) - min(loads) <= max(lengths.values())


def test_few_utterances_get_few_jobs():
    assert number_of_jobs(4, audio_seconds=20, batches=10) == 1
    assert number_of_jobs(4, audio_seconds=150, batches=10) == 3
    assert number_of_jobs(4, audio_seconds=1000, batches=2) == 2
    assert number_of_jobs(4, audio_seconds=1000, batches=10) == 4


def test_gpus_that_may_be_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert jobs.visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert jobs.visible_gpus() == []
