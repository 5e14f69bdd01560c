"""The mistakes, file by file, each with the tests that have to find it.

A line that has changed takes its mutant along: `make mutants` says which do not fit any more.
"""

from collections.abc import Mapping

from tests.mutants.campaign import Mutant


def of(file: str, tests: str, changes: Mapping[str, str]) -> tuple[Mutant, ...]:
    """Return a mutant for each part of a line and what takes its place."""
    return tuple(Mutant(f"espnet_spike/{file}", old, new, tests) for old, new in changes.items())


PROOF = "tests/export/test_spike_proof.py -k 'mutant or condition or one_function or left_alone'"
IMLS_OPS = "tests/nn/ops/test_imls.py"
LIF_OPS = "tests/nn/ops/test_lif.py"
MERGE = "tests/export/test_reparameterize.py -k 'condition or wrong'"
CORE = "tests/simulator/test_kernels.py -k 'ties_at or (bit_for_bit and small)'"
COUNTER = (
    "tests/counting/test_counter.py -k 'paper or slots or unit_of_v or threshold_that or scan_of'"
)
ENERGY = "tests/counting/test_energy.py tests/counting/test_memory.py"
CALIBRATION = "tests/training/test_calibration.py"

KERNELS = (
    *of(
        "nn/ops/imls.py",
        IMLS_OPS,
        {
            "ratio.add_(0.5).floor_()": "ratio.add_(0.499).floor_()",
            "logical_and_(ratio <= levels)": "logical_and_(ratio < levels)",
            "inside = (ratio >= 0)": "inside = (ratio > 0)",
            "ratio = ratio.round_()": "ratio = ratio.add_(0.5).floor_()",
        },
    ),
    *of(
        "nn/ops/imls.py",
        PROOF,
        {
            "x + 0.5 * threshold": "x + 0.4 * threshold",
            "fires = potential >= threshold": "fires = potential >= 1.01 * threshold",
            "potential - fires * threshold": "potential * ~fires",
            "for _ in range(levels):": "for _ in range(levels + 1):",
        },
    ),
    *of(
        "nn/ops/imls_numba.py",
        IMLS_OPS,
        {
            "ratio = np.floor(ratio + half)": "ratio = np.floor(ratio)",
            "ratio = np.rint(ratio)": "ratio = np.floor(ratio + half)",
            "counts[c] += w * s": "counts[c] += s",
            "(ratio <= top) else zero": "(ratio < top) else zero",
            "w * (g * y - gx * x[r, k, c])": "w * (g * y - g * x[r, k, c])",
            "total += abs(x[r, c])": "total += x[r, c]",
            "nonzeros += s != 0": "nonzeros += s",
        },
    ),
    *of(
        "nn/ops/lif.py",
        LIF_OPS,
        {"v = torch.full_like(steps[0], dynamics.v_reset)": "v = torch.zeros_like(steps[0])"},
    ),
    *of(
        "nn/ops/lif_numba.py",
        LIF_OPS,
        {
            "one if potential - v_th >= zero": "one if potential - v_th > zero",
            "v[:] = v_reset": "v[:] = 0",
            "v[c] = potential - v_th * spike": "v[c] = potential - v_th",
            "(one - spike) + v_reset * spike": "(one - spike)",
            "one if h[c] - v_th >= zero": "one if h[c] - v_th > zero",
            "keep = one - one / tau": "keep = one",
        },
    ),
    *of(
        "nn/ops/fatrelu_numba.py",
        "tests/nn/ops/test_fatrelu.py",
        {"x_r[c] if size >= least": "x_r[c] if size > least"},
    ),
    *of(
        "nn/ops/decay.py",
        "tests/nn/ops/test_decay.py tests/nn/layers/test_decay_mask.py",
        {
            "length - stop : length - start": "length - stop - 1 : length - start - 1",
            "i + 1) + torch.exp(g)": "i + 1) + torch.exp(2 * g)",
        },
    ),
    *of(  # in Triton's interpreter
        "nn/ops/triton/imls.py",
        "tests/nn/ops/triton/test_imls.py",
        {
            "ratio = tl.floor(ratio + 0.5)": "ratio = tl.floor(ratio)",
            "(ratio >= 0.0) & (ratio <= 1.0 * TOP)": "(ratio >= 0.0) & (ratio <= 0.5 * TOP)",
            "+= tl.sum(tl.abs(first)": "+= tl.sum((first)",
        },
    ),
    *of(
        "nn/ops/triton/lif.py",
        "tests/nn/ops/triton/test_lif.py",
        {"tl.where(h - v_th >= 0.0, 1.0, 0.0)": "tl.where(h - v_th >= 0.1, 1.0, 0.0)"},
    ),
    *of(  # on the simulated core
        "simulator/csrc/neurons.c",
        CORE,
        {
            "y[i] = x[i] >= threshold": "y[i] = x[i] > threshold",
            "if (x[i] >= threshold)": "if (x[i] > threshold)",
            "|| v <= -threshold": "|| v < -threshold",
            "if (h >= threshold)": "if (h > threshold)",
            "s = (ratio + 256) >> 9": "s = ratio >> 9",
            "return s > levels ? levels : s;": "return s;",
            "h = soft ? h - threshold : 0;": "h = 0;",
        },
    ),
    *of(
        "simulator/csrc/elementwise.c",
        CORE,
        {
            "half = 1 << (shift - 1);": "half = 0;",
            "if (product >= threshold)": "if (product > threshold)",
        },
    ),
)

SPIKES = (
    *of(
        "nn/neurons/spike_train.py",
        PROOF,
        {
            "(self.counts >= t)": "(self.counts > t)",
            "return self.spikes[t - 1].to(": "return self.spikes[0].to(",
            "self.spikes])": "self.spikes[:1]])",
        },
    ),
    *of(
        "nn/neurons/spike_train.py",
        "tests/nn/neurons/test_spike_train.py",
        {"return self.frame * self.channel * self.counts": "return self.channel * self.counts"},
    ),
    *of(
        "nn/neurons/multi_level.py",
        COUNTER,
        {
            "additions=(2 + follows) * numel": "additions=2 * numel",
            "unit_multiplies=follows * numel": "unit_multiplies=0",
            "statistic_read=follows * numel": "statistic_read=0",
        },
    ),
    *of(
        "nn/neurons/imls.py",
        "tests/nn/neurons/test_imls.py -k 'membranes_cost'",
        {
            "cost.updates *= self.levels": "cost.updates *= 1",
            "cost.values_written += self.levels * numel": "cost.values_written += numel",
        },
    ),
    *of(
        "nn/neurons/lif.py",
        "tests/nn/neurons/test_lif.py -k 'integer or steps or worth'",
        {
            "v = h - c * self.v_th": "v = h - c * 0.9",
            "h = self.beta * v + step": "h = v + step",
        },
    ),
    *of(
        "nn/neurons/frame_lif.py",
        "tests/nn/neurons/test_frame_lif.py -k 'rest or hand or padding or stream or losses'",
        {
            "x[:, 0], self.v_reset,": "x[:, 0], 0.0,",
            'self.carry["v"] = v': 'self.carry["v"] = 0 * v',
            "(r_min - r).clamp(min=0).mean()": "(r_min - r).mean()",
        },
    ),
    *of(
        "nn/neurons/ternary.py",
        "tests/nn/neurons/test_ternary.py",
        {
            "potential = potential * 2": "potential = potential * 1",
            "return 2**T - 1": "return 2**T",
        },
    ),
    *of(
        "export/spike_guard.py",
        "tests/export/test_spike_guard.py",
        {
            "not bool(((x != 0) & (x != 1)).any())": "not bool((x < 0).any())",
            "if not any(map(is_binary, from_input)):": "if False:",
            "if made and real and made <= self._by_design:": "if made and real:",
            "elif made and real:": "elif False:",
            "elif len(real) > 1 and not self._free:": "elif False:",
            "and real[-1] is factors[-1] and": "and False and",
            "if found is None or x.untyped": "if x.untyped",
            " or x.untyped_storage()._cdata in self._written": "",
            "if plain in LOOKUPS and": "if False and",
            "if whole and any(": "if False and any(",
            "shared = train.frame.numel() == 1 or": "shared = True or",
            "train.frame.shape[2:].numel() == 1": "train.frame.shape[-1] == 1",
            "and INPUT not in self._made_of(train.channel)": "",
            "if not self._free and INPUT in self._made_of(x):": "if False:",
            "if any(x not in self._origin": "if False and any(x not in self._origin",
            'if name == "softplus" and step_size:': "if step_size:",
            "return weights == set(self.analog) or not (": "return True or not (",
            "for name in guard.unseen():": "for name in ():",
        },
    ),
    *of(
        "export/spike_guard.py",
        "tests/export/test_spike_proof.py -k over_frames",
        {
            "if is_binary(u):": "if True:",
            "elif weights and weights <= self._by_design:": "elif weights:",
        },
    ),
    *of(
        "nn/ops/lif.py",
        "tests/nn/neurons/test_frame_lif.py -k membrane",
        {
            "(charged >= dynamics.v_th) & valid": "(charged > dynamics.v_th) & valid",
            "left = charged - dynamics.v_th if dynamics.soft": "left = charged if dynamics.soft",
        },
    ),
    *of(
        "export/spike_proof.py",
        PROOF,
        {
            " and not self.violations": "",
            "self.repeated > 0 and not self.changed": "self.repeated > 0",
            "watched and self.repeated > 0 and": "watched and",
            "DOUBLE_TOLERANCE and self.fire_flips == 0": "DOUBLE_TOLERANCE",
            "proof.fire_flips += flipped": "proof.fire_flips += 0 * flipped",
            "proof.double_flips += flipped": "proof.double_flips += 0 * flipped",
        },
    ),
    *of(  # what is kept between utterances
        "export/spike_proof.py",
        "tests/export/test_spike_proof.py -k 'depends or kept or fixes'",
        {
            "return same and torch.equal(xs, ys) and": "return same and",
            "if not _identical(": "if False and not _identical(",
            "for utterance in kept[::-1]": "for utterance in ()",
            "for utterance in kept[1:]": "for utterance in ()",
        },
    ),
    *of(
        "nn/neurons/frame_lif.py",
        "tests/nn/neurons/test_frame_lif.py -k membrane",
        {
            "fired, last = fire_frames(rows": "fired, last, _ = run_frames(rows",
            'if self.spike_mode == "fire" and': "if False and",
        },
    ),
    *of(
        "nn/neurons/imls.py",
        "tests/export/test_spike_proof.py -k 'one_function and asym'",
        {"integrate_and_fire(x, frame * scale": "integrate_and_fire(x, 1.01 * frame * scale"},
    ),
    *of(
        "export/reparameterize.py",
        MERGE,
        {
            "DOUBLE_TOLERANCE = 1e-9": "DOUBLE_TOLERANCE = 1e-2",
            "LAYER_TOLERANCE = 1e-5": "LAYER_TOLERANCE = 1e-2",
            " and self.double_flips == 0": "",
        },
    ),
    *of(
        "nn/layers/spiking_attention.py",
        "tests/export/test_spike_proof.py -k 'longest'",
        {
            "map_of(*rows)": "map_of(0, rows[1] - rows[0])",
            "self.decay.matrix(length, rows)": "self.decay.matrix(length, (0, rows[1] - rows[0]))",
        },
    ),
    *of(  # V by counts
        "nn/layers/spiking_attention.py",
        "tests/export/test_spike_proof.py -k 'one_function and inner_norm'",
        {
            "shown = [split_heads(value.slot(t), self.heads) for t in slots]": (
                "shown = [split_heads(value.counts, self.heads)]"
            )
        },
    ),
    *of("nn/layers/spike_layers.py", PROOF, {"out = xs.frame * total": "out = total"}),
)

COUNTS = (
    *of(
        "export/nir_graph.py",
        "tests/export/test_nir_graph.py -k 'thresholds and fixed'",
        {"self.spikes += int(ours.sum())": "self.spikes += int((ours > 0).sum())"},
    ),
    *of(
        "nn/layers/mamba.py",
        "tests/counting/test_counter.py -k 'covered and mhsa or mamba_reads_spikes'",
        {
            "skip = float(inputs.sum())": "skip = 2 * float(inputs.sum())",
            "cost.macs += float((C != 0).sum()) * u.shape[1]": "cost.macs += float((C != 0).sum())",
            "cost.dense_macs += 2 * states + u.numel()": "cost.dense_macs += 2 * states",
        },
    ),
    *of(
        "counting/product_rules.py",
        "tests/counting/test_product_rules.py",
        {
            "cost.dense_macs += out.numel() * a.shape[-1]": "cost.dense_macs += out.numel()",
            "cost.acs += _amount(a, spikes[0]) * uses[0]": "cost.acs += events_of(a, spikes[0])",
            "ledger.nonzeros(a) * uses[0]": "a.numel() * uses[0]",
        },
    ),
    *of(
        "counting/product_rules.py",
        COUNTER,
        {"cost.channel_multiplies += out.numel()": "cost.channel_multiplies += 0"},
    ),
    *of(
        "counting/operator_rules.py",
        "tests/counting/test_operator_rules.py",
        {
            "cost.special += special * out.numel()": "cost.special += 0",
            "max(0, args[0].numel() - out.numel())": "args[0].numel()",
        },
    ),
    *of(
        "counting/operator_rules.py",
        COUNTER,
        {"cost.partial_additions += out.numel()": "cost.partial_additions += 0"},
    ),
    *of(
        "counting/count.py",
        "tests/counting/test_count.py -k 'provenance'",
        {"energy(model, twin, dense=True)": "energy(model, twin)"},
    ),
    *of(
        "counting/memory.py",
        ENERGY,
        {
            'max(memory["activations"]': 'min(memory["activations"]',
            "if size <= capacity)": "if size < capacity)",
            "2 * min(moved.operations, shared)": "min(moved.operations, shared)",
            "moved.sums * 2 * outputs": "moved.sums * outputs",
            "+ moved.bits / 8) * memory": "+ moved.bits) * memory",
        },
    ),
    *of(
        "counting/energy.py",
        ENERGY,
        {
            "energy = cost.dense_macs * prices": "energy = cost.macs * prices",
            'cost.acs * prices["ac"]': 'cost.acs * prices["add"]',
            '+ cost.special * prices["special"]': "",
            "+ cost.events_read * rules.address_add": "",
            'found["multiply"] + found["ac"]': 'found["mac"]',
            "columns[0].sum() / columns[1].sum()": "(columns[0] / columns[1]).mean()",
        },
    ),
)

FIGURES = (
    *of(
        "results/scoring.py",
        "tests/results/test_scoring.py -k 'hand or normalised or counts or miscount'",
        {
            "ref_texts, [normalize(hyps[key]) for": "ref_texts, [hyps[key] for",
            "ref_texts = [normalize(refs[key]) for": "ref_texts = [refs[key] for",
            "errors = counts[:, 1:].sum": "errors = counts[:, 1:3].sum",
            "return self.table[:, :3].sum": "return self.table.sum",
            "(errors > 0).sum()), len(counts))": "(errors > 1).sum()), len(counts))",
            "if total != counts.errors.sum():": "if False:",
        },
    ),
    *of(
        "results/bootstrap.py",
        "tests/results/test_bootstrap.py",
        {
            "if len(names) >= MIN_SPEAKERS:": "if len(names) > MIN_SPEAKERS:",
            "(len(sums), self.count - 1)": "(len(sums), self.count)",
            "float(each.var(ddof=1))": "float(each.var())",
            "one.variance**2 / (one.count - 1)": "one.variance**2 / one.count",
            "return float(stdtrit(freedom, 0.975))": "return Z95",
            "p_joint if trainings >= MIN_TRAININGS else None": "p_joint",
            "trainings = min(one.count": "trainings = max(one.count",
            "0.5 * (np.abs(deltas) <= 1e-9)": "0.0 * (np.abs(deltas) <= 1e-9)",
            "float(mean < 0)": "float(mean > 0)",
        },
    ),
    *of(
        "simulator/integer/arithmetic.py",
        "tests/simulator/integer/test_arithmetic.py",
        {
            "flat.max(1, initial=0)": "flat.max(initial=0)",
            "np.clip((ratio + 256) >> 9": "np.clip((ratio + 255) >> 9",
            "(1 << (shift - 1))": "0",
            "wrap((faded * keys) >> 15)": "wrap(faded)",
        },
    ),
    *of(
        "simulator/integer/arithmetic.py",
        "tests/simulator/integer/test_arithmetic.py -k 'fixed or same_sum'",
        {
            "fixed = max(round(level / step), 1)": "fixed = round(level / step)",
            "np.round(1024 * off / scale)": "np.round(1024 / scale)",
            "(inverse <= 65535)).all()": "True).all()",
            "room = 31 - max(largest.bit_length(), 1)": (
                "room = 31 - max(int(np.abs(sums).max(initial=0)).bit_length(), 1)"
            ),
        },
    ),
    *of(
        "simulator/integer/registers.py",
        "tests/simulator/integer/test_registers.py",
        {
            "((x > most) | (x < least)).sum()": "(x > most).sum()",
            "self.limits is None else ROOM": "self.limits is None else 1",
            "if self.limits is None else self.limits": "if True else self.limits",
            "(np.abs(sums) > most).sum()": "(np.abs(sums) >= most).sum()",
            "np.clip(sums, -most, most)": "sums",
        },
    ),
    *of(
        "counting/costs.py",
        "tests/counting/test_assumptions.py -k 'sum_over or lengths'",
        {"round(BINS * math.log2(max(frames, 1)))": "0"},
    ),
    *of(
        "results/comparison.py",
        "tests/results/test_comparison.py tests/results/test_markdown.py -k 'runs or seeds'",
        {"if len(self.runs) == 1:": "if len(self.runs):"},
    ),
    *of(
        "training/calibration.py",
        CALIBRATION,
        {
            '"accepted": ratio < bound,': '"accepted": ratio <= bound,',
            "if name in frozen or T <=": "if T <=",
            'if self.conf.base == "running":': "if True:",
            "self._set({name: 0.0})": "self._set()",
        },
    ),
    *of(
        "training/thresholds.py",
        "tests/training/test_thresholds.py tests/training/test_calibration.py",
        {"round(len(ordered) * percent / 100)": "round(len(ordered) * percent / 50)"},
    ),
)

MUTANTS = (*KERNELS, *SPIKES, *COUNTS, *FIGURES)
