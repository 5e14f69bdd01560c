"""The YAML of a training, from its plan."""

import math
from collections.abc import Mapping
from typing import Any

from espnet_spike.advice.plan import Plan
from espnet_spike.advice.spectrum import spectrum_options

SPECAUG = {
    "apply_time_warp": False,
    "apply_freq_mask": True,
    "freq_mask_width_range": [0, 0],
    "num_freq_mask": 2,
    "apply_time_mask": True,
    "time_mask_width_range": [0, 0],
    "num_time_mask": 2,
}
SPEECH_MAMBA = {
    "block": "mamba_mhsa_mamba",
    "input_layer": "speechbrain",
    "conv_channels": 24,
    "conv_skip": True,
    "pos_enc": "none",
    "d_state": 64,
}
SPIKING = {  # as in egs/fsdd: with a threshold of 1.0 layers begin nearly silent
    "tau": 2.0,
    "v_th": 0.5,
    "attn_v_th": 0.5,
    "r_min": 0.05,
    "r_max": 0.3,
    "lambda_q": 0.5,
    "lambda_b": 0.5,
}
EVENT = {"fat_points": "e", "fat_threshold": 0.0, "lambda_act": 0.0001}
FINETUNE = {"encoder_conf": {"lambda_act": 0.001, "lambda_T": 0.000001}}
INTERCTC = 0.3  # weight of the intermediate CTC loss, after half of the blocks
TEMPO = (0.9, 1.0, 1.1)
VOCAL_TRACT = (0.9, 1.1)
FEWEST_CHANNELS, CHANNEL_STEP = 32, 16  # of a front end
RELATIVE = {"rel_pos_type": "latest", "pos_enc_layer_type": "rel_pos"}


def training_config(plan: Plan, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of the YAML.

    Args:
        plan: what is trained.
        base: content of the file of ``conf/`` that the model comes from, if it does.
    """
    if base is not None:
        return _from_base(plan, base)
    config: dict[str, Any] = {
        "encoder": plan.encoder,
        "encoder_conf": encoder_conf(plan),
        "model": "spike_asr",
        # CTC alone: on so little data an attention decoder learns slowly and hinders
        "model_conf": {
            "ctc_weight": 1.0,
            "interctc_weight": INTERCTC,
            "specaug_after_normalize": True,
            "augment": augment(plan),
        },
        "specaug": "specaug",
        "specaug_conf": _specaug(plan, SPECAUG),
        "normalize": "utterance_mvn",
        **_batches(plan),
        "num_workers": 1,
        "num_att_plot": 0,
        "max_epoch": plan.epochs,
        "optim": "adamw",
        "optim_conf": {
            "lr": plan.learning_rate,
            "weight_decay": 0.01,
            "betas": [0.9, 0.98],
            "fused": True,
        },
        "scheduler": "onecyclelr",
        "scheduler_conf": {
            "max_lr": plan.learning_rate,
            "total_steps": "auto",
            "pct_start": round(plan.warm_up / plan.updates, 4),
            "anneal_strategy": "linear",
            "cycle_momentum": False,
            "final_div_factor": 4.0,
        },
        "grad_clip": 5.0,
        "best_model_criterion": [["valid", "cer_ctc", "min"]],
        "keep_nbest_models": min(max(plan.epochs // 5, 5), 10),
        "spike_meta": _meta(plan),
    }
    if plan.encoder == "event_speech_mamba":
        epochs = math.ceil(plan.epochs / 4)
        rate = round((plan.learning_rate or 0.0) / 10, 6)
        config["spike_meta"]["sparsify"] = {
            "utterances": 60,
            "finetune": {
                "max_epoch": epochs,
                "optim_conf": {"lr": rate},
                "scheduler_conf": {"max_lr": rate, "total_steps": "auto"},
                **FINETUNE,
            },
        }
    return config


def augment(plan: Plan) -> dict[str, Any]:
    """Return what a small model's training draws anew for each utterance.

    The tempo of any features; the vocal tract where it is known how they are made.
    """
    found: dict[str, Any] = {"time_stretch": {"factors": list(TEMPO)}}
    data = plan.measured
    if data.convention is None:
        return found
    rate = plan.fs or (data.rates[0] if len(data.rates) == 1 else None)
    features = spectrum_options(data.convention, data.dims, rate)
    return {"features": features, **found, "vtlp": {"alpha": list(VOCAL_TRACT)}}


def front_end_channels(width: int, dims: int) -> int:
    """Return the channels of a front end ``conv2d``, which keeps a quarter of the dims.

    As many as the blocks have, unless its second convolution, 9 C^2 products at each of the dims
    that are left, does more than 18 of the blocks' D^2; a multiple of 16, from 32 on.
    """
    left = max(((dims - 1) // 2 - 1) // 2, 1)
    most = math.isqrt(2 * width**2 // left) // CHANNEL_STEP * CHANNEL_STEP
    return min(max(most, FEWEST_CHANNELS), width)


def encoder_conf(plan: Plan) -> dict[str, Any]:
    """Return the options of a small encoder."""
    size = plan.size
    blocks = size.blocks // 2 if "mamba" in plan.encoder else size.blocks
    conf: dict[str, Any] = {
        "output_size": size.width,
        "attention_heads": 4,
        "num_blocks": blocks,
        "dropout_rate": size.dropout,
        "positional_dropout_rate": size.dropout,
        "interctc_layer_idx": [blocks // 2],
    }
    if "mamba" in plan.encoder:
        more = {"event_speech_mamba": EVENT, "spiking_speech_mamba": SPIKING}
        return conf | SPEECH_MAMBA | more.get(plan.encoder, {})
    conf |= {"linear_units": 4 * size.width, "input_layer": "conv2d"}
    if plan.encoder == "iml_spikeformer":
        channels = front_end_channels(size.width, plan.measured.dims)
        own = {"conv_channels": channels, "pos_enc": "none", "neuron": "imls", "T": 6}
        # without the norms neurons fall silent: egs/an4/README.md
        own |= {"neuron_norm": True, "conv_module": True, "conv_module_kernel": 15}
        return conf | own
    conf["attention_dropout_rate"] = 0.0
    if plan.encoder == "transformer":
        return conf | {"normalize_before": True}
    if plan.encoder == "conformer":
        own = {"macaron_style": True, "use_cnn_module": True, "cnn_module_kernel": 15}
        attention = {"selfattention_layer_type": "rel_selfattn", "activation_type": "swish"}
        return conf | own | RELATIVE | attention
    own = {"cgmlp_linear_units": 4 * size.width, "cgmlp_conv_kernel": 15, "merge_conv_kernel": 15}
    return conf | own | RELATIVE | {"attention_layer_type": "rel_selfattn", "macaron_ffn": True}


def _from_base(plan: Plan, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of ``conf/`` with batches, epochs, warm-up and masks of the plan."""
    config = dict(base) | _batches(plan) | {"max_epoch": plan.epochs}
    config["scheduler_conf"] = dict(base.get("scheduler_conf", {}))
    if "warmup_steps" in config["scheduler_conf"]:
        config["scheduler_conf"]["warmup_steps"] = plan.warm_up
    config["specaug_conf"] = _specaug(plan, base["specaug_conf"])
    meta = dict(base.get("spike_meta", {})) | _meta(plan)
    if sparsify := meta.get("sparsify"):
        finetune = dict(sparsify["finetune"]) | {"max_epoch": math.ceil(plan.epochs / 3)}
        finetune["scheduler_conf"] = {"warmup_steps": max(plan.warm_up // 10, 1)}
        meta["sparsify"] = dict(sparsify) | {"finetune": finetune}
    return config | {"spike_meta": meta}


def _batches(plan: Plan) -> dict[str, Any]:
    return {
        "batch_type": "length",
        "batch_bins": plan.batch_bins,
        "accum_grad": plan.accum_grad,
        "num_iters_per_epoch": plan.updates_an_epoch * plan.accum_grad,
    }


def _meta(plan: Plan) -> dict[str, Any]:
    return {"vocab_size": plan.vocabulary, "input_size": plan.measured.dims}


def _specaug(plan: Plan, conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return masks that fit; time masks by a share of the length stay as they are."""
    masks = dict(conf)
    # one of 80 dims may be meant to be narrower than a quarter
    widest = masks["freq_mask_width_range"][1] or plan.freq_mask
    widest = min(widest, plan.freq_mask)
    masks["freq_mask_width_range"] = [min(masks["freq_mask_width_range"][0], widest), widest]
    if not widest:
        masks["apply_freq_mask"] = False
    if "time_mask_width_range" in masks:
        low = min(masks["time_mask_width_range"][0], plan.time_mask)
        masks["time_mask_width_range"] = [low, plan.time_mask]
    return masks
