"""ESPnet's tasks and its inference, imported late: see `late_imports`.

Their datasets read the features that ``kaldi_ark`` names by our reader, which runs no command and
no pickle, whatever the file says; model files are read by `load_tensors`; and a model is loaded
only from parameters that are all of them its own, where ESPnet's ``strict=False`` leaves what a
file lacks as it was drawn. All of ESPnet that reads data is imported here.
"""

import argparse
import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from espnet_spike.data.ark import FeatureTable, read_entry
from espnet_spike.errors import UserError, did_you_mean
from espnet_spike.experiment import check_files, with_own_files
from espnet_spike.ranges import check_sizes
from espnet_spike.tasks.late_imports import late_imports
from espnet_spike.utils.checkpoints import compare, fill, load_parameters, load_tensors
from espnet_spike.utils.yaml import read_yaml

if TYPE_CHECKING:
    from espnet2.bin import asr_inference

LOAD = "safe_torch_load"
WRITTEN = frozenset({"required", "version", "distributed", "amp_dtype", "compile_encoder"})
"""Keys of ``config.yaml`` that a training adds to the options of ESPnet's tasks."""
INIT_PARAM = (
    "init_param is FILE[:SOURCE[:TARGET[:EXCLUDED,...]]], such as model.pth:encoder:encoder; "
    "ignore_init_mismatch: true takes what fits"
)


def _load(path: Path | str, map_location: Any = None, **_: Any) -> Any:
    return load_tensors(path, map_location or "cpu")


with late_imports():
    # some have it imported before this module, others look it up here later
    vars(importlib.import_module(f"espnet2.torch_utils.{LOAD}"))[LOAD] = _load
    from espnet2 import __version__ as espnet_version
    from espnet2.tasks import abs_task
    from espnet2.tasks.asr import ASRTask, decoder_choices, encoder_choices, model_choices
    from espnet2.tasks.lm import LMTask
    from espnet2.train import dataset, iterable_dataset

for _name, _module in list(sys.modules.items()):
    if _name.startswith("espnet2.") and LOAD in vars(_module):
        vars(_module)[LOAD] = _load

# by ESPnet's option --train_data_path_and_name_and_type feats.scp,speech,kaldi_ark and its like
dataset.DATA_TYPES["kaldi_ark"] |= {"func": FeatureTable, "kwargs": []}
iterable_dataset.DATA_TYPES["kaldi_ark"] = read_entry
ESPnetDataset = dataset.ESPnetDataset


def _worth_telling(record: logging.LogRecord) -> bool:
    """Drop what ESPnet says of every model with CTC alone: that is what ctc_weight 1 asks for."""
    return not str(record.msg).startswith("Set decoder to none")


logging.root.addFilter(_worth_telling)  # of what ESPnet logs by the root logger itself


def build_filled(
    task: Any,
    args: argparse.Namespace,
    model_file: Path | str,
    may_lack: Callable[[str], bool] | None = None,
    device: str = "cpu",
) -> Any:
    """Build the model of a task and load its parameters, all of them.

    Args:
        task: of ESPnet.
        args: its configuration.
        model_file: the parameters.
        may_lack: says which names the file may lack; None for none.
        device: of the model.

    Raises:
        UserError: the parameters are those of another model, or the configuration builds none or
            has a key that no training writes.
    """
    _check_keys(task, args, Path(model_file))
    for part in ("encoder_conf", "decoder_conf"):
        check_sizes(getattr(args, part, None), f"the configuration of {model_file}: {part}")
    args.init = None  # every parameter is in the file
    try:
        model = task.build_model(args)
        if getattr(args, "use_adapter", False):
            abs_task.create_adapter(model, args.adapter, args.adapter_conf)
    except UserError:
        raise
    except Exception as error:  # whatever a constructor says to values it does not like
        raise UserError(
            f"the configuration of {model_file} builds no model: {type(error).__name__}: {error}",
            "config.yaml beside it has to be as its training wrote it",
        ) from error
    model.to(device)
    fill(model, model_file, may_lack or (lambda name: False), device)
    return model


def _check_keys(task: Any, args: argparse.Namespace, model_file: Path) -> None:
    """Refuse a configuration with keys that its training cannot have written.

    A key of another name leaves the option itself at its default, which may build another model
    of the same parameters. Another release of ESPnet may have more options: of those it warns.

    Raises:
        UserError: names the first key, and the nearest known one.
    """
    known = {action.dest for action in task.get_parser()._actions} | WRITTEN
    unknown = sorted(vars(args).keys() - known)
    if not unknown:
        return
    config = model_file.parent / "config.yaml"
    version = getattr(args, "version", espnet_version)
    if version != espnet_version:
        logging.warning(
            "%s: written by ESPnet %s, here is %s; left out: %s",
            config,
            version,
            espnet_version,
            ", ".join(unknown),
        )
        return
    raise UserError(
        f"the configuration of {model_file} has an unknown key: {unknown[0]}"
        f"{did_you_mean(unknown[0], known)}",
        "config.yaml beside it has to be as its training wrote it",
    )


def _build_model_from_file(
    cls: Any,
    config_file: Path | str | None = None,
    model_file: Path | str | None = None,
    device: str = "cpu",
) -> tuple[Any, argparse.Namespace]:
    """Build a model as ESPnet's function of this name; see `build_filled`.

    Raises:
        UserError: there are no parameters, or they are not those of the model.
    """
    if model_file is None:
        raise UserError(
            f"{config_file}: no model file is given, and its parameters would be random",
            "give --asr_model_file, and --lm_file with --lm_train_config",
        )
    path = Path(config_file or Path(model_file).parent / "config.yaml")
    logging.info("config file: %s", path)
    config = with_own_files(read_yaml(path), path.parent)
    check_files(config, path)
    args = argparse.Namespace(**config)
    return build_filled(cls, args, model_file, device=device), args


def _load_pretrained_model(
    init_param: str, model: Any, ignore_init_mismatch: bool, map_location: str = "cpu"
) -> None:
    """Load parameters to start a training from, as ESPnet's function of this name.

    Args:
        init_param: ``FILE[:SOURCE[:TARGET[:EXCLUDED,...]]]``: those of a file whose names begin
            with SOURCE, but for the excluded ones, go to the module TARGET.
        model: to be trained.
        ignore_init_mismatch: take what fits, and say what does not.
        map_location: device.

    Raises:
        UserError: nothing fits, or, unless mismatches are ignored, the file lacks a parameter,
            holds others or such of another shape.
    """
    path, *keys = init_param.split(":")
    if len(keys) > 3:
        raise UserError(f"init_param {init_param}: too many colons", INIT_PARAM)
    source, target, excluded = [*keys, "", "", ""][:3]
    state = load_parameters(path, map_location)
    for prefix in filter(None, excluded.split(",")):
        state = {name: value for name, value in state.items() if not name.startswith(prefix)}
    if source:
        start = f"{source}."
        state = {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}
    try:
        module = model.get_submodule(target)
    except AttributeError:
        raise UserError(f"init_param {init_param}: the model has no {target}", INIT_PARAM) from None
    own = module.state_dict()
    left_out = tuple(
        prefix.removeprefix(f"{source}." if source else "")
        for prefix in filter(None, excluded.split(","))
    )
    if ignore_init_mismatch:
        fitting = {n: v for n, v in state.items() if n in own and v.shape == own[n].shape}
        for name in [*(state.keys() - fitting.keys()), *(own.keys() - fitting.keys())]:
            logging.warning("init_param %s: %s is not taken", init_param, name)
        state = fitting
    else:
        compare(
            state, own, f"init_param {init_param}", lambda n: n.startswith(left_out), INIT_PARAM
        )
    if not state:
        raise UserError(f"init_param {init_param}: nothing in it is of this model", INIT_PARAM)
    module.load_state_dict(own | state)


@contextlib.contextmanager
def epochs_of(model: Any) -> Iterator[None]:
    """Let ESPnet average only such models of epochs as are of a model.

    Args:
        model: in training.
    """
    average = importlib.import_module("espnet2.main_funcs.average_nbest_models")
    wanted = {name: value.detach() for name, value in model.state_dict().items()}

    def load(path: Path, map_location: str = "cpu") -> Any:
        state = load_parameters(path, map_location)
        compare(state, wanted, path, hint="remove it, and run the same command again")
        return state

    vars(average)[LOAD] = load
    try:
        yield
    finally:
        vars(average)[LOAD] = _load


for _task in (ASRTask, LMTask):
    _task.build_model_from_file = classmethod(_build_model_from_file)  # pyright: ignore[reportAttributeAccessIssue]
abs_task.load_pretrained_model = _load_pretrained_model

__all__ = [
    "ASRTask",
    "ESPnetDataset",
    "LMTask",
    "asr_inference",
    "build_filled",
    "dataset",
    "decoder_choices",
    "encoder_choices",
    "epochs_of",
    "iterable_dataset",
    "model_choices",
]


def __getattr__(name: str) -> ModuleType:
    """Import ``asr_inference``, a module, when it is asked for."""
    if name != "asr_inference":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with late_imports():
        return importlib.import_module("espnet2.bin.asr_inference")
