"""A trained encoder with its CTC as an ONNX graph, in the form that sherpa-onnx loads.

The graph takes log-mel features of samples in the range of +-1, as sherpa-onnx and most others
compute them: it adds ``LEVEL_OFFSET`` itself, since ours are of samples in the range of int16, and
it holds the normalisation.

    x (N, T, D) float32, x_lens (N,) int64  ->  log_probs (N, T', V), log_probs_len (N,) int64

N and T are free. An utterance that is too short for the encoder gets the length 0. Custom autograd
functions and compiled kernels do not appear: under a trace the modules take their readable form,
and recurrences over frames (the selective scan, LIF neurons over frames) become ONNX loops.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from espnet_spike.encoders.monitor import captured, spike_counts
from espnet_spike.errors import UserError
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.nn.ops.backends import scripted
from espnet_spike.tasks.output_length import OutputLength
from espnet_spike.utils.files import replacing
from espnet_spike.utils.install import how_to_install

LEVEL_OFFSET = 2 * math.log(32768)
"""Log-energy of samples in the range of int16 over that of samples in the range of +-1."""

OPSET = 17  # the first with LayerNormalization as one operation
TRACE_FRAMES = 61


class CTCGraph(nn.Module):
    """What is exported, as a module: unit-range features to CTC log-probabilities.

    Args:
        model: an ``ESPnetASRModel`` on features, in evaluation mode.
        input_size: feature dimension D.
        layers: also return the output of every block and the spike counts of every neuron layer
            (what passes a FATReLU counts as one) of a single utterance, see ``layer_names``.

    Attributes:
        min_frames: fewest frames that the encoder can take.

    Raises:
        UserError: the model has no CTC, or does not read features.
    """

    def __init__(self, model: Any, input_size: int, layers: bool = False) -> None:
        super().__init__()
        if model.ctc is None:
            raise UserError(
                "the model has no CTC, which is what is exported beside the encoder",
                "train it with model_conf ctc_weight > 0",
            )
        if getattr(model, "frontend", None) is not None:
            raise UserError(
                f"the model reads audio by {type(model.frontend).__name__}, not features",
                "train it with frontend: null",
            )
        self.model = model
        self.input_size = input_size
        length = OutputLength(model, lambda: model, input_size)
        self.min_frames = next((n for n in range(1, 1000) if length(n) > 0), 1)
        self.watched: dict[str, nn.Module] = {}
        if layers:
            encoder = model.encoder
            blocks = enumerate(getattr(encoder, "encoders", ()))
            self.watched = {f"block {number}": block for number, block in blocks}
            neurons = named_neurons(encoder) or named_fatrelus(encoder)
            self.watched |= {f"spikes {name}": neuron for name, neuron in neurons.items()}

    @property
    def layer_names(self) -> list[str]:
        """Names of the outputs after the first two, in their order."""
        return list(self.watched)

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, ...]:
        """Return log-probabilities ``(N, T', V)``, their lengths ``(N,)``, and layers if asked for.

        Args:
            x: unit-range features ``(N, T, D)``.
            x_lens: ``(N,)``.
        """
        x = scripted(pad_frames)(x + LEVEL_OFFSET, self.min_frames)
        with captured(self.watched, _layer_output) as seen:
            encoded, olens = self.model.encode(x, x_lens.clamp(min=self.min_frames))
        encoded = encoded[0] if isinstance(encoded, tuple) else encoded
        olens = torch.where(x_lens < self.min_frames, torch.zeros_like(olens), olens)
        return self.model.ctc.log_softmax(encoded), olens, *(seen[n] for n in self.watched)


def _layer_output(name: str, module: Any, args: tuple, out: Any) -> Tensor:
    if name.startswith("spikes"):
        return spike_counts(module, args, out)[0]
    while isinstance(out, tuple):  # ESPnet's blocks hand on masks and positions too
        out = out[0]
    return out


def pad_frames(x: Tensor, frames: int) -> Tensor:
    """Return ``x`` ``(N, T, D)`` with zeros appended up to ``frames``."""
    return F.pad(x, [0, 0, 0, max(0, frames - x.shape[1])])


class OnnxCTC:
    """An exported graph in onnxruntime.

    Args:
        path: the file.
        threads: of one operation.

    Raises:
        UserError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        import_extra("onnx")
        onnxruntime = import_extra("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.metadata: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def __call__(self, x: np.ndarray, x_lens: Sequence[int]) -> list[np.ndarray]:
        """Return log-probabilities, lengths, and layers where the graph has them.

        Args:
            x: unit-range features ``(N, T, D)``.
            x_lens: ``(N,)``.
        """
        lengths = np.asarray(x_lens, dtype=np.int64)
        return self.session.run(None, {"x": x.astype(np.float32, copy=False), "x_lens": lengths})


def import_extra(name: str) -> Any:
    """Import a package of the extra ``onnx``.

    Raises:
        UserError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"the export needs the package {name} ({error})", how_to_install("onnx")
        ) from None


def export(graph: CTCGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the graph.

    Args:
        graph: in evaluation mode.
        path: the file, written under a temporary name first.
        metadata: keys and values in the file, see ``espnet_spike.export.sherpa``.

    Raises:
        UserError: the encoder holds something that ONNX has no operation for.
    """
    onnx = import_extra("onnx")
    if graph.training:
        raise ValueError("export needs the evaluation mode: graph.eval()")
    frames = max(TRACE_FRAMES, 3 * graph.min_frames)
    single = bool(graph.watched)  # spike counts are of one utterance
    x = torch.randn(1 if single else 2, frames, graph.input_size) - LEVEL_OFFSET
    x_lens = torch.tensor([frames] if single else [frames, frames - 7])
    names = ["log_probs", "log_probs_len", *graph.layer_names]
    axes: dict[str, dict[int, str]] = {
        "x": {0: "N", 1: "T"},
        "x_lens": {0: "N"},
        "log_probs": {0: "N", 1: "T_out"},
        "log_probs_len": {0: "N"},
    }
    with torch.no_grad():
        shapes = {name: out.shape for name, out in zip(names, graph(x, x_lens), strict=True)}
    for name in graph.layer_names:
        rank = len(shapes[name])
        axes[name] = {axis: f"{name} {axis}" for axis in range(rank - 1)}
    buffer = io.BytesIO()
    encoder = type(graph.model.encoder).__name__
    try:
        with torch.no_grad(), warnings.catch_warnings(), _symbolics():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):  # it prints the whole graph on failure
                torch.onnx.export(
                    graph,
                    (x, x_lens),
                    buffer,  # pyright: ignore[reportArgumentType]  # dynamo=False takes it
                    input_names=["x", "x_lens"],
                    output_names=names,
                    dynamic_axes=axes,
                    opset_version=OPSET,
                    dynamo=False,
                )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{encoder} cannot be exported: {first}",
            "choose another encoder, or another option of it",
        ) from error
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, dict(metadata))
    with replacing(path) as temporary:
        onnx.save(model, str(temporary))
        onnx.checker.check_model(str(temporary))


@contextlib.contextmanager
def _symbolics() -> Iterator[None]:
    """Teach the exporter, within the context, the operations that it lacks."""
    symbolics: dict[str, Callable[..., Any]] = {
        "aten::expm1": _expm1,
        "aten::mT": _mt,
        "aten::rms_norm": _rms_norm,
    }
    for name, symbolic in symbolics.items():
        torch.onnx.register_custom_op_symbolic(name, symbolic, OPSET)
    try:
        yield
    finally:
        for name in symbolics:
            torch.onnx.unregister_custom_op_symbolic(name, OPSET)


def _constant(g: Any, value: float) -> Any:
    return g.op("Constant", value_t=torch.tensor(value))


def _expm1(g: Any, x: Any) -> Any:
    """2 tanh(x/2) / (1 - tanh(x/2)): exp(x) - 1 itself would cancel for small x."""
    t = g.op("Tanh", g.op("Mul", x, _constant(g, 0.5)))
    return g.op("Div", g.op("Add", t, t), g.op("Sub", _constant(g, 1.0), t))


def _mt(g: Any, x: Any) -> Any:
    axes = list(range(x.type().dim()))
    axes[-1], axes[-2] = axes[-2], axes[-1]
    return g.op("Transpose", x, perm_i=axes)


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    from torch.onnx import symbolic_helper

    epsilon: Any = symbolic_helper._get_const(eps, "f", "eps")
    if epsilon is None:
        epsilon = torch.finfo(torch.float32).eps
    mean = g.op("ReduceMean", g.op("Mul", x, x), axes_i=[-1], keepdims_i=1)
    y = g.op("Div", x, g.op("Sqrt", g.op("Add", mean, _constant(g, epsilon))))
    return y if symbolic_helper._is_none(weight) else g.op("Mul", y, weight)
