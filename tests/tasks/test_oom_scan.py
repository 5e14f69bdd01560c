"""The worst batches are found, tried, and leave nothing behind."""

import random

import numpy as np
import pytest
import torch
from espnet2.iterators.multiple_iter_factory import MultipleIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from espnet_spike.errors import UserError
from espnet_spike.nn.norms import MaskedBatchNorm
from espnet_spike.tasks import oom_scan
from espnet_spike.tasks.oom_scan import is_out_of_memory, scan, unchanged, worst_batches


class Model(nn.Module):
    """Takes frames; has running statistics, dropout, and a count of its runs."""

    def __init__(self, limit=10**9):
        super().__init__()
        self.norm, self.linear = MaskedBatchNorm(3), nn.Linear(3, 3)
        self.limit, self.seen = limit, []

    def forward(self, speech, utt_id):
        assert self.training and self.linear.weight.grad is not None
        self.seen.append((len(utt_id), speech.shape[1]))
        if speech.numel() > self.limit:
            torch.empty(1 << 50)
        random.random(), np.random.rand()
        y = torch.dropout(self.linear(self.norm(speech)), 0.5, True)
        return y.square().sum(), {}, None


def factory(tmp_path, lengths, sizes, name="shape"):
    """Return a factory of batches of that many utterances, which have these lengths."""
    utts = {f"{name}{n}": length for n, length in enumerate(lengths)}
    (tmp_path / name).write_text("".join(f"{utt} {n},3\n" for utt, n in utts.items()))
    names = iter(utts)
    made = SequenceIterFactory(
        dataset={utt: (utt, torch.ones(n, 3)) for utt, n in utts.items()},
        batches=[[next(names) for _ in range(size)] for size in sizes],
        collate_fn=lambda items: (
            [utt for utt, _ in items],
            {"speech": nn.utils.rnn.pad_sequence([x for _, x in items], batch_first=True)},
        ),
    )
    made.shape_files = [tmp_path / name]
    return made


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=5), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_no_batch_is_longer_or_larger_than_the_worst(tmp_path_factory, lengths):
    path = tmp_path_factory.mktemp("shapes") / "speech_shape"
    of = {f"{i}-{j}": n for i, batch in enumerate(lengths) for j, n in enumerate(batch)}
    batches = [[f"{i}-{j}" for j in range(len(batch))] for i, batch in enumerate(lengths)]
    path.write_text("".join(f"{utt} {n},80\n" for utt, n in sorted(of.items())))
    longest, padded, squared, product = worst_batches(batches, [path])

    def most(batch, power=1):
        return max(of[utt] for utt in batch) ** power

    assert most(longest) == max(map(most, batches))
    assert len(padded) * most(padded) == max(len(b) * most(b) for b in batches)
    assert len(squared) * most(squared, 2) == max(len(b) * most(b, 2) for b in batches)
    assert len(product) * most(product) == len(padded) * most(padded)


def test_a_scan_tries_the_worst_and_leaves_nothing(tmp_path):
    model = Model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    scan(model, factory(tmp_path, [1, 2, 3, 4, 50, 60], [4, 2]), False, distributed=False)
    assert model.seen == [(2, 60)]
    scan(model, factory(tmp_path, [9, 9, 9, 9, 9, 10], [5, 1]), False, distributed=False)
    assert sorted(model.seen[1:]) == [(1, 10), (5, 9)]
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_every_process_scans_as_many_batches(tmp_path):
    model = Model()
    scan(model, factory(tmp_path, [1, 2, 3, 4, 50, 60], [4, 2]), False, distributed=True)
    assert len(model.seen) == 4


def test_each_part_of_a_large_corpus_is_scanned(tmp_path):
    parts = [factory(tmp_path, [1, n], [1, 1], f"part{n}") for n in (5, 7)]
    model = Model()
    several = MultipleIterFactory([lambda part=part: part for part in parts])
    scan(model, several, False, distributed=False)
    assert model.seen == [(1, 5), (1, 7)]


def test_what_does_not_fit_is_named_with_the_cure(tmp_path):
    model = Model(limit=100)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        scan(model, factory(tmp_path, [1, 2, 3, 4, 50, 60], [4, 2]), False, distributed=False)
    text = str(caught.value)
    for part in ("2 utterances", "this machine", "speech (2, 60, 3)", "shape4", "batch_bins"):
        assert part in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_errors_pass(tmp_path):
    made = factory(tmp_path, [1], [1])
    made.dataset = {}
    with pytest.raises(KeyError):
        scan(Model(), made, False, distributed=False)
    with pytest.raises(ZeroDivisionError), unchanged(Model()):
        1 / 0  # noqa: B018


def test_the_errors_of_lacking_memory_are_known():
    for allocate in (lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50), lambda: [0] * 2**60):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)
    for other in (torch.OutOfMemoryError("x"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when")):
        assert is_out_of_memory(other)
    for other in (RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("x")):
        assert not is_out_of_memory(other)


def test_with_a_gpu_unless_told_otherwise():
    for told, on_gpu, on_cpu in ((None, True, False), (True, True, True), (False, False, False)):
        oom_scan.ask(told)
        assert (oom_scan.wanted(1), oom_scan.wanted(0)) == (on_gpu, on_cpu)
    oom_scan.ask(None)
