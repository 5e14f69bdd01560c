"""Figures of simulated experiments, as results.json holds them."""


def counts(cycles, memory=None):
    memory = cycles / 5 if memory is None else memory
    return {
        **{"cycles": cycles, "instructions": cycles / 2, "memory": memory},
        **{"latency_ms": cycles / 1e5, "energy_uj": cycles / 1e3},
    }


def result(name, model, dense, event, sparsity, memory=None):
    codings = {"dense": counts(dense), "dense_unrolled": counts(dense * 0.8)}
    parts = {"scan": dict(codings)}
    if event:
        forms = {"event": counts(event, memory), "event_unrolled": counts(event * 0.8, memory)}
        codings |= forms
        parts = {"scan": dict(codings), "neuron": forms}
    return {
        "experiment": name,
        "simulate": {
            "small": {
                **{"model": model, "codings": codings, "parts": parts, "layers": {"1": codings}},
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
