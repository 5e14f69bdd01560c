"""Figures of simulated experiments, as results.json holds them."""


def counts(cycles, memory=None):
    memory = cycles / 5 if memory is None else memory
    return {
        **{"cycles": cycles, "instructions": cycles / 2, "memory": memory},
        **{"latency_ms": cycles / 1e5, "energy_uj": cycles / 1e3},
    }


def result(name, model, dense, event, sparsity, memory=None, states=None):
    """An experiment on core ``small``; blocked loops take these cycles, the others more."""
    loops = {"": 1.5, "_unrolled": 1.2, "_blocked": 1.0}
    codings = {f"dense{loop}": counts(dense * factor) for loop, factor in loops.items()}
    parts = {"scan": dict(codings)}
    if event:
        scan, neuron = {}, {}
        for loop, factor in loops.items():
            codings[f"event{loop}"] = counts(event * factor, memory)
            share = None if memory is None else memory / 2
            scan[f"event{loop}"] = counts(event * factor * 0.75, share)
            neuron[f"event{loop}"] = counts(event * factor * 0.25, share)
        parts = {"scan": parts["scan"] | scan, "neuron": neuron}
    return {
        "experiment": name,
        "simulate": {
            "small": {
                **{"model": model, "codings": codings, "parts": parts, "layers": {"1": codings}},
                **{"blocks": parts, "blocks_sparsity": sparsity, "d_state": states},
                **{"sparsity": sparsity, "versions": ["Ibex x"], "flags": ["-O2"]},
                **{
                    "utterances": 2,
                    "frames": 9,
                    "data": "test",
                    "energy": "prices",
                    "hardware": {"clock_mhz": 100},
                },
                "fit": {"held_out_max": 0.001, "float_error_max": 0.02},
            }
        },
    }
