"""Put encoders and models into ESPnet's own choices, so that YAML can name them.

ESPnet has no plugin mechanism: ``ASRTask.build_model``, ``Speech2Text`` and the aligner all read
the module-level ``encoder_choices``. So classes are registered in place, in
``espnet2.tasks.asr.encoder_choices.classes``, and a plain ``ASRTask`` finds them too.

Another package adds its encoders through the entry-point group ``espnet_spike.encoders``::

    [project.entry-points."espnet_spike.encoders"]
    my_encoder = "my_package.encoder:MyEncoder"
"""

import ast
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from espnet_spike.errors import UserError
from espnet_spike.utils.plugins import (
    check_class,
    check_free,
    distribution_of,
    installed,
    load,
    place,
    unusable,
)

ENTRY_POINT_GROUP = "espnet_spike.encoders"

# name in YAML -> where the class lives
ENCODERS = {
    "iml_spikeformer": "espnet_spike.encoders.iml_spikeformer:IMLSpikeformerEncoder",
    "speech_mamba": "espnet_spike.encoders.speech_mamba:SpeechMambaEncoder",
    "event_speech_mamba": "espnet_spike.encoders.speech_mamba:EventSpeechMambaEncoder",
    "spiking_speech_mamba": "espnet_spike.encoders.speech_mamba:SpikingSpeechMambaEncoder",
}
MODELS = {
    "spike_asr": "espnet_spike.tasks.model:SpikeASRModel",
}


def register_encoder(name: str, cls: type) -> None:
    """Make ``encoder: <name>`` in YAML build ``cls``.

    Args:
        name: lower case; ESPnet looks names up in lower case and would not find another.
        cls: a subclass of ESPnet's ``AbsEncoder``.

    Raises:
        UserError: the name is not lower case or is taken by another class, or ``cls`` is no
            ``AbsEncoder``. Registering the same class again does nothing.
    """
    from espnet2.asr.encoder.abs_encoder import AbsEncoder

    from espnet_spike.tasks.espnet import encoder_choices

    _register(encoder_choices.classes, "encoder", name, cls, AbsEncoder)


def register_model(name: str, cls: type) -> None:
    """Make ``model: <name>`` in YAML build ``cls``, a subclass of ESPnet's ``ESPnetASRModel``.

    Raises:
        UserError: as `register_encoder`.
    """
    from espnet2.asr.espnet_model import ESPnetASRModel

    from espnet_spike.tasks.espnet import model_choices

    _register(model_choices.classes, "model", name, cls, ESPnetASRModel)


def register_all() -> None:
    """Register this package's encoders and models, then those of installed plugins.

    A plugin that cannot be imported costs a warning; asking for its encoder raises a
    ``UserError`` that names the distribution.
    """
    from espnet_spike.tasks.espnet import encoder_choices

    for name, where in ENCODERS.items():
        register_encoder(name, load_class(where))
    for name, where in MODELS.items():
        register_model(name, load_class(where))
    for entry_point in installed(ENTRY_POINT_GROUP):
        cls, reason = _load_plugin(entry_point, encoder_choices.classes)
        name = entry_point.name.lower()
        if cls is not None:
            encoder_choices.classes[name] = cls
        # A clash leaves the class that was there first; only a free name gets the explanation.
        elif name not in encoder_choices.classes:
            encoder_choices.classes[name] = _broken_class(entry_point, reason)


def encoder_origins() -> dict[str, str]:
    """Return every encoder name with where it comes from: ESPnet, this package or a plugin.

    Plugins are imported, to see whether they can be; ESPnet's encoders and ours are not.
    """
    places = espnet_encoders() | {name: where.replace(":", ".") for name, where in ENCODERS.items()}
    origins = dict.fromkeys(places, "espnet") | dict.fromkeys(ENCODERS, "espnet_spike")
    for entry_point in installed(ENTRY_POINT_GROUP):
        cls, reason = _load_plugin(entry_point, places)
        name, distribution = entry_point.name.lower(), distribution_of(entry_point)
        if cls is not None:
            places.setdefault(name, place(cls))
            origins.setdefault(name, distribution)
        else:
            origins.setdefault(name, f"{distribution} (broken: {reason})")
    return origins


def espnet_encoders() -> dict[str, str]:
    """Return the encoders of ESPnet: name -> the class in full, read from the source of its task.

    Raises:
        ValueError: the source has no such choices.
    """
    package = find_spec("espnet2")
    if package is None or not package.submodule_search_locations:
        raise ValueError("ESPnet is not installed")
    path = Path(package.submodule_search_locations[0]) / "tasks" / "asr.py"
    homes: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                homes |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in names}
            case ast.Assign(targets=[ast.Name("encoder_choices")], value=ast.Call(keywords=found)):
                (classes,) = [word.value for word in found if word.arg == "classes"]
                return _keywords(classes, homes)
    raise ValueError(f"{path} has no encoder_choices")


def _keywords(call: ast.expr, homes: Mapping[str, str]) -> dict[str, str]:
    """Return what a call of keywords and imported names says, each name as its class in full."""
    words = call.keywords if isinstance(call, ast.Call) else []
    return {
        word.arg: homes[word.value.id]
        for word in words
        if word.arg is not None and isinstance(word.value, ast.Name)
    }


def _register(classes: dict[str, type], kind: str, name: str, cls: type, base: type) -> None:
    if name in ("none", "null", "nil"):
        raise UserError(f"{kind} name {name!r} is reserved by ESPnet")
    check_class(kind, name, cls, base)
    check_free(kind, name, cls, classes.get(name))
    classes[name] = cls


def _load_plugin(
    entry_point: EntryPoint, taken: Mapping[str, type | str]
) -> tuple[type | None, str]:
    """Return a plugin's encoder; or None, after a warning, and why it cannot be used."""
    from espnet2.asr.encoder.abs_encoder import AbsEncoder

    return load(entry_point, "encoder", AbsEncoder, taken)


def _broken_class(entry_point: EntryPoint, reason: str) -> type:
    """Return an encoder class that raises, on construction, why the plugin is not usable."""

    def explain(self: object, *args: object, **kwargs: object) -> None:
        raise unusable(entry_point, "encoder", reason)

    from espnet2.asr.encoder.abs_encoder import AbsEncoder

    members = {"__init__": explain, "forward": None, "output_size": None, "broken": reason}
    return type("BrokenEncoder", (AbsEncoder,), members | {"__module__": __name__})


def load_class(where: str) -> type:
    """Return the class ``module:Class``."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)
