"""Small models of every kind that can be exported, and speech for them."""

from espnet_spike.export import sherpa

SIZE = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}


SPIKEFORMER = SIZE | {"conv_channels": 8}


MAMBA = SIZE | {"conv_channels": 8, "d_state": 3}


MODELS = {
    "imls": ("iml_spikeformer", SPIKEFORMER),
    "relu": ("iml_spikeformer", SPIKEFORMER | {"neuron": "relu"}),
    "ilif": ("iml_spikeformer", SPIKEFORMER | {"neuron": "ilif", "neuron_norm": True}),
    "ternary": ("iml_spikeformer", SPIKEFORMER | {"neuron": "ternary", "T": 3}),
    "lif": (
        "iml_spikeformer",
        SPIKEFORMER | {"neuron": "lif", "T": 3, "neuron_conf": {"v_th": 0.2}},
    ),
    "asym": ("iml_spikeformer", SPIKEFORMER | {"qk_mode": "asym", "imls_stat": "utt"}),
    "repconv": ("iml_spikeformer", SPIKEFORMER | {"qk_mode": "repconv", "imls_stat": "max"}),
    "ssa": ("iml_spikeformer", SPIKEFORMER | {"qk_mode": "ssa", "imls_stat": "ema"}),
    "sdsa": ("iml_spikeformer", SPIKEFORMER | {"qk_mode": "sdsa", "input_layer": "conv2d6"}),
    "folded": (
        "iml_spikeformer",
        SPIKEFORMER | {"fold_qk": True, "qkv_bias": True, "conv_module": True, "norm": "bn"},
    ),
    "causal, chunkwise": (
        "iml_spikeformer",
        SPIKEFORMER | {"causal": True, "attention_form": "chunkwise", "learn_decay": True},
    ),
    "no decay": (
        "iml_spikeformer",
        SPIKEFORMER | {"hdm": False, "inner_norm": True, "norm": "dyt", "rounding": "even"},
    ),
    "mamba": ("speech_mamba", MAMBA | {"conv_skip": True}),
    "mhsa_mamba": ("speech_mamba", MAMBA | {"block": "mhsa_mamba", "input_layer": "conmamba"}),
    "mamba_ffn, causal": ("speech_mamba", MAMBA | {"block": "mamba_ffn", "causal": True}),
    "conmamba": ("speech_mamba", MAMBA | {"block": "conmamba", "input_layer": "speechbrain"}),
    "event": (
        "event_speech_mamba",
        MAMBA | {"fat_points": "optimized", "fat_threshold": 0.02, "attention_window": [9, 2]},
    ),
    "spiking": ("spiking_speech_mamba", MAMBA | {"v_th": 0.5}),
    "spiking, causal": ("spiking_speech_mamba", MAMBA | {"v_th": 0.5, "causal": True}),
    "spiking, ilif": (
        "spiking_speech_mamba",
        MAMBA | {"neuron": "ilif", "v_th": 0.5, "per_channel": True},
    ),
    "transformer": ("transformer", SIZE),
    "conformer": ("conformer", SIZE | {"num_blocks": 2, "interctc_layer_idx": [1]}),
    "utterance_mvn": ("iml_spikeformer", SPIKEFORMER | {"neuron": "relu"}, "utterance_mvn"),
}


METADATA = sherpa.metadata("a test")
