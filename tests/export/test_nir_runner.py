import nir
import numpy as np
import pytest
import torch

from espnet_spike.encoders.speech_mamba import SpikingSpeechMambaEncoder
from espnet_spike.errors import UserError
from espnet_spike.export.nir_graph import build, calls
from espnet_spike.export.nir_runner import run_graph
from tests.counting.test_counter import MAMBA, speech
from tests.helpers.nir_files import exported, spikeformer


@pytest.mark.parametrize("decay_input", [True, False])
@pytest.mark.parametrize("v_reset", [0.0, -0.3])
def test_lif_is_that_of_nir_whatever_its_constants(decay_input, v_reset, tmp_path):
    conf = {"v_th": 0.4, "tau": 1.5, "v_reset": v_reset, "decay_input": decay_input}
    _, check = exported(spikeformer(neuron="lif", neuron_conf=conf), tmp_path)
    assert check.spikes > 100 and check.different == 0


def test_a_neuron_fires_at_its_threshold():
    """Ours fire at the threshold, NIR above it: the number exported lies just below."""
    torch.manual_seed(0)
    encoder = SpikingSpeechMambaEncoder(20, **MAMBA).double().eval()
    x, lengths = speech()
    with torch.no_grad(), calls(encoder) as found:
        encoder(x.double(), lengths)
    lif = build(nir, found).nodes["encoders.0.attn.sublayer.neuron_out"]
    at = torch.full((1, 1, 8), 1.0, dtype=torch.float64)  # over tau it is the threshold 0.5
    nodes = {"in": nir.Input({"input": np.array([8])}), "lif": lif}
    graph = nir.NIRGraph(
        nodes | {"out": nir.Output({"output": np.array([8])})}, [("in", "lif"), ("lif", "out")]
    )
    assert run_graph(graph, {"in": at})["out"].all()
    assert not run_graph(graph, {"in": at - 1e-12})["out"].any()
    nodes["lif"] = nir.CubaLIF(*[np.ones(8)] * 5)
    with pytest.raises(UserError, match="CubaLIF"):
        run_graph(nir.NIRGraph(nodes, [("in", "lif")]), {"in": at})
