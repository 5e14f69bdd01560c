"""Check every key of a configuration against what it configures, before any work starts.

ESPnet checks neither the type of a YAML value nor its choices, and finds a wrong key of
``encoder_conf`` only when the class is built, as a bare TypeError. All mistakes are told at once.
"""

import argparse
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from espnet_spike.data.noises import RecordedNoise
from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.nn.layers.fatrelu import named_fatrelus
from espnet_spike.nn.neurons.base import named_neurons
from espnet_spike.ranges import SPARSIFY, check
from espnet_spike.tasks.arguments import (
    RESERVED,
    espnet_parser,
    parse_espnet,
    parse_search,
    with_options,
)
from espnet_spike.tasks.build import (
    INPUT_SIZE,
    VOCAB_SIZE,
    build_on_meta,
    parameters_on_meta,
    token_names,
)
from espnet_spike.tasks.config import (
    META,
    TWIN,
    check_start,
    check_training_values,
    from_twin,
    merge,
    read_training_config,
    trains_twin,
    twin_config,
)
from espnet_spike.tasks.config_values import (
    FRONT,
    GIVEN,
    Problems,
    check_choice,
    check_classes,
    check_conf,
    check_front_end,
    check_rates,
    check_value,
    numbers_as_text,
)
from espnet_spike.tasks.late_imports import late_imports
from espnet_spike.tasks.registry import DECODERS, ENCODERS, MODELS, load_class
from espnet_spike.utils.cli import quiet
from espnet_spike.utils.files import plural, present

_logger = logging.getLogger(__name__)

# parts of a model that `own_model` knows: kind -> name in the YAML -> its class
OWN_PARTS = {
    "encoder": ENCODERS,
    "decoder": {
        **DECODERS,
        "transformer": "espnet2.asr.decoder.transformer_decoder:TransformerDecoder",
    },
    "model": MODELS,
    "specaug": {"specaug": "espnet2.asr.specaug.specaug:SpecAug"},
    "normalize": {
        "global_mvn": "espnet2.layers.global_mvn:GlobalMVN",
        "utterance_mvn": "espnet2.layers.utterance_mvn:UtteranceMVN",
    },
}
OPTIONAL = {"decoder", "specaug", "normalize"}
DEFAULTS = {"model": "spike_asr", "normalize": "utterance_mvn"}
# options of the training that leave the sizes of a model as they are
TRAINING = frozenset(
    "accum_grad amp_dtype batch_bins batch_size batch_type best_model_criterion compile_encoder"
    " early_stopping_criterion exclude_weight_decay exclude_weight_decay_conf fold_length"
    " grad_clip grad_clip_type init keep_nbest_models log_interval max_epoch num_att_plot"
    " num_iters_per_epoch num_workers optim optim_conf patience scheduler scheduler_conf"
    " sort_batch sort_in_batch use_amp use_matplotlib use_tensorboard val_scheduler_criterion"
    " valid_batch_bins valid_batch_size valid_batch_type".split()
)


class Checked(NamedTuple):
    """A good configuration: ESPnet's arguments, and what they build."""

    args: argparse.Namespace
    model: Any
    """on the meta device: sizes without memory for parameters"""


def check_training_config(
    task: type,
    config: Mapping[str, Any],
    path: Path | str,
    extra: str = "",
    vocab_size: int = 30,
    input_size: int | None = INPUT_SIZE,
    words: Sequence[str] = (),
) -> Checked:
    """Check the configuration of a training, and build its model on the meta device.

    Args:
        task: ``SpikeASRTask`` or ``SpikeLMTask``.
        config: content of the YAML, without ``spike_meta``.
        path: for messages.
        extra: options of ESPnet over the YAML, such as ``--asr_args``.
        vocab_size: to build the model with.
        input_size: feature dimension to build the model with; None for a language model, and for
            one of raw audio, whose front end says it.
        words: options of ESPnet that the command sets: data, tokens, folder.

    Returns:
        ESPnet's arguments, with a synthetic token list where ``words`` name none, and the model.

    Raises:
        UserError: lists every mistake found.
    """
    problems: Problems = []
    parser = espnet_parser(task)
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    for key, value in config.items():
        if key in RESERVED:
            problems.append(f"{key} does not belong here; it is set by {RESERVED[key]}")
        elif key not in actions:
            problems.append(f"unknown key {key}{did_you_mean(str(key), actions)}")
        elif key != FRONT:  # see _check_asr
            problems += check_value(key, value, actions[key])
    problems += numbers_as_text(config)
    _raise(path, problems)

    where = f"{path} with {extra!r}" if extra else path
    args = parse_espnet(task, config, words, extra)
    check_training_values(vars(args), where)
    problems += _fit_schedule(config, args)
    problems += check_classes(task, args)
    problems += numbers_as_text(vars(args))
    for key in ("best_model_criterion", "early_stopping_criterion"):  # of a command line, too
        problems += check_value(key, getattr(args, key), actions[key])
    problems += _check_precision(args, asked="--ngpu" in words)
    problems += _check_compiler(args)
    if args.use_wandb and find_spec("wandb") is None:
        problems.append("use_wandb: the package wandb is not installed; install it, or write false")
    problems += _check_preprocessor(vars(args), raw=input_size is None)
    if FRONT in actions:  # a language model has none
        problems += _check_asr(config, args, raw=input_size is None)
    if FRONT in actions and input_size is None:
        problems += check_front_end(task, config.get(FRONT), args.frontend_conf)
    _raise(where, problems)

    if input_size is not None:
        if args.input_size not in (None, input_size):
            problems.append(f"input_size: {args.input_size}, but features have {input_size}")
        args.input_size = input_size
    elif getattr(args, "input_size", None) is not None:
        problems.append(f"input_size: {args.input_size}, but the front end says it; remove it")
        args.input_size = None
    tokens = token_names(vocab_size)
    if args.token_list is None:
        args.token_list = tokens
    try:
        model = build_on_meta(task, _of_sizes(args, tokens))
    except UserError as error:
        if str(path) in error.message:
            raise
        raise UserError(f"{where}: {error.message}", error.hint) from error
    except ImportError as error:
        raise UserError(
            f"{where}: the model needs a package that is not installed: {error}",
            "install it, or choose another encoder or decoder",
        ) from error
    # ValueError, AssertionError, ...: whatever a constructor says to values it does not like
    except Exception as error:
        text = str(error) or "a check in a constructor failed"
        raise UserError(
            f"{where}: the model cannot be built: {type(error).__name__}: {text}",
            "fix the value it names",
        ) from error
    problems += _check_criteria(args, model)
    problems += _check_frozen(args.freeze_param, model)
    _raise(where, problems)
    return Checked(args, model)


def _fit_schedule(config: Mapping[str, Any], args: argparse.Namespace) -> Problems:
    """Let the cycle of ``onecyclelr`` be as long as the training; find one that is too short.

    It ends a training that takes one step more. ``total_steps: auto`` is as long as the training;
    so is a number that is as long as the configuration's own training, where options over it ask
    for a longer one.
    """
    conf = args.scheduler_conf
    _tell_end(args)
    if args.scheduler != "onecyclelr" or not isinstance(conf, Mapping) or "total_steps" not in conf:
        return []
    total, key = conf["total_steps"], "scheduler_conf.total_steps"
    if args.num_iters_per_epoch is None:
        why = f"{key}: auto needs num_iters_per_epoch; else the epochs' length is known too late"
        return [why] if total == "auto" else []
    needed = _updates(vars(args))
    fits = total == _updates({**vars(args), **config}) == config["scheduler_conf"]["total_steps"]
    if total == "auto" or (fits and total < needed):
        args.scheduler_conf = {**conf, "total_steps": max(needed, 1)}
    elif isinstance(total, int) and total < needed:
        return [
            f"{key}: {total}, but max_epoch {args.max_epoch} of num_iters_per_epoch "
            f"{args.num_iters_per_epoch} are {plural(needed, 'step')}, so the training would "
            f"end with an "
            f"error; write {needed}, or auto"
        ]
    return []


def _tell_end(args: argparse.Namespace) -> None:
    """Warn of a schedule of epochs whose end is not that of the training."""
    conf = args.scheduler_conf
    if not isinstance(conf, Mapping) or not isinstance(args.max_epoch, int):
        return
    told = "scheduler_conf.%s: %s, but max_epoch is %d: %s; such a schedule does not grow"
    if args.scheduler == "cosineannealinglr" and isinstance(end := conf.get("T_max"), int):
        if end < args.max_epoch:
            why = "the learning rate rises again behind its end"
        else:
            why = "the learning rate does not come down to its end"
        if end != args.max_epoch:
            _logger.warning(told, "T_max", end, args.max_epoch, why)
    if args.scheduler == "multisteplr" and isinstance(
        steps := conf.get("milestones"), list | tuple
    ):
        late = [step for step in steps if isinstance(step, int) and step >= args.max_epoch]
        if late:
            why = "the training ends before"
            _logger.warning(told, "milestones", late, args.max_epoch, why)


def _updates(options: Mapping[str, Any]) -> int:
    """Return how many updates a training makes whose epochs have a number of batches."""
    batches = options["num_iters_per_epoch"] or 0
    return options["max_epoch"] * (batches // max(options["accum_grad"], 1))


def own_model(config: Mapping[str, Any], vocab_size: int, input_size: int) -> Any | None:
    """Build a model of one of this package's encoders without ESPnet's task, on the meta device.

    The task imports the trainer and all encoders and decoders of ESPnet, which takes as long as to
    import torch. What shapes the model is checked as in `check_training_config`; values of options
    of the training are not.

    Args:
        config: content of the YAML, without ``spike_meta``.
        vocab_size: number of tokens.
        input_size: feature dimension.

    Returns:
        The model, as the task builds it; None where the configuration asks for other parts, or is
        not right: then the task builds it, or `check_training_config` tells what is wrong.
    """
    confs = {kind: config.get(f"{kind}_conf", {}) for kind in (*OWN_PARTS, "ctc")}
    known = TRAINING | OWN_PARTS.keys() | {f"{kind}_conf" for kind in confs} | {"frontend"}
    names = {kind: config.get(kind, DEFAULTS.get(kind)) for kind in OWN_PARTS}
    names = {kind: name for kind, name in names.items() if name is not None}
    if not config.keys() <= known or not all(isinstance(name, str) for name in names.values()):
        return None
    if any(name not in OWN_PARTS[kind] for kind, name in names.items()):
        return None
    if not all(isinstance(conf, Mapping) for conf in confs.values()):
        return None
    with late_imports():
        from espnet2.asr.ctc import CTC

        classes = {kind: load_class(OWN_PARTS[kind][name]) for kind, name in names.items()}
    problems = check_conf("ctc_conf", confs["ctc"], CTC, GIVEN["ctc"])
    for kind in OWN_PARTS:
        found = {names[kind]: classes[kind]} if kind in names else {}
        problems += check_choice(kind, names.get(kind), confs[kind], found, kind in OPTIONAL)
    args = argparse.Namespace(frontend_conf={}, batch_type=None, decoder=names.get("decoder"))
    args.model_conf, args.encoder_conf = confs["model"], confs["encoder"]
    args.encoder = names.get("encoder")
    problems += numbers_as_text(config) + _check_asr(config, args, raw=False)
    if problems:
        return None
    if names.get("normalize") == "global_mvn":  # its file may be made later; see _of_sizes
        del classes["normalize"]

    def build(kind: str, **given: Any) -> Any:
        return classes[kind](**given, **confs[kind]) if kind in classes else None

    try:
        with quiet(), parameters_on_meta():
            encoder = build("encoder", input_size=input_size)
            sizes = {"encoder_output_size": encoder.output_size()}
            model = build(
                "model",
                vocab_size=vocab_size,
                token_list=token_names(vocab_size),
                frontend=None,
                specaug=build("specaug"),
                normalize=build("normalize"),
                preencoder=None,
                encoder=encoder,
                postencoder=None,
                decoder=build("decoder", vocab_size=vocab_size, **sizes),
                ctc=CTC(odim=vocab_size, **sizes, **confs["ctc"]),
                joint_network=None,
            )
        return model.to("meta")
    except Exception:  # whatever a constructor says to its values, `check_training_config` tells
        return None


def _of_sizes(args: argparse.Namespace, tokens: Sequence[str]) -> argparse.Namespace:
    """Return arguments that build a model of the same sizes and read no file."""
    args = argparse.Namespace(**vars(args))
    args.token_list = tokens
    if getattr(args, "normalize", None) == "global_mvn":
        # its file of statistics may be made later, and holds no parameter
        args.normalize, args.normalize_conf = None, {}
    return args


def check_asr_config(
    path: Path, extra: str = "", raw: bool | None = None, fs: int | None = None
) -> Checked:
    """Check the YAML of a speech recognizer, see ``check_training_config``.

    Args:
        path: the YAML; its ``spike_meta`` says what sizes to build the model with.
        extra: options of ESPnet over it.
        raw: whether the data are raw audio; None where that is not known: as the YAML says.
        fs: rate of that in Hz, where it is asked for.

    Raises:
        UserError: lists every mistake found.
    """
    from espnet_spike.tasks.asr import SpikeASRTask

    config, meta = read_training_config(path)
    raw = config.get(FRONT) is not None if raw is None else raw
    size = None if raw else meta.get("input_size", INPUT_SIZE)
    vocabulary = meta.get("vocab_size", VOCAB_SIZE)
    checked = check_training_config(SpikeASRTask, config, path, extra, vocabulary, size)
    if raw and fs is not None:
        _raise(path, check_rates(checked.args, fs, f"audio of --fs {fs}"))
    _raise(path, check_stages(meta, checked))
    check_start(vars(checked.args), meta, f"{path} with {extra!r}" if extra else path)
    if trains_twin(meta):
        whole, rest = with_options(SpikeASRTask, config, extra)
        dense, _ = twin_config(whole, meta, path)
        where = f"{path}, with {META}.{TWIN} its dense twin"
        check_training_config(SpikeASRTask, dense, where, rest, vocabulary, size)
    if meta.get("sparsify") is not None:
        where = f"{path}: {META}.sparsify"
        check(SPARSIFY, meta["sparsify"], where)
        changes = {k: v for k, v in meta["sparsify"].get("finetune", {}).items() if k != META}
        finetune = merge(config, changes)
        check_training_config(SpikeASRTask, finetune, f"{where}.finetune", extra, vocabulary, size)
    return checked


def check_stages(meta: Mapping[str, Any], checked: Checked) -> Problems:
    """Find what the stages before and after the training need of the model, and it has not.

    Args:
        meta: ``spike_meta``.
        checked: the configuration of the training, without it.
    """
    problems = []
    model, name = checked.model, checked.args.encoder
    if meta.get("sparsify") is not None:
        layers = named_fatrelus(model)
        if not layers:
            problems.append(
                f"{META}.sparsify: encoder {name} of these options has no FATReLU point, whose "
                "threshold could be set; see encoder_conf fat_points, or remove it"
            )
        elif any(layer.learnt for layer in layers.values()):
            problems.append(
                f"{META}.sparsify: thresholds are learnt in the training before already; write "
                "encoder_conf fat_threshold: 0.0"
            )
    init, _ = from_twin(meta)
    encoder = model.encoder
    if trains_twin(meta):
        ask = getattr(type(encoder), "twin", None)
        if ask is None or ask(checked.args.encoder_conf or {}) is None:
            problems.append(f"{META}: encoder {name} is dense, it has no twin to start from")
    if init is not None:
        unfit = [n for n, neuron in named_neurons(encoder).items() if not neuron.fits_thresholds]
        if unfit:
            problems.append(
                f"{META}.init_from: there is no threshold for each channel in "
                f"{plural(len(unfit), 'neuron layer')} such as {unfit[0]}; write "
                "per_channel: true (of LIF and I-LIF in neuron_conf, of spiking_speech_mamba in "
                "encoder_conf)"
            )
    return problems


def _check_preprocessor(args: Mapping[str, Any], raw: bool) -> Problems:
    """Find what ESPnet's preprocessor would do to features as if they were audio, or to text.

    It convolves the frames of features with impulse responses, and spells text in another way than
    the list of tokens and the references.
    """
    problems = [
        f"{key}: works on audio, but training reads features; leave it out for noise and "
        "reverberation of model_conf.augment, or train on --feats_type raw"
        for key in ("rir_scp", "noise_scp", "speech_volume_normalize")
        if not raw and args.get(key) is not None
    ]
    return problems + [
        f"{key}: changes the text of the training alone, not tokens and references; leave it out, "
        "and write the transcripts of the data as they are to be"
        for key in ("cleaner", "g2p", "non_linguistic_symbols")
        if args.get(key) is not None
    ]


def check_start_files(args: argparse.Namespace, where: Path | str) -> None:
    """Check that the models are there that a training starts from, and the noise that it adds.

    Raises:
        UserError: names what is missing.
    """
    named = [("init_param", str(name).partition(":")[0]) for name in args.init_param or []]
    audio = ((key, getattr(args, key, None)) for key in ("rir_scp", "noise_scp"))
    named += [(key, str(name)) for key, name in audio if name is not None]
    _raise(where, [f"{key}: no such file: {n}" for key, n in named if not present(Path(n))])
    noise = _noise(args)
    if noise.get("folder") is not None:
        RecordedNoise(Path(noise["folder"])).check()


def _noise(args: argparse.Namespace) -> Mapping[str, Any]:
    """Return the options of the noise that a training adds; none without."""
    noise = (args.model_conf.get("augment") or {}).get("noise")
    return noise if isinstance(noise, Mapping) else {}


def check_naive(checked: Checked, path: Path) -> None:
    """Check that a model can be made sparse without training, see ``--naive_sparsity``.

    Raises:
        UserError: it is no dense SpeechMamba.
    """
    if checked.args.encoder != "speech_mamba":
        raise UserError(
            f"--naive_sparsity with encoder {checked.args.encoder} of {path}",
            "only speech_mamba can be made sparse naively",
        )


def check_lm_config(path: Path, extra: str = "") -> Checked:
    """Check the YAML of a language model, see ``check_training_config``.

    Raises:
        UserError: lists every mistake found.
    """
    from espnet_spike.tasks.lm import SpikeLMTask

    config, _ = read_training_config(path)
    return check_training_config(SpikeLMTask, config, path, extra, input_size=None)


def check_inference_config(config: Mapping[str, Any], words: Sequence[str], path: Path) -> None:
    """Check an inference configuration and options against ESPnet's ``asr_inference``.

    Raises:
        UserError: lists every mistake found.
    """
    from espnet_spike.tasks.espnet import asr_inference

    parser = asr_inference.get_parser()
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    problems: Problems = []
    for key, value in config.items():
        if key not in actions:
            problems.append(f"unknown key {key}{did_you_mean(str(key), actions)}")
        else:
            problems += check_value(key, value, actions[key])
    for word in words:
        name = word.removeprefix("--").split("=")[0]
        if word.startswith("--") and name not in actions:
            problems.append(f"unknown option --{name}{did_you_mean(name, actions)}")
    problems += numbers_as_text(config)
    _raise(path, problems)
    parse_search(config, words)


def _check_asr(config: Mapping[str, Any], args: argparse.Namespace, raw: bool) -> Problems:
    """Check what only an ASR model has, across keys."""
    problems = []
    if config.get(FRONT) is not None and not raw:
        problems.append(
            f"frontend: {config[FRONT]} takes audio, but training reads features; write null, or "
            "give --feats_type raw"
        )
    if args.frontend_conf and not raw:
        problems.append("frontend_conf: there is no front end, features are read; remove it")
    if raw and _noise(args).get("folder") is not None:
        problems.append(
            "model_conf.augment.noise.folder: holds features of stage 3, and this front end makes "
            "others; remove it"
        )
    weight = args.model_conf.get("ctc_weight", 0.5)
    if isinstance(weight, int | float):
        if not 0 <= weight <= 1:
            problems.append(f"model_conf.ctc_weight: must lie in [0, 1], not {weight}")
        if weight < 1 and args.decoder is None:
            problems.append(
                f"decoder: null needs model_conf.ctc_weight 1.0, not {weight}; else name a decoder"
            )
        if weight == 0 and args.model_conf.get("interctc_weight", 0):
            problems.append("model_conf.interctc_weight: needs a ctc_weight above 0")
    layers = args.encoder_conf.get("interctc_layer_idx")
    if args.model_conf.get("interctc_weight", 0) and not layers:
        problems.append("model_conf.interctc_weight: needs encoder_conf.interctc_layer_idx")
    problems += _check_neuron(args) + _check_scan(args)
    problems += _check_augment(args.model_conf.get("augment"))
    if args.batch_type == "folded" and args.fold_length and len(args.fold_length) != 2:
        problems.append("fold_length: needs two numbers, for frames and for tokens")
    return problems


def _check_neuron(args: argparse.Namespace) -> Problems:
    """Check what ``neuron_conf`` gives to the class that ``neuron`` names."""
    from espnet_spike.nn.neurons.factory import neuron_class

    conf, name = (args.encoder_conf.get(key) for key in ("neuron_conf", "neuron"))
    if args.encoder != "iml_spikeformer" or conf is None or not isinstance(name, str | None):
        return []
    try:
        cls = neuron_class("imls" if name is None else name)
    except (ValueError, UserError):
        return []  # told when the model is built
    return check_conf("encoder_conf.neuron_conf", conf, cls, {"dim"})


def _check_scan(args: argparse.Namespace) -> Problems:
    """Find a scan of compiled GPU kernels where there is no GPU."""
    import torch

    confs = {key: getattr(args, key, None) for key in ("encoder_conf", "decoder_conf")}
    return [
        f"{key}.scan_backend: triton needs a CUDA GPU, and there is none; write auto"
        for key, conf in confs.items()
        if isinstance(conf, Mapping) and conf.get("scan_backend") == "triton"
        if not torch.cuda.is_available()
    ]


def _check_precision(args: argparse.Namespace, asked: bool) -> Problems:
    """Find a mixed precision that the device has not.

    Args:
        args: of ESPnet.
        asked: whether their number of GPUs is that of the training.
    """
    import torch

    if not args.use_amp:
        unused = "amp_dtype: has no effect without use_amp: true; add that, or remove it"
        return [unused] if args.amp_dtype is not None else []
    on_gpu = torch.cuda.is_available() and (args.ngpu > 0 or not asked)
    if args.amp_dtype == "float16" and not on_gpu:
        return [
            "amp_dtype: float16 needs a CUDA GPU, where gradients too small for it are scaled up; "
            "write bfloat16"
        ]
    known = on_gpu and torch.cuda.device_count()
    if args.amp_dtype == "bfloat16" and known and not torch.cuda.is_bf16_supported():
        return ["amp_dtype: this GPU has no bfloat16; write float16"]
    return []


def _check_compiler(args: argparse.Namespace) -> Problems:
    """Find an encoder that cannot be trained within ``torch.compile``, or a missing compiler."""
    if not args.compile_encoder:
        return []
    import torch

    encoder = getattr(args, "encoder", None)
    cls = load_class(ENCODERS[encoder]) if encoder in ENCODERS else None
    if not getattr(cls, "compiles_in_training", False):
        named = "a language model" if encoder is None else encoder
        return [f"compile_encoder: {named} is not trained compiled, only speech_mamba; remove it"]
    if (args.encoder_conf or {}).get("gradient_checkpointing"):
        return ["compile_encoder: not with encoder_conf.gradient_checkpointing; remove one of them"]
    if torch.cuda.is_available():
        return []
    place = Path(torch.__file__).parent
    if " " in str(place):
        return [
            f"compile_encoder: {place} has a space in its path, which torch hands to the linker "
            "unquoted; give run.sh an --env elsewhere, or remove the key"
        ]
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return [
            f"compile_encoder: needs the C++ compiler {compiler}; install it, or remove the key"
        ]
    return []


def _check_augment(augment: Any) -> Problems:
    """Check keys and types of the model's augmentation; what values mean its constructor checks."""
    if augment is None:
        return []
    from espnet_spike.nn.augmentation import PARTS, Augmentation

    key = "model_conf.augment"
    problems = check_conf(key, augment, Augmentation, {"recordings"})
    for part, cls in PARTS.items():
        if isinstance(augment, Mapping) and isinstance(augment.get(part), Mapping):
            problems += check_conf(f"{key}.{part}", augment[part], cls, ())
    return problems


def _check_criteria(args: argparse.Namespace, model: Any) -> Problems:
    """Check that the model will report what models are chosen and training is stopped by."""
    if not hasattr(model, "ctc"):
        return []
    absent = {}
    if model.ctc is None:
        absent |= dict.fromkeys(("cer_ctc", "loss_ctc"), "model_conf.ctc_weight is 0")
    if model.decoder is None:
        why = "model_conf.ctc_weight is 1"
        absent |= dict.fromkeys(("acc", "cer", "wer", "loss_att"), why)
    problems = []
    if all(key in absent for _, key, _ in args.best_model_criterion):
        shown = ", ".join(
            f"{phase} {key} ({absent[key]})" for phase, key, _ in args.best_model_criterion
        )
        problems.append(f"best_model_criterion: the model reports none of {shown}")
    if any(phase == "train" and key == "cer_ctc" for phase, key, _ in args.best_model_criterion):
        problems.append("best_model_criterion: cer_ctc is reported for valid only")
    key = args.early_stopping_criterion[1]
    if args.patience is not None and key in absent:
        problems.append(f"early_stopping_criterion: {key} is not reported, {absent[key]}")
    return problems


def _check_frozen(prefixes: Sequence[str], model: Any) -> Problems:
    """Check that ``freeze_param`` names parameters; ESPnet freezes none where it does not."""
    parameters = [name for name, _ in model.named_parameters()]
    words = [name.split(".") for name in parameters]
    parts = {".".join(name[:depth]) for name in words for depth in range(1, len(name) + 1)}
    frozen = {
        prefix: {name for name in parameters if f"{name}.".startswith(f"{prefix}.")}
        for prefix in prefixes
    }
    problems = [
        f"freeze_param: the model has no parameters {prefix}{did_you_mean(prefix, parts)}"
        for prefix, names in frozen.items()
        if not names
    ]
    if frozen and set().union(*frozen.values()) == set(parameters):
        problems.append("freeze_param: no parameter is left to train")
    return problems


def _raise(path: Path | str, problems: Problems) -> None:
    if problems:
        unique = list(dict.fromkeys(problems))
        raise UserError(f"{path}: " + "\n  ".join(["", *unique] if len(unique) > 1 else unique))
