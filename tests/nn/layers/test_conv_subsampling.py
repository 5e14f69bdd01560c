import pytest
import torch
from torch import nn

from espnet_spike.nn.layers.conv_subsampling import FRONT_ENDS, ConvFrontEnd
from espnet_spike.nn.stream_state import Carries


@pytest.mark.parametrize("name", list(FRONT_ENDS))
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 17])
def test_front_end_lengths(name, frames):
    front_end = ConvFrontEnd(13, 6, name)
    out, olens = front_end(torch.randn(2, frames, 13), torch.tensor([frames, 1]))
    assert out.shape == (2, -(-frames // 4), 6)
    assert olens.tolist() == [-(-frames // 4), 1]
    assert front_end.factor == 4


@torch.no_grad()
def test_it_is_convolution_norm_and_activation_of_the_padded_features():
    torch.manual_seed(0)
    front_end = ConvFrontEnd(9, 6, "speechbrain", channels=3).double()
    x = torch.randn(1, 8, 9, dtype=torch.double)
    y = x[:, None]
    for index, (kernel, stride, channels) in enumerate(front_end.layers):
        assert channels == 3
        conv, norm = front_end.convs[index], front_end.norms[index]
        y = nn.functional.conv2d(y, conv.weight, conv.bias, stride, kernel // 2)
        y = nn.functional.leaky_relu(norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    want = front_end.out(y.permute(0, 2, 3, 1).flatten(2))
    torch.testing.assert_close(front_end(x, torch.tensor([8]))[0], want)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_the_skip_adds_the_normalised_input_of_the_last_convolution(causal):
    torch.manual_seed(0)
    front_end = ConvFrontEnd(9, 6, "speechbrain", channels=3, skip=True, causal=causal).double()
    x = torch.randn(1, 9, 9, dtype=torch.double)
    seen = {}
    front_end.convs[2].register_forward_pre_hook(lambda _, args: seen.update(inputs=args[0]))
    got = front_end(x, torch.tensor([9]))[0]
    inputs = seen["inputs"]
    main, skip = (
        norm(nn.functional.conv2d(inputs, conv.weight, conv.bias).permute(0, 2, 3, 1))
        for conv, norm in (
            (front_end.convs[2], front_end.norms[2]),
            (front_end.skip.conv, front_end.skip.norm),
        )
    )
    want = front_end.out((nn.functional.leaky_relu(main) + skip).flatten(2))
    torch.testing.assert_close(got, want)
    if causal:
        with Carries(front_end).active():
            parts = [front_end(part, torch.tensor([9]))[0] for part in x.split([3, 1, 5], 1)]
        torch.testing.assert_close(torch.cat(parts, 1), got)


@torch.no_grad()
def test_an_output_frame_of_the_causal_form_sees_no_later_input():
    torch.manual_seed(0)
    front_end = ConvFrontEnd(9, 6, causal=True).double()
    x = torch.randn(1, 16, 9, dtype=torch.double)
    changed = x.clone()
    changed[:, 9:] += 1
    a, b = (front_end(y, torch.tensor([16]))[0] for y in (x, changed))
    # output frame n ends with input frame 4 n
    assert torch.equal(a[:, :3], b[:, :3]) and not torch.allclose(a[:, 3], b[:, 3])


def test_unknown_front_ends_and_streams_that_look_ahead_are_refused():
    with pytest.raises(ValueError, match="did you mean 'conmamba'"):
        ConvFrontEnd(9, 6, "conmambo")
    front_end = ConvFrontEnd(9, 6)
    with Carries(front_end).active(), pytest.raises(ValueError, match="causal: true"):
        front_end(torch.zeros(1, 4, 9), torch.tensor([4]))
