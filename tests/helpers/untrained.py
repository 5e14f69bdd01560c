"""Untrained models in folders like those of a training."""

from pathlib import Path

import numpy as np
import torch
import yaml

TOKENS = ["<blank>", "<unk>", "<space>", *"abcdefgh", "<sos/eos>"]


def untrained_experiment(folder: Path, encoder: str, conf: dict, **changes) -> torch.nn.Module:
    """Write an experiment with CTC alone on 80-dim features; return its model, in evaluation."""
    from espnet_spike.tasks.arguments import parse_espnet
    from espnet_spike.tasks.asr import SpikeASRTask

    bins = np.ones(80)  # mean 12, variance 4
    np.savez(folder / "stats.npz", count=50, sum=600 * bins, sum_square=7400 * bins)
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    config = {
        "encoder": encoder,
        "encoder_conf": conf,
        "model_conf": {"ctc_weight": 1.0},
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": str(folder / "stats.npz")},
        "best_model_criterion": [["valid", "cer_ctc", "min"]],
    } | changes
    if config["normalize"] != "global_mvn":
        config["normalize_conf"] = {}
    words = ["--output_dir", str(folder), "--token_list", str(folder / "tokens.txt")]
    words += ["--token_type", "char", "--input_size", "80"]
    args = parse_espnet(SpikeASRTask, config, words)
    torch.manual_seed(0)
    model = SpikeASRTask.build_model(args)
    torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=2.0)
    torch.save(model.state_dict(), folder / "valid.cer_ctc.ave.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return model.eval()
