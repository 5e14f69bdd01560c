import pytest
import torch

from espnet_spike.nn.layers.softmax_attention import SelfAttention, attention_mask
from espnet_spike.nn.stream_state import Carries


@torch.no_grad()
def test_attention_window():
    lengths = torch.tensor([5, 2, 0])
    visible = attention_mask(lengths, 5, (1, 0))[:, 0]
    assert visible[0].tolist() == [[j in (i - 1, i) for j in range(5)] for i in range(5)]
    assert visible[1, :2].tolist() == [
        [True, False, False, False, False],
        [True, True] + 3 * [False],
    ]
    assert visible.any(-1).all()  # every row sees something: no softmax over nothing
    assert attention_mask(lengths, 5)[:, 0, 0].sum(1).tolist() == [5, 2, 1]
    torch.manual_seed(0)
    attention = SelfAttention(8, 2).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    wide = attention(x, None, attention_mask(lengths, 5, (9, 9)))
    torch.testing.assert_close(wide[0], attention(x, None, attention_mask(lengths, 5))[0])
    assert wide.isfinite().all()


@torch.no_grad()
def test_attention_is_that_of_espnet():
    from espnet2.legacy.nets.pytorch_backend.transformer.attention import MultiHeadedAttention

    theirs, ours = MultiHeadedAttention(2, 8, 0.0).double(), SelfAttention(8, 2).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    lengths = torch.tensor([7, 4])
    mask = torch.arange(7) < lengths[:, None]
    want = theirs(x, x, x, mask[:, None])
    got = ours(x, mask, attention_mask(lengths, 7))
    torch.testing.assert_close(got[mask], want[mask])


@torch.no_grad()
def test_a_stream_in_chunks_sees_the_window_on_the_left():
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, window=(3, 0)).double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    whole = attention(x, None, attention_mask(torch.tensor([9]), 9, (3, 0)))
    with Carries(attention).active():
        parts = [attention(part, None, None) for part in x.split([1, 4, 2, 2], 1)]
        assert attention.carry["k"].shape == (1, 2, 3, 4)  # no more than the window is kept
    torch.testing.assert_close(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("window", [None, (3, 1)])
def test_a_stream_that_would_look_ahead_is_refused(window):
    attention = SelfAttention(8, 2, window=window)
    with Carries(attention).active(), pytest.raises(ValueError, match="attention_window"):
        attention(torch.zeros(1, 2, 8), None, None)


def test_heads_have_to_divide_the_channels():
    with pytest.raises(ValueError, match="3 does not divide output_size 8"):
        SelfAttention(8, 3)
