"""Count a trained model on test sets: operations, sparsity and energy, utterance by utterance."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from torch import Tensor

from espnet_spike.counting.costs import (
    PARTS,
    PRODUCTS,
    ByLength,
    Costs,
    add_costs,
    of_encoder,
    part_of,
    to_table,
    total,
)
from espnet_spike.counting.counter import Counter
from espnet_spike.counting.energy import (
    PICO,
    CostModel,
    describe_model,
    energy,
    quantised,
    ratio_interval,
    real_share,
)
from espnet_spike.counting.forms import Form, encoder_costs, forms_of, load_form
from espnet_spike.counting.neurobench import (
    NEUROBENCH,
    NOTES,
    execution_rate,
    static_metrics,
    workload_metrics,
)
from espnet_spike.counting.twin import TrainedTwin, Twin, encoder_input_size, trained_twin_of
from espnet_spike.data.ark import ArkReader
from espnet_spike.data.feature_dir import FeatureDir
from espnet_spike.data.feature_extractor import check_same_features
from espnet_spike.encoders.spike_options import SpikeOptions
from espnet_spike.errors import UserError
from espnet_spike.experiment import model_file, name_within, recorded_name
from espnet_spike.inference.ctc import collapse
from espnet_spike.nn.accounting import COLUMNS, SIZES, Cost
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.results.recording import DecodedUtterance, choose_utterance
from espnet_spike.results.utterance import record_decoded
from espnet_spike.tasks.describe import subsampling_factor
from espnet_spike.tasks.loading import load_model, open_model
from espnet_spike.utils.files import file_digest, name_some, present, read_table, write_json
from espnet_spike.utils.provenance import environment, portable_path
from espnet_spike.utils.shapes import read_shaped

COUNT = "count.json"
BASELINES = ("trained_twin", "twin", "quantised")
"""What our energy is compared with, the fair comparison first."""
BYTES = 4  # of a value, where bytes are printed; cost models have their own


@dataclass
class Utterance:
    """What one utterance costs.

    Attributes:
        seconds: of audio.
        frames: of features.
        tokens: that the decoder was run on; 0 without decoder.
        costs: by layer and kind.
        twin: of the dense twin of the encoder; None where the encoder is its own.
    """

    seconds: float
    frames: int
    tokens: int
    costs: Costs
    twin: Costs | None

    def parts(self) -> dict[str, Costs]:
        """Return the costs of each part that has any."""
        found: dict[str, Costs] = {}
        for (layer, kind), cost in self.costs.items():
            found.setdefault(part_of(layer), {})[layer, kind] = cost
        return {part: found[part] for part in PARTS if part in found}

    def encoder(self) -> Costs:
        """Return the costs of front end and encoder."""
        return of_encoder(self.costs)


@dataclass
class SetCount:
    """Sums over a set, and the figures of each utterance.

    Attributes:
        layers, twin, trained_twin: costs of the model, of its dense twin and of a trained twin; of
            the last two front end and encoder, empty where there is none.
        utterances: figures by name.
        skipped: utterances that are too short.
        uncovered, lost: see ``Counter``.
        seconds: of audio.
        in_slots: the neurons of several levels run as slots of 0 and 1.
        lengths: costs of front end and encoder of utterances of like length, by the name that the
            sums of the whole set have in ``count.json``.
    """

    layers: Costs = field(default_factory=dict)
    twin: Costs = field(default_factory=dict)
    trained_twin: Costs = field(default_factory=dict)
    utterances: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    uncovered: dict[str, list[float]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    in_slots: bool = False
    lengths: dict[str, ByLength] = field(default_factory=dict)

    def _note(self, name: str, frames: int, costs: Costs) -> None:
        self.lengths.setdefault(name, ByLength()).add(frames, costs)

    def by_length(self) -> dict[str, Any]:
        """Return what ``count.json`` holds of utterances of like length."""
        return {name: to_table(found.groups()) for name, found in self.lengths.items()}

    def add(self, utt: str, found: Utterance, models: Sequence[CostModel]) -> None:
        """Add an utterance."""
        add_costs(self.layers, found.costs)
        add_costs(self.twin, found.twin or {})
        self.seconds += found.seconds
        parts = found.parts()
        encoder = found.encoder()
        twin = encoder if found.twin is None else found.twin
        self._note("layers", found.frames, encoder)
        if found.twin is not None:
            self._note("twin_layers", found.frames, of_encoder(found.twin))
        self.utterances[utt] = {
            "seconds": found.seconds,
            "frames": found.frames,
            "tokens": found.tokens,
            "parts": {part: columns(total(costs.values())) for part, costs in parts.items()},
            "energy": {
                model.name: {
                    **{part: energy(model, costs) for part, costs in parts.items()},
                    "encoder_with_front_end": energy(model, encoder),
                    "twin": energy(model, twin, dense=True),
                    # of slots nobody knows what the whole value was
                    "quantised": None if self.in_slots else energy(quantised(model), encoder),
                }
                for model in models
            },
        }

    def add_trained_twin(
        self, costs: Iterable[tuple[str, Costs]], models: Sequence[CostModel]
    ) -> None:
        """Add what a trained twin costs on the utterances that have been counted."""
        for utt, found in costs:
            encoder = of_encoder(found)
            add_costs(self.trained_twin, encoder)
            self._note("trained_twin_layers", self.utterances[utt]["frames"], encoder)
            for model in models:
                energies = self.utterances[utt]["energy"][model.name]
                energies["trained_twin"] = energy(model, encoder)

    def in_form(
        self, costs: Iterable[tuple[str, Costs]], models: Sequence[CostModel]
    ) -> "SetCount":
        """Return the same set encoded in another form, beside the same baselines."""
        other = SetCount(seconds=self.seconds)
        for utt, found in costs:
            encoder = of_encoder(found)
            add_costs(other.layers, encoder)
            other._note("layers", self.utterances[utt]["frames"], encoder)
            energies = {}
            for model in models:
                known = self.utterances[utt]["energy"][model.name]
                kept = {name: known[name] for name in BASELINES if name in known}
                energies[model.name] = kept | {"encoder_with_front_end": energy(model, encoder)}
            other.utterances[utt] = {"energy": energies}
        return other

    @property
    def spikes(self) -> bool:
        """Whether anything in front end and encoder spikes."""
        return any(cost.slots > 0 for cost in of_encoder(self.layers).values())


def columns(cost: Cost) -> dict[str, float]:
    """Return the counts as plain numbers, with bytes."""
    found = {name: _plain(getattr(cost, name)) for name in COLUMNS}
    found["bytes_read"] = _plain(BYTES * cost.values_read + cost.spike_bits_read / 8)
    found["bytes_written"] = _plain(BYTES * cost.values_written + cost.spike_bits_written / 8)
    return found


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def sparsity(cost: Cost) -> float | None:
    """Return the share of zeros among activations, None where there are none."""
    return None if not cost.inputs else round(1 - cost.nonzeros / cost.inputs, 6)


def firing_rate(cost: Cost) -> float | None:
    """Return spikes over what could fire, None where nothing spikes."""
    return None if not cost.slots else round(cost.spikes / cost.slots, 6)


def saved_macs(model: Any) -> dict[str, float]:
    """Return layer -> multiply-accumulates that a zero saves, of the FATReLU points."""
    parts = {"encoder": model.encoder, "decoder": model.decoder}
    return {
        f"{part}.{name}": point.macs
        for part, module in parts.items()
        if module is not None
        for name, point in named_fatrelus(module).items()
    }


def point_sparsity(
    layers: Mapping[tuple[str, str], Cost], points: Mapping[str, float], by_macs: bool
) -> float | None:
    """Return the mean sparsity of FATReLU points over a set; None where there are none.

    Args:
        layers: sums over the set.
        points: of ``saved_macs``.
        by_macs: weigh each point by the multiply-accumulates it feeds; otherwise all count alike.
    """
    found = {name: layers[name, "activation"] for name in points if (name, "activation") in layers}
    weights = {name: cost.inputs * points[name] if by_macs else 1 for name, cost in found.items()}
    if not sum(weights.values()):
        return None
    zeros = sum(weights[name] * (1 - cost.nonzeros / cost.inputs) for name, cost in found.items())
    return round(zeros / sum(weights.values()), 6)


def count_utterances(
    model: Any,
    data: FeatureDir,
    hypotheses: Mapping[str, Sequence[int]] | None,
    twin: Twin,
    result: SetCount,
) -> Iterator[tuple[str, Utterance]]:
    """Yield what each utterance of a set costs.

    Args:
        model: an ESPnet ASR model in evaluation.
        data: the features.
        hypotheses: recognised tokens; where None, the best path of CTC stands in.
        twin: counts the dense twin.
        result: gets what was skipped and what no rule covers.
    """
    frames = feature_frames(model, data)
    twins = {count: twin.costs(count) for count in set(frames.values())}
    neurons = named_neurons(model.encoder).values()
    result.in_slots = any(n.spike_mode != "integer" and n.T > 1 for n in neurons)
    with torch.inference_mode(), ArkReader() as reader, Counter(model) as counter:
        for utt in sorted(data.feats):
            speech = torch.from_numpy(reader.read(utt, data.feats[utt]).copy())[None].float()
            counter.reset()
            try:
                tokens = run_model(
                    counter, model, speech, None if hypotheses is None else hypotheses[utt]
                )
            except TooShortUttError:
                result.skipped.append(utt)
                continue
            costs, dense = dict(counter.costs), twins[frames[utt]]
            if dense is not None:  # which hears by the same front end
                dense = dense | {key: cost for key, cost in costs.items() if is_front_end(key[0])}
            yield utt, Utterance(data.durations[utt], frames[utt], tokens, costs, dense)
        result.uncovered = {name: list(value) for name, value in counter.uncovered.items()}
        result.lost = dict(counter.lost)


def is_front_end(layer: str) -> bool:
    """Return whether a layer belongs to the front end of a model that takes audio."""
    return layer == "frontend" or layer.startswith("frontend.")


def feature_frames(model: Any, data: FeatureDir) -> dict[str, int]:
    """Return utterance -> frames that the encoder gets; of audio, those its front end makes."""
    if model.frontend is None:
        return {utt: count for utt, (count, _) in data.shapes.items()}
    found = {}
    with torch.inference_mode(), ArkReader() as reader:
        for utt, entry in data.feats.items():
            speech = torch.from_numpy(reader.read(utt, entry))[None]
            found[utt] = 0
            with contextlib.suppress(TooShortUttError):
                lengths = torch.tensor([speech.shape[1]])
                found[utt] = int(model._extract_feats(speech, lengths)[1][0])
    return found


def run_model(
    counter: Counter, model: Any, speech: Tensor, hypothesis: Sequence[int] | None
) -> int:
    """Run encoder, CTC and decoder once; return the number of tokens the decoder was run on.

    The decoder runs once over <sos> and the tokens of the hypothesis that was kept, all at once
    (teacher forcing), and predicts each of them and <eos>. So keys and values of the utterance are
    counted once, and every token once, with its output layer: what a search of one beam needs of a
    decoder whose state has a fixed size. A beam of k costs about k times as much but for keys and
    values; self-attention over whole sequences, as in ESPnet's Transformer, also counts the pairs
    that its mask hides.
    """
    lengths = torch.tensor([speech.shape[1]])
    xs, olens = model.encode(speech, lengths)
    xs = xs[0] if isinstance(xs, tuple) else xs
    best = None
    if model.ctc is not None:
        with counter.layer("ctc", model.ctc):  # this is no forward pass
            best = model.ctc.log_softmax(xs).argmax(-1)[0]
    if model.decoder is None or getattr(model, "use_transducer_decoder", False):
        return 0
    if hypothesis is None:
        if best is None:
            raise UserError(
                "neither hypotheses nor a CTC layer to run the decoder on", "decode first"
            )
        hypothesis, _ = collapse(best, model.blank_id)
    tokens = torch.tensor([[model.sos, *hypothesis]])
    model.decoder(xs, olens, tokens, torch.tensor([tokens.shape[1]]))
    return tokens.shape[1]


def read_hypotheses(path: Path) -> dict[str, list[int]] | None:
    """Return the recognised tokens of a decoded set (``token_int``), None where it has none."""
    if not present(path):
        return None
    return {utt: [int(t) for t in ids.split()] for utt, ids in read_table(path).items()}


def count_sets(
    asr_exp: Path,
    sets: Mapping[str, Path],
    out: Path,
    models: Sequence[CostModel],
    checkpoint: str | None = None,
    execution: SpikeOptions | None = None,
    fold_qk: bool = False,
    twin_exp: Path | None = None,
    forms: bool = False,
) -> dict[str, dict[str, Any]]:
    """Count a trained model on sets and write the results into the folder of each.

    ``count.json`` has everything, ``neurobench.json`` the metrics under NeuroBench's names. Of each
    decoded set one utterance is recorded, too, which the page on the experiment shows.

    Args:
        asr_exp: ``exp/<asr_tag>``.
        sets: name -> features.
        out: the decoding, ``exp/<asr_tag>/<inference_tag>``; its ``token_int`` is what the decoder
            is run on.
        models: cost models; the first one is the main one.
        checkpoint: file name of the model; None for the one that was decoded, or the best.
        execution: how the encoder runs; None for what it was decoded with.
        fold_qk: count IML-Spikeformer's inference form, with W_Q and W_K merged.
        twin_exp: experiment of a trained twin; None for the one that the training started from, if
            it did.
        forms: count every form of ``counting.forms`` besides.

    Raises:
        UserError: no such model, one that cannot run so, or features of another definition.
    """
    decoded = _decoded(out, sets)
    with open_model(asr_exp) as opened:
        check_same_features(opened.path, sets.values())
        trained = load_model(opened, checkpoint or decoded.get("checkpoint"))
        weights = file_digest(trained.checkpoint)
    file = name_within(asr_exp, trained.checkpoint)
    model, args = trained.model, trained.options
    if execution is None or execution == SpikeOptions():
        given = decoded.get("options", {})
        names = [f.name for f in fields(SpikeOptions)]
        execution = SpikeOptions(**{name: given.get(name) for name in names})
    if fold_qk:
        if not hasattr(model.encoder, "reparameterize"):
            raise UserError(f"--fold_qk: {args.encoder} has no matrices to merge")
        model.encoder.reparameterize()
    execution.apply(model.encoder)
    size = encoder_input_size(model, args.input_size)
    twin = Twin(args.encoder, args.encoder_conf, size)
    twin_exp = twin_exp or trained_twin_of(asr_exp)
    if twin_exp is not None:
        with open_model(twin_exp) as opened:
            check_same_features(opened.path, sets.values())
    trained_twin = None if twin_exp is None else TrainedTwin(twin_exp, twin)
    all_forms = forms_of(model.encoder) if forms else []
    results = {}
    for name, folder in sets.items():
        data = FeatureDir.read(folder)
        result = SetCount()
        hypotheses = read_hypotheses(out / name / "token_int")
        if model.decoder is not None:
            if model.ctc is None and hypotheses is None:
                raise UserError(f"{out / name}: no token_int to run the decoder on", "decode first")
            if hypotheses is not None and (absent := sorted({*data.feats} - {*hypotheses})):
                raise UserError(
                    f"{out / name / 'token_int'} has nothing recognised of {name_some(absent)}",
                    "decode the set again (--stage decode)",
                )
        start = time.perf_counter()
        for utt, found in count_utterances(model, data, hypotheses, twin, result):
            result.add(utt, found, models)
        if not result.utterances:
            raise UserError(f"{folder}: no utterance is long enough for the encoder")
        if trained_twin is not None:
            result.add_trained_twin(trained_twin.over(data, result.utterances), models)
        report = {
            "set": name,
            "experiment": asr_exp.name,
            "asr_exp": portable_path(asr_exp),
            "checkpoint": recorded_name(asr_exp, trained.checkpoint),
            "checkpoint_sha256": weights,
            "encoder": args.encoder,
            "parameters": sum(p.numel() for p in model.parameters()),
            "encoder_parameters": sum(p.numel() for p in model.encoder.parameters()),
            "execution": {k: v for k, v in asdict(execution).items() if v is not None},
            "fold_qk": fold_qk,
            "trained_twin": describe_twin(trained_twin, twin),
            "decoder_input": decoder_input(model, hypotheses is not None),
            **summary(result, models, data.utt2spk, twin.encoder is None, saved_macs(model)),
            "forms": [
                in_form(result, form, load, data, models, twin.encoder is None)
                for form, load in loaders(asr_exp, file, execution, all_forms)
            ],
            "count_seconds": round(time.perf_counter() - start, 2),
            "finished": time.strftime("%FT%T%z"),
            "environment": environment(),
        }
        (out / name).mkdir(parents=True, exist_ok=True)
        write_json(out / name / COUNT, report, indent=None, ensure_ascii=False)
        metrics = neurobench_metrics(model, result)
        write_json(out / name / NEUROBENCH, metrics, ensure_ascii=False)
        results[name] = report
        decode, chosen = _decoded(out, [name]), choose_utterance(data.durations)
        if decode and chosen in result.utterances:
            decoded_by = model_file(asr_exp, decode.get("checkpoint"))
            options = decode.get("options", {})
            decoded = DecodedUtterance(decoded_by, out / name, options, data, chosen)
            if decoded.kept() is None:
                record_decoded(decoded)
    return results


def loaders(
    asr_exp: Path, checkpoint: str, execution: SpikeOptions, forms: Iterable[Form]
) -> Iterator[tuple[Form, Callable[[], Any]]]:
    """Yield each form, and what loads the model in it; arguments as of `count_sets`."""
    for form in forms:
        yield form, functools.partial(load_form, asr_exp, checkpoint, execution, form)


def in_form(
    result: SetCount,
    form: Form,
    load: Callable[[], Any],
    data: FeatureDir,
    models: Sequence[CostModel],
    own_twin: bool,
) -> dict[str, Any]:
    """Return what ``count.json`` has of a form: operations, energy beside the same baselines.

    Args:
        result: of the set, as it was counted first.
        form: of the encoder.
        load: loads the model in that form.
        data: features of the set.
        models: cost models.
        own_twin: the encoder is its own twin.
    """
    other = result.in_form(encoder_costs(load(), data, result.utterances), models)
    other.in_slots = result.in_slots
    products = total(c for (_, kind), c in other.layers.items() if kind in PRODUCTS)
    speakers = [data.utt2spk[utt] for utt in other.utterances]
    return {
        **asdict(form),
        "per_second": per_second(products, other.seconds),
        "sparsity": activity(other.layers, {}),
        "energy": {
            model.name: _energy_summary(model, other, speakers, own_twin)
            | {"real_mac_share": real_share(model, other.layers)}
            for model in models
        },
        "layers": layer_rows(other.layers),
        "by_length": other.by_length(),
    }


def per_second(products: Cost, seconds: float) -> dict[str, float]:
    """Return the operations of products for a second of audio."""
    return {
        "synops": products.acs / seconds,
        "macs": products.macs / seconds,
        "dense_macs": products.dense_macs / seconds,
    }


def neurobench_metrics(model: Any, result: SetCount) -> dict[str, Any]:
    """Return what ``neurobench.json`` holds: of all that ran, and of the encoder alone.

    Front end and encoder are one, as in the headline figures.
    """
    samples = len(result.utterances)
    frames = sum(utt["frames"] for utt in result.utterances.values())
    # as they last ran: levels may have been chosen at decoding
    firings = [(n.firing, n.time_steps) for n in named_neurons(model.encoder).values()]
    steps = max((int(f.levels) * real for f, real in firings if f is not None), default=1)
    factor = subsampling_factor(model)
    rate = factor and execution_rate(frames, result.seconds, factor, steps)
    encoder = of_encoder(result.layers)
    return {
        **static_metrics(model),
        **workload_metrics(result.layers, samples),
        "model_execution_rate": rate,
        "encoder": {
            **static_metrics(model.encoder),
            **workload_metrics(encoder, samples),
            "model_execution_rate": rate,
        },
        "samples": samples,
        "notes": NOTES,
    }


def decoder_input(model: Any, decoded: bool) -> str:
    """Return what the decoder was run on, for the record."""
    if model.decoder is None:
        return "no decoder"
    if getattr(model, "use_transducer_decoder", False):
        return "transducer, not counted"
    return "hypotheses" if decoded else "best path of CTC"


def describe_twin(trained: TrainedTwin | None, twin: Twin) -> dict[str, Any] | None:
    """Return which trained twin was counted; None where none was given.

    An encoder that is its own twin has its zeros skipped as it is.
    """
    if trained is not None:
        return {"asr_exp": portable_path(trained.asr_exp), "checkpoint": trained.checkpoint}
    return {"itself": True} if twin.encoder is None else None


@dataclass(frozen=True)
class DecodedWith:
    """What is wanted of ``decode.json``: the model file and the options of the search."""

    checkpoint: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def _decoded(out: Path, sets: Iterable[str]) -> dict[str, Any]:
    """Return how the sets were decoded; nothing if they were not."""
    for name in sets:
        path = out / name / "decode.json"
        if present(path):
            return read_shaped(path, DecodedWith, "decode the set again: --stage decode")
    return {}


def summary(
    result: SetCount,
    models: Sequence[CostModel],
    utt2spk: Mapping[str, str],
    own_twin: bool,
    points: Mapping[str, float],
) -> dict[str, Any]:
    """Return the figures of a set; ``points`` are those of ``saved_macs``."""
    by_part: dict[str, Cost] = {}
    operators: dict[str, dict[str, Cost]] = {}
    for (layer, kind), cost in result.layers.items():
        part = part_of(layer)
        by_part.setdefault(part, Cost()).add(cost)
        operators.setdefault(part, {}).setdefault(kind, Cost()).add(cost)
    encoder = of_encoder(result.layers)
    products = total(c for (_, kind), c in encoder.items() if kind in PRODUCTS)
    utts = result.utterances
    speakers = [utt2spk[utt] for utt in utts]
    return {
        "utterances": len(utts),
        "skipped": result.skipped,
        "audio_seconds": round(result.seconds, 3),
        "sparsity": activity(encoder, points),
        "per_second": per_second(products, result.seconds),
        "energy": {
            model.name: _energy_summary(model, result, speakers, own_twin)
            | {"real_mac_share": real_share(model, encoder)}
            | {"layers": layer_energy(model, encoder, result.seconds)}
            for model in models
        },
        "decoder": decoder_figures(result, models, points),
        "parts": {part: columns(by_part[part]) for part in PARTS if part in by_part},
        "operators": {
            part: {kind: columns(cost) for kind, cost in operators[part].items()}
            for part in PARTS
            if part in operators
        },
        "layers": layer_rows(result.layers),
        "twin_layers": layer_rows(result.twin),
        "trained_twin_layers": layer_rows(result.trained_twin),
        "by_length": result.by_length(),
        "uncovered": {
            name: {"calls": calls, "numbers": numbers}
            for name, (calls, numbers) in result.uncovered.items()
        },
        "spikes_made_real": result.lost,
        "utts": utts,
    }


def layer_energy(model: CostModel, layers: Costs, seconds: float) -> dict[str, list[float]]:
    """Return joules a second of the products of each layer, and of the same with none skipped."""
    found: dict[str, list[float]] = {}
    for (layer, kind), cost in layers.items():
        pair = (PICO * model.products(kind, cost, dense) / seconds for dense in (False, True))
        ours, dense = pair
        if dense:
            before = found.setdefault(layer, [0.0, 0.0])
            found[layer] = [before[0] + ours, before[1] + dense]
    return found


def layer_rows(layers: Costs) -> list[dict[str, Any]]:
    """Return what ``count.json`` has of each layer, for `counting.assumptions` as well."""
    return [
        {"layer": layer, "part": part_of(layer), "kind": kind, **columns(cost)}
        | {name: _plain(getattr(cost, name)) for name in SIZES}
        | {"sparsity": sparsity(cost), "firing_rate": firing_rate(cost)}
        for (layer, kind), cost in layers.items()
    ]


def activity(layers: Costs, points: Mapping[str, float]) -> dict[str, float | None]:
    """Return how sparse some layers are.

    Args:
        layers: sums over a set.
        points: of ``saved_macs``; those that are not among the layers are left out.

    Returns:
        zeros among all that neurons and activations put out (``activations``; the literature's),
        among the operands of products that depend on the input (``product_inputs``), and products
        that are skipped among all (``multiplications``), an event one of them whatever its count;
        the FATReLU points; spikes over what could fire, and for each value.
    """
    products = total(c for (_, kind), c in layers.items() if kind in PRODUCTS)
    emitted = total(c for (_, kind), c in layers.items() if kind in ("neuron", "activation"))
    return {
        "activations": sparsity(emitted),
        "product_inputs": sparsity(products),
        "multiplications": _skipped(products),
        "points": point_sparsity(layers, points, by_macs=False),
        "points_by_macs": point_sparsity(layers, points, by_macs=True),
        "firing_rate": firing_rate(emitted),
        "mean_count": round(emitted.spikes / emitted.inputs, 6) if emitted.slots else None,
    }


def _skipped(products: Cost) -> float | None:
    done = products.macs + products.event_macs
    return round(1 - done / products.dense_macs, 6) if products.dense_macs else None


def decoder_figures(
    result: SetCount, models: Sequence[CostModel], points: Mapping[str, float]
) -> dict[str, Any] | None:
    """Return what the decoder costs for each token that it was run on, see ``run_model``.

    Args:
        result: sums over a set.
        models: cost models.
        points: of ``saved_macs``.

    Returns:
        ``tokens`` of the set, <sos> among them; ``sparsity`` as of the encoder; ``per_token``
        operations and ``energy`` in joules, each with its share of the keys and values of the
        utterances. None without decoder.
    """
    layers = {k: c for k, c in result.layers.items() if part_of(k[0]) == "decoder"}
    tokens = sum(utt["tokens"] for utt in result.utterances.values())
    if not tokens:
        return None
    products = total(c for (_, kind), c in layers.items() if kind in PRODUCTS)
    each = [utt["energy"] for utt in result.utterances.values()]
    return {
        "tokens": tokens,
        "sparsity": activity(layers, points),
        "per_token": {
            "synops": products.acs / tokens,
            "macs": products.macs / tokens,
            "dense_macs": products.dense_macs / tokens,
        },
        "energy": {
            model.name: {
                column: sum(e[model.name]["decoder"][column] for e in each) / tokens
                for column in ("compute", "total")
            }
            for model in models
        },
    }


def _energy_summary(
    model: CostModel, result: SetCount, speakers: Sequence[str], own_twin: bool
) -> dict[str, Any]:
    """Return the energy of a set under a cost model.

    ``twin_joules_per_second``, ``ratio`` and ``ratio_ci`` are of the dense twin, nothing skipped.
    ``against`` has the same of each of ``BASELINES``, None for one that is not there.
    """
    each = [utt["energy"][model.name] for utt in result.utterances.values()]
    if own_twin:  # its own zeros are skipped
        each = [e | {"trained_twin": e["encoder_with_front_end"]} for e in each]

    def compared(column: str) -> dict[str, Any]:
        ours = [e["encoder_with_front_end"][column] for e in each]
        found: dict[str, Any] = {"joules_per_second": sum(ours) / result.seconds, "against": {}}
        for name in BASELINES:
            if each[0].get(name) is None or (name == "quantised" and not result.spikes):
                found["against"][name] = None
                continue
            theirs = [e[name][column] for e in each]
            ratio, interval = ratio_interval(ours, theirs, speakers)
            found["against"][name] = {
                "joules_per_second": sum(theirs) / result.seconds,
                "ratio": ratio,
                "ratio_ci": [interval.low, interval.high],
                "ratio_ci_unit": interval.unit,
                "ratio_ci_units": interval.units,
                "ratio_ci_meaningful": interval.meaningful,
            }
        twin = dict(found["against"]["twin"])
        return found | {"twin_joules_per_second": twin.pop("joules_per_second"), **twin}

    found: dict[str, Any] = {"twin": "itself, nothing skipped" if own_twin else "dense encoder"}
    for column in ("compute", "total"):
        parts = {
            part: sum(e[part][column] for e in each if part in e) / result.seconds
            for part in PARTS
            if any(part in e for e in each)
        }
        found[column] = compared(column) | {"parts": parts}
    found["dataflows"] = {name: compared(name) for name in model.dataflows}
    return found | {"model": describe_model(model)}
