"""A good configuration of a training, and ways to change it."""

import yaml

GOOD = {
    "frontend": None,
    "encoder": "transformer",
    "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "decoder": "transformer",
    "decoder_conf": {"num_blocks": 1, "attention_heads": 2, "linear_units": 16},
    "model_conf": {"ctc_weight": 0.3},
    "optim": "adam",
    "optim_conf": {"lr": 0.002},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 10},
    "batch_type": "numel",
    "best_model_criterion": [["valid", "cer_ctc", "min"]],
}


def changed(change, good=GOOD):
    """Return a configuration with values replaced; a dotted key reaches into a mapping."""
    config = yaml.safe_load(yaml.safe_dump(good))
    for key, value in change.items():
        target = config
        *path, last = key.split(".")
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value
    return config
