"""Put encoders and models into ESPnet's own choices, so that YAML can name them.

ESPnet has no plugin mechanism: ``ASRTask.build_model``, ``Speech2Text`` and the aligner all read
the module-level ``encoder_choices``. So classes are registered in place, in
``espnet2.tasks.asr.encoder_choices.classes``, and a plain ``ASRTask`` finds them too.

Another package adds its encoders through the entry-point group ``espnet_spike.encoders``::

    [project.entry-points."espnet_spike.encoders"]
    my_encoder = "my_package.encoder:MyEncoder"
"""

import logging
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from espnet_spike.errors import UserError

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

_logger = logging.getLogger(__name__)


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
    for name, where in ENCODERS.items():
        register_encoder(name, _load(where))
    for name, where in MODELS.items():
        register_model(name, _load(where))
    for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=_origin):
        _register_plugin(entry_point)


def encoder_origins() -> dict[str, str]:
    """Return every encoder name with where it comes from: ESPnet, this package or a plugin."""
    from espnet_spike.tasks.espnet import encoder_choices

    register_all()
    plugins = {ep.name: _distribution(ep) for ep in entry_points(group=ENTRY_POINT_GROUP)}
    origins = {}
    for name, cls in encoder_choices.classes.items():
        if name in ENCODERS:
            origins[name] = "espnet_spike"
        elif cls.__module__.startswith("espnet2."):
            origins[name] = "espnet"
        elif hasattr(cls, "broken"):
            origins[name] = f"{plugins[name]} (broken: {cls.broken})"
        else:
            origins[name] = plugins.get(name, cls.__module__)
    return origins


def _register(classes: dict[str, type], kind: str, name: str, cls: type, base: type) -> None:
    if name != name.lower():
        raise UserError(
            f"{kind} name {name!r} is not lower case", f"register it as {name.lower()!r}"
        )
    if name in ("none", "null", "nil"):
        raise UserError(f"{kind} name {name!r} is reserved by ESPnet")
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise UserError(
            f"{kind} {name!r}: {cls!r} is not a subclass of {base.__name__}",
            f"derive the class from {base.__module__}.{base.__name__}",
        )
    taken = classes.get(name)
    if taken is not None and taken is not cls:
        raise UserError(
            f"{kind} name {name!r} is taken by {taken.__module__}.{taken.__qualname__}",
            f"register {cls.__module__}.{cls.__qualname__} under another name",
        )
    classes[name] = cls


def _register_plugin(entry_point: EntryPoint) -> None:
    from espnet_spike.tasks.espnet import encoder_choices

    try:
        register_encoder(entry_point.name, entry_point.load())
    # Whatever another package's import raises must not stop a user who does not need it.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, UserError):
            reason = error.message
        _logger.warning("encoder plugin %s: %s", _origin(entry_point), reason)
        name = entry_point.name.lower()
        taken = encoder_choices.classes.get(name)
        # A clash leaves the class that was there first; only a free name gets the explanation.
        if taken is None:
            encoder_choices.classes[name] = _broken_class(entry_point, reason)


def _broken_class(entry_point: EntryPoint, reason: str) -> type:
    """Return an encoder class that raises, on construction, why the plugin is not usable."""

    def explain(self: object, *args: object, **kwargs: object) -> None:
        raise UserError(
            f"encoder {entry_point.name!r} of the installed distribution "
            f"{_distribution(entry_point)!r} cannot be used: {reason}",
            f"mend or uninstall {_distribution(entry_point)}",
        )

    from espnet2.asr.encoder.abs_encoder import AbsEncoder

    members = {"__init__": explain, "forward": None, "output_size": None, "broken": reason}
    return type("BrokenEncoder", (AbsEncoder,), members | {"__module__": __name__})


def _load(where: str) -> type:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else entry_point.module


def _origin(entry_point: EntryPoint) -> str:
    return f"{_distribution(entry_point)}:{entry_point.name}"
