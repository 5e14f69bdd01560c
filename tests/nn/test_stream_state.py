import pytest
import torch
from torch import nn

from espnet_spike.nn.stream_state import Carries, Stateful


class Sum(Stateful, nn.Module):
    """A running sum over the frames of a stream."""

    def forward(self, x):
        if self.carry is None:
            return x.cumsum(1)
        y = x.cumsum(1) + self.carry.get("sum", 0)
        self.carry["sum"] = y[:, -1:]
        return y


def network():
    return nn.Sequential(Sum(), nn.Sequential(nn.Identity(), Sum()))


def test_chunks_of_two_interleaved_streams_give_the_whole():
    net = network()
    streams = {seed: Carries(net) for seed in (0, 1)}
    whole = {
        seed: torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(seed))
        for seed in streams
    }
    found = {seed: [] for seed in streams}
    for start in (0, 2, 4):
        for seed, stream in streams.items():
            with stream.active():
                found[seed].append(net(whole[seed][:, start : start + 2]))
    for seed, parts in found.items():
        torch.testing.assert_close(torch.cat(parts, 1), net(whole[seed]))


def test_a_stream_leaves_the_network_to_whole_utterances():
    net = network()
    stream = Carries(net)
    with pytest.raises(RuntimeError), stream.active():
        assert net[0].carry is not None and net[1][1].carry is not None
        raise RuntimeError
    assert net[0].carry is None and net[1][1].carry is None


def test_the_memory_of_a_stream_is_that_of_its_states():
    net = network()
    stream = Carries(net)
    assert stream.nbytes() == 0
    with stream.active():
        net(torch.zeros(1, 5, 3))
    assert stream.nbytes() == 2 * 3 * 4  # two sums of three channels, four bytes each


def test_rows_of_a_batch_go_on_in_any_order_and_number():
    net = network()
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    whole, stream = net(x), Carries(net)
    assert stream.rows() == []
    with stream.active():
        net(x[:, :3])
    rows = stream.rows()
    assert len(rows) == 3 and rows[0][0]["sum"].shape == (1, 2)
    order = [2, 0, 2, 1]
    with Carries.of_rows(net, [rows[i] for i in order]).active():
        y = net(x[order, 3:])
    torch.testing.assert_close(y, whole[order, 3:])
