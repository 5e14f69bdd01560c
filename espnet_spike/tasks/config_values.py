"""Check values of a configuration: against a parser's option, against a constructor."""

import argparse
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from espnet_spike.errors import did_you_mean
from espnet_spike.utils.cli import quiet

# arguments that a task gives to a class itself: the choice's name -> arguments
GIVEN = {
    "encoder": {"input_size"},
    "decoder": {"vocab_size", "encoder_output_size"},
    "postencoder": {"input_size"},
    "ctc": {"odim", "encoder_output_size"},
    "optim": {"params"},
    "scheduler": {"optimizer"},
    "lm": {"vocab_size"},
    "model": {
        *("vocab_size", "token_list", "frontend", "specaug", "normalize", "preencoder"),
        *("encoder", "postencoder", "decoder", "ctc", "joint_network", "lm"),
    },
    "preprocessor": {
        *("train", "token_type", "token_list", "bpemodel", "text_cleaner", "g2p_type"),
        *("non_linguistic_symbols", "rir_scp", "rir_apply_prob", "noise_scp", "use_lang_prompt"),
        *("noise_apply_prob", "noise_db_range", "short_noise_thres", "speech_volume_normalize"),
        *("aux_task_names", "use_nlp_prompt"),
    },
}

# front ends of ESPnet that are refused -> why
REFUSED_FRONT_ENDS = {
    "s3prl": "needs the package s3prl, and downloads its model",
    "fused": "joins that of s3prl, which downloads its model, to others",
    "espnet_ssl": "needs a model of espnet2.tasks.ssl, or downloads one",
    "whisper": "needs the package openai-whisper, and downloads its model",
    "huggingface": "needs the package transformers, and downloads its model",
}

# "2e-3", which YAML 1.1 reads as text
_NUMBER_AS_TEXT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

Problems = list[str]
FRONT = "frontend"


def check_classes(task: type, args: argparse.Namespace) -> Problems:
    """Check the classes that a task's arguments name, each with the mapping that configures it."""
    problems: Problems = []
    for choices in task.class_choices_list:
        if choices.name == "frontend":
            continue  # see check_front_end
        name = getattr(args, choices.name)
        conf = getattr(args, f"{choices.name}_conf")
        problems += check_choice(choices.name, name, conf, choices.classes, choices.optional)
    problems += _check_optimizer(args)
    if hasattr(args, "ctc_conf"):
        from espnet2.asr.ctc import CTC

        problems += check_conf("ctc_conf", args.ctc_conf, CTC, GIVEN["ctc"])
    return problems


def check_front_end(task: type, name: Any, conf: Any) -> Problems:
    """Check the front end of a model that takes raw audio; see `check_choice`."""
    known = next(choices.classes for choices in task.class_choices_list if choices.name == FRONT)
    usable = {key: cls for key, cls in known.items() if key not in REFUSED_FRONT_ENDS}
    names = ", ".join(usable)
    if name is None:
        return [
            f"{FRONT}: null, but the data are raw audio (--feats_type raw); write frontend: NAME "
            f"in the YAML, one of {names}, or leave out --feats_type raw to train on features"
        ]
    if name in REFUSED_FRONT_ENDS:
        return [
            f"{FRONT}: {name} {REFUSED_FRONT_ENDS[name]}; name one without further packages and "
            f"downloads: {names}"
        ]
    return check_choice(FRONT, name, conf, usable, optional=False)


def check_rates(args: argparse.Namespace, fs: int, audio: str) -> Problems:
    """Check that parts of a model that take audio are of its rate.

    Args:
        args: ESPnet's arguments.
        fs: rate of the audio in Hz.
        audio: names it, for messages.
    """
    problems: Problems = []
    for key in (FRONT, "preencoder"):
        name, conf = getattr(args, key), getattr(args, f"{key}_conf")
        if name is None or name in ("sliding_window", "linear", "wav2vec_cnn"):  # of any rate
            continue
        given = conf.get("fs", 16000)
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(k?)", str(given))  # ESPnet takes 16k, too
        if found is None:
            problems.append(
                f"{key}_conf.fs: {given!r} is no sampling rate; write it in Hz, such as 16000"
            )
        elif (rate := round(float(found[1]) * (1000 if found[2] else 1))) != fs:
            default = "" if "fs" in conf else ", ESPnet's default"
            problems.append(
                f"{key}_conf.fs: {rate} Hz{default}, but {audio} has {fs} Hz; write fs: {fs}, or "
                f"make the audio again with --fs {rate}"
            )
    return problems


def _check_optimizer(args: argparse.Namespace) -> Problems:
    """Check optimizer and scheduler, and build them over one parameter."""
    import torch
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    problems = check_choice("optim", args.optim, args.optim_conf, optim_classes, optional=False)
    problems += check_choice("scheduler", args.scheduler, args.scheduler_conf, scheduler_classes)
    if problems or numbers_as_text({"o": args.optim_conf, "s": args.scheduler_conf}):
        return problems
    try:
        optim = _without_compiler(optim_classes[args.optim])(
            [torch.nn.Parameter(torch.zeros(1))], **args.optim_conf
        )
    except Exception as error:  # whatever an optimizer says to values it does not like
        return [f"optim_conf: {error}"]
    if args.scheduler is not None:
        try:
            with quiet():
                scheduler_classes[args.scheduler](optim, **args.scheduler_conf)
        except ZeroDivisionError:
            if args.scheduler != "onecyclelr":
                return [f"scheduler_conf: a number of {args.scheduler} must not be 0"]
            return [  # its rise or fall has a single update
                f"scheduler_conf: the learning rate of {args.scheduler} rises or falls within one "
                f"update (total_steps {args.scheduler_conf.get('total_steps')}); train longer, or "
                "change pct_start"
            ]
        except Exception as error:
            return [f"scheduler_conf: {error}"]
    return []


def _without_compiler(optim: type) -> type:
    """Return an optimizer class that takes parameters as another does, if not compiled.

    torch imports its compiler to keep it from one method; here nothing is compiled.
    """
    from torch.optim import Optimizer

    if optim.add_param_group is not Optimizer.add_param_group:
        return optim
    plain = Optimizer.add_param_group.__wrapped__
    return type(optim.__name__, (optim,), {"add_param_group": plain})


def check_choice(
    kind: str,
    name: str | None,
    conf: Mapping[str, Any],
    classes: Mapping[str, type],
    optional: bool = True,
) -> Problems:
    """Check that ``name`` is one of the classes and ``conf`` fits its constructor."""
    if name is None:
        if not optional:
            return [f"{kind}: null, but one is needed: {', '.join(classes)}"]
        return [f"{kind}_conf is given, but {kind} is null"] if conf else []
    if not isinstance(name, str) or name not in classes:
        guess = did_you_mean(str(name), classes)
        return [f"{kind}: unknown {kind} {name!r}{guess}; known: {', '.join(classes)}"]
    if hasattr(classes[name], "broken"):
        classes[name]()  # raises the UserError that explains
    return check_conf(f"{kind}_conf", conf, classes[name], GIVEN.get(kind, set()))


def check_conf(key: str, conf: Any, cls: Callable[..., Any], given: Iterable[str]) -> Problems:
    """Check a mapping of keyword arguments against the signature of a constructor.

    Unknown and missing arguments, and values that do not fit the annotated type (or the type of
    the default). A constructor with ``**kwargs`` takes any key: then only the types are checked.
    """
    if not isinstance(conf, Mapping):
        return [f"{key}: must be a mapping, not {conf!r}"]
    parameters = dict(inspect.signature(cls).parameters)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {
        name: p
        for name, p in parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    known = [name for name in named if name not in given]
    hints = _type_hints(cls)
    problems = []
    for name, value in conf.items():
        if name in given:
            problems.append(f"{key}.{name} is given by the task; remove it")
        elif name in named:
            problems += _check_type(f"{key}.{name}", value, hints.get(name), named[name].default)
        elif not open_ended:
            problems.append(
                f"{key}: unknown key {name}{did_you_mean(str(name), known)}; "
                f"{cls.__name__} takes {', '.join(known) or 'none'}"
            )
    missing = [
        name
        for name in known
        if named[name].default is inspect.Parameter.empty and name not in conf
    ]
    # the statistics file of global_mvn comes from the stats stage
    missing = [name for name in missing if name != "stats_file"]
    if missing:
        problems.append(f"{key}: {cls.__name__} needs {', '.join(missing)}")
    return problems


def check_value(key: str, value: Any, action: argparse.Action) -> Problems:
    """Check a top-level YAML value as argparse would have checked it on the command line."""
    from espnet2.utils.nested_dict_action import NestedDictAction

    if isinstance(action, NestedDictAction):
        if (value is None and action.default is None) or isinstance(value, Mapping):
            return []
        return [f"{key}: must be a mapping, not {value!r}"]
    if action.nargs is not None or isinstance(action, argparse._AppendAction):
        return _check_list(key, value, action)
    return _check_scalar(key, value, action)


def _check_list(key: str, value: Any, action: argparse.Action) -> Problems:
    if key == "best_model_criterion":
        return _check_triples(key, value)
    if not isinstance(value, list | tuple):
        # ESPnet's trainer takes a single number here
        if key == "keep_nbest_models" and isinstance(value, int):
            return []
        return [f"{key}: must be a list, not {value!r}"]
    problems = []
    if isinstance(action.nargs, int) and len(value) != action.nargs:
        problems.append(f"{key}: must be a list of {action.nargs}, not {value!r}")
    for item in value:
        problems += _check_scalar(key, item, action)
    if key == "early_stopping_criterion" and not problems:
        problems += _check_triples(key, [value])
    return problems


def _check_triples(key: str, value: Any) -> Problems:
    form = f"{key}: each entry must be [train or valid, statistic, min or max]"
    if not isinstance(value, list | tuple) or not value:
        return [f"{form}, not {value!r}"]
    problems = []
    for item in value:
        good = isinstance(item, list | tuple) and len(item) == 3
        if not good or item[0] not in ("train", "valid") or item[2] not in ("min", "max"):
            problems.append(f"{form}, not {item!r}")
    return problems


def _check_scalar(key: str, value: Any, action: argparse.Action) -> Problems:
    if isinstance(value, str) and action.type is not None:
        # argparse converts a default that is a text, as it does a word of the command line
        try:
            convert: Any = action.type  # a function; its type allows the name of a registered one
            value = convert(value)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            if _NUMBER_AS_TEXT.fullmatch(value):
                return [_number_as_text(key, value)]
            kind = getattr(action.type, "__name__", "").removesuffix("_or_none")
            names = {"int": "a whole number", "float": "a number", "str2bool": "true or false"}
            return [f"{key}: must be {names.get(kind, kind)}, not {value!r}"]
    kind = getattr(action.type, "__name__", "str")
    if value is None:
        nullable = kind.endswith("_or_none") or None in (action.choices or ())
        if nullable or action.default is None:
            return []
        return [f"{key}: null is not possible, the default is {action.default!r}"]
    wanted = {"int": int, "float": float, "str2bool": bool}.get(kind.removesuffix("_or_none"))
    if wanted is not None and (problem := _mismatch(key, value, wanted)):
        return [problem]
    if wanted is None and isinstance(value, list | dict):
        return [f"{key}: must be one value, not {value!r}"]
    if action.choices is not None and value not in action.choices:
        choices = [str(c) for c in action.choices if c is not None]
        return [
            f"{key}: unknown value {value!r}{did_you_mean(str(value), choices)}; "
            f"known: {', '.join(choices)}"
        ]
    return []


def _check_type(key: str, value: Any, hint: Any, default: Any) -> Problems:
    if type(value) is type(default) and value == default:
        return []  # "pos_enc: str = None" in ESPnet means that null is possible
    if hint is not None and hint is not Any:
        from typeguard import TypeCheckError, check_type

        try:
            check_type(value, hint)
        except TypeCheckError:
            if isinstance(value, list) and typing.get_origin(hint) is tuple:
                return _check_type(key, tuple(value), hint, default)  # YAML has no tuples
            shown = getattr(hint, "__name__", None) if isinstance(hint, type) else None
            shown = shown or str(hint).replace("typing.", "")
            return [f"{key}: must be {shown}, not {value!r}"]
        except (NameError, TypeError):
            pass  # a hint that cannot be checked at run time
        return []
    if default is inspect.Parameter.empty or default is None or value is None:
        return []
    problem = None
    if isinstance(default, bool | int | float):
        wanted = bool if isinstance(default, bool) else float
        problem = _mismatch(key, value, wanted)
    elif isinstance(default, str) and isinstance(value, bool | int | float):
        problem = f"{key}: must be text like {default!r}, not {value!r}"
    return [problem] if problem else []


def _mismatch(key: str, value: Any, wanted: type) -> str | None:
    good = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool),
    }[wanted]
    if good or (isinstance(value, str) and _NUMBER_AS_TEXT.fullmatch(value)):
        return None  # the second is told by numbers_as_text
    names = {bool: "true or false", int: "a whole number", float: "a number"}
    return f"{key}: must be {names[wanted]}, not {value!r}"


def numbers_as_text(config: Mapping[str, Any]) -> Problems:
    """Find texts such as 2e-3 in the mappings of a configuration: YAML reads them as text.

    Outside mappings argparse converts them.
    """
    nested = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    return _numbers_in(nested, "")


def _numbers_in(config: Mapping[str, Any], prefix: str) -> Problems:
    problems: Problems = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            problems += _numbers_in(value, f"{prefix}{key}.")
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str) and _NUMBER_AS_TEXT.fullmatch(item):
                problems.append(_number_as_text(f"{prefix}{key}", item))
    return problems


def _number_as_text(key: str, value: str) -> str:
    number = f"{float(value):.12f}".rstrip("0").rstrip(".")
    if float(number) != float(value):
        number = f"{float(value):.6e}"
    return f"{key}: YAML reads {value} as text, not as a number; write {number}"


def _type_hints(cls: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__ if isinstance(cls, type) else cls)
    except (NameError, TypeError, AttributeError):
        return {}
