import copy

import pytest
import torch

from espnet_spike.tasks.arguments import parse_espnet
from espnet_spike.tasks.asr import SpikeASRTask
from espnet_spike.tasks.build import build_on_meta, token_names
from espnet_spike.tasks.output_length import OutputLength

SMALL = {"output_size": 8, "attention_heads": 2, "linear_units": 8, "num_blocks": 1}
CONV2D = ["conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8"]
CASES = [
    *[("transformer", SMALL | {"input_layer": layer}) for layer in [*CONV2D, "conv1d2", "linear"]],
    *[("conformer", SMALL | {"input_layer": layer}) for layer in CONV2D],
    *[
        ("e_branchformer", SMALL_E | {"input_layer": layer})
        for SMALL_E in [{k: v for k, v in SMALL.items() if k != "linear_units"}]
        for layer in [*CONV2D, "conv1d1", "conv1d2", "conv1d3"]
    ],
    *[("iml_spikeformer", SMALL | {"input_layer": layer}) for layer in CONV2D],
]


def arguments(encoder, conf, **more):
    config = {"encoder": encoder, "encoder_conf": conf, "model_conf": {"ctc_weight": 1.0}} | more
    args = parse_espnet(SpikeASRTask, config, ["--input_size", "40"])
    args.token_list = token_names(7)
    return args


def real_length(model, frames):
    """What the model puts out for one utterance; 0 if it refuses."""
    try:
        with torch.no_grad():
            out, olens = model.encode(torch.zeros(1, frames, 40), torch.tensor([frames]))
    except Exception:
        return 0
    assert out.shape[1] == olens[0]
    return int(olens[0])


@pytest.mark.parametrize(("encoder", "conf"), CASES)
def test_the_formula_is_what_the_encoder_does(encoder, conf):
    args = arguments(encoder, conf)
    length = OutputLength(build_on_meta(SpikeASRTask, args), None, 40)
    assert length.exact_formula
    model = SpikeASRTask.build_model(copy.deepcopy(args)).eval()
    for frames in [*range(1, 34), 50, 61, 100]:
        assert length(frames) == real_length(model, frames), frames


@pytest.mark.parametrize("layers", [1, 2])
def test_a_length_adaptor_counts(layers):
    args = arguments(
        "transformer",
        SMALL,
        postencoder="length_adaptor",
        postencoder_conf={"length_adaptor_n_layers": layers},
    )
    length = OutputLength(build_on_meta(SpikeASRTask, args), None, 40)
    model = SpikeASRTask.build_model(copy.deepcopy(args)).eval()
    for frames in range(1, 60):
        assert length(frames) == real_length(model, frames), frames


def test_an_encoder_without_a_formula_is_run_as_seldom_as_possible():
    args = arguments("rnn", {"num_layers": 1, "hidden_size": 8, "output_size": 8, "subsample": [3]})
    built = []

    def build():
        built.append(SpikeASRTask.build_model(copy.deepcopy(args)).eval())
        return built[0]

    unknown = OutputLength(build_on_meta(SpikeASRTask, args), None, 40)
    assert not unknown.exact_formula
    with pytest.raises(ValueError, match="without running the model"):
        unknown(60)
    length = OutputLength(build_on_meta(SpikeASRTask, args), build, 40)
    assert not length.exact_formula and not built
    assert [length.reaches(frames, 4) for frames in (60, 5, 61, 6, 62, 4)] == [True, False] * 3
    assert len(length._known) <= 3
    assert len(built) == 1
    assert all(length(frames) == real_length(built[0], frames) for frames in range(1, 30))
