import pytest
import torch

from espnet_spike.nn.layers.heads import check_heads, merge_heads, split_heads


def test_each_head_gets_neighbouring_channels():
    x = torch.arange(12).view(1, 2, 6)
    assert split_heads(x, 2).tolist() == [[[[0, 1, 2], [6, 7, 8]], [[3, 4, 5], [9, 10, 11]]]]


def test_merging_undoes_splitting():
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(merge_heads(split_heads(x, 3)), x, rtol=0, atol=0)


@pytest.mark.parametrize("heads", [0, -2, 3, 16])
def test_heads_that_cannot_share_the_channels_are_refused(heads):
    with pytest.raises(ValueError, match=f"attention_heads: {heads} does not divide what it is 8"):
        check_heads(8, heads, "what it is")
    check_heads(8, 4)
