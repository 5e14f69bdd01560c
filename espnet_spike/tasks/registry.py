"""Put encoders, decoders and models into ESPnet's own choices, so that YAML can name them.

ESPnet has no plugin mechanism: ``ASRTask.build_model``, ``Speech2Text`` and the aligner all read
the module-level ``encoder_choices`` and ``decoder_choices``. So classes are registered in place, in
``espnet2.tasks.asr.encoder_choices.classes`` and its like, and a plain ``ASRTask`` finds them too.

Another package adds its own through entry-point groups::

    [project.entry-points."espnet_spike.encoders"]
    my_encoder = "my_package.encoder:MyEncoder"

    [project.entry-points."espnet_spike.decoders"]
    my_decoder = "my_package.decoder:MyDecoder"
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
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

# name in YAML -> where the class lives
ENCODERS = {
    "iml_spikeformer": "espnet_spike.encoders.iml_spikeformer:IMLSpikeformerEncoder",
    "speech_mamba": "espnet_spike.encoders.speech_mamba:SpeechMambaEncoder",
    "event_speech_mamba": "espnet_spike.encoders.speech_mamba:EventSpeechMambaEncoder",
    "spiking_speech_mamba": "espnet_spike.encoders.speech_mamba:SpikingSpeechMambaEncoder",
}
DECODERS = {
    "speech_mamba": "espnet_spike.decoders.speech_mamba:SpeechMambaDecoder",
}
MODELS = {
    "spike_asr": "espnet_spike.tasks.model:SpikeASRModel",
}


@dataclass(frozen=True)
class Needs:
    """What a part of ESPnet's needs beside features.

    Attributes:
        packages: that it imports.
        further: in words.
    """

    packages: tuple[str, ...] = ()
    further: tuple[str, ...] = ()


_WAVES = "waveforms (--feats_type raw)"
_WEIGHTS = "weights of a pretrained model"
# of ESPnet's parts, what is built from features alone, and what each of the others needs
FROM_FEATURES = {
    "encoder": (
        "branchformer conformer contextual_block_conformer contextual_block_transformer "
        "e_branchformer multiconv_conformer rnn transformer vgg_rnn"
    ).split(),
    "decoder": (
        "dynamic_conv dynamic_conv2d lightweight_conv lightweight_conv2d rnn transformer"
    ).split(),
}
NEEDS = {
    "encoder": {
        "avhubert": Needs(("fairseq",), ("video beside audio", _WEIGHTS)),
        "beats": Needs((), (_WAVES, _WEIGHTS)),
        "hubert": Needs(("fairseq",), (_WAVES, _WEIGHTS)),
        "hubert_pretrain": Needs(("fairseq",), (_WAVES, "ESPnet's task of HuBERT")),
        "longformer": Needs(("longformer",)),
        "torchaudiohubert": Needs((), (_WAVES, "ESPnet's task of HuBERT")),
        "transformer_multispkr": Needs((), ("a model of several speakers at once",)),
        "wav2vec2": Needs(("fairseq",), (_WAVES, _WEIGHTS)),
        "whisper": Needs(("whisper",), (_WAVES, _WEIGHTS)),
    },
    "decoder": {
        "hugging_face_transformers": Needs(("transformers",), (_WEIGHTS,)),
        "linear_decoder": Needs((), ("a task of classes, not of tokens",)),
        "mlm": Needs((), ("model: maskctc",)),
        "s4": Needs((), ("decoder_conf with its layers",)),
        "transducer": Needs(("warprnnt_pytorch",)),
        "whisper": Needs(("whisper",), (_WEIGHTS,)),
    },
}


@dataclass(frozen=True)
class Kind:
    """A part of a model that other packages may add.

    Attributes:
        name: in YAML, such as ``encoder``.
        group: of entry points.
        own: name in YAML -> where our class lives.
        base: where the class lives that all derive from.
        broken: members that ``base`` demands, for the class that stands for a broken plugin.
    """

    name: str
    group: str
    own: Mapping[str, str]
    base: str
    broken: tuple[str, ...]

    @property
    def classes(self) -> dict[str, type]:
        """ESPnet's choices: name in YAML -> class."""
        from espnet_spike.tasks import espnet

        return getattr(espnet, f"{self.name}_choices").classes


ENCODER = Kind(
    name="encoder",
    group="espnet_spike.encoders",
    own=ENCODERS,
    base="espnet2.asr.encoder.abs_encoder:AbsEncoder",
    broken=("forward", "output_size"),
)
DECODER = Kind(
    name="decoder",
    group="espnet_spike.decoders",
    own=DECODERS,
    base="espnet2.asr.decoder.abs_decoder:AbsDecoder",
    broken=("forward",),
)
KINDS = (ENCODER, DECODER)


def register_encoder(name: str, cls: type) -> None:
    """Make ``encoder: <name>`` in YAML build ``cls``.

    Args:
        name: lower case; ESPnet looks names up in lower case and would not find another.
        cls: a subclass of ESPnet's ``AbsEncoder``.

    Raises:
        UserError: the name is not lower case or is taken by another class, or ``cls`` is no
            ``AbsEncoder``. Registering the same class again does nothing.
    """
    _register(ENCODER.classes, "encoder", name, cls, load_class(ENCODER.base))


def register_decoder(name: str, cls: type) -> None:
    """Make ``decoder: <name>`` in YAML build ``cls``, a subclass of ESPnet's ``AbsDecoder``.

    Raises:
        UserError: as `register_encoder`.
    """
    _register(DECODER.classes, "decoder", name, cls, load_class(DECODER.base))


def register_model(name: str, cls: type) -> None:
    """Make ``model: <name>`` in YAML build ``cls``, a subclass of ESPnet's ``ESPnetASRModel``.

    Raises:
        UserError: as `register_encoder`.
    """
    from espnet2.asr.espnet_model import ESPnetASRModel

    from espnet_spike.tasks.espnet import model_choices

    _register(model_choices.classes, "model", name, cls, ESPnetASRModel)


def register_all() -> None:
    """Register this package's encoders, decoders and models, then those of installed plugins.

    A plugin that cannot be imported costs a warning; asking for its class raises a
    ``UserError`` that names the distribution.
    """
    for name, where in MODELS.items():
        register_model(name, load_class(where))
    for kind in KINDS:
        base = load_class(kind.base)
        for name, where in kind.own.items():
            _register(kind.classes, kind.name, name, load_class(where), base)
        for entry_point in installed(kind.group):
            cls, reason = load(entry_point, kind.name, base, kind.classes)
            name = entry_point.name.lower()
            if cls is not None:
                kind.classes[name] = cls
            # A clash leaves the class that was there first; a free name gets the explanation.
            elif name not in kind.classes:
                kind.classes[name] = _broken_class(kind, entry_point, reason)


def encoder_origins() -> dict[str, str]:
    """Return every encoder name with where it comes from: ESPnet, this package or a plugin.

    Plugins are imported, to see whether they can be; ESPnet's encoders and ours are not.
    """
    return _origins(ENCODER)


def decoder_origins() -> dict[str, str]:
    """Return every decoder name with where it comes from; see `encoder_origins`."""
    return _origins(DECODER)


def format_origins(origins: Mapping[str, str], kind: str = "encoder") -> str:
    """Return a line for each name and its origin; ours and those of plugins first.

    What cannot be built here, from features or their encodings, is below, with what it needs.

    Args:
        origins: see `encoder_origins`.
        kind: ``encoder`` or ``decoder``.
    """
    width = max(map(len, origins))
    names = sorted(origins, key=lambda name: (origins[name] == "espnet", origins[name], name))
    needs = {name: lacking(kind, name, origins[name]) for name in names}
    lines = [f"{name:<{width}}  {origins[name]}" for name in names if not needs[name]]
    if others := [name for name in names if needs[name]]:
        lines += ["", f"not from features alone; what each {kind} needs:"]
        lines += [f"{name:<{width}}  {needs[name]}" for name in others]
    return "\n".join(lines)


def lacking(kind: str, name: str, origin: str) -> str:
    """Return what an encoder or decoder needs that is not here; nothing if it can be built.

    Args:
        kind: ``encoder`` or ``decoder``.
        name: in YAML.
        origin: as in `encoder_origins`.
    """
    if "(broken: " in origin:
        return origin
    if origin != "espnet":
        return ""
    if name not in NEEDS[kind]:
        return "" if name in FROM_FEATURES[kind] else "not known here: a newer ESPnet has it"
    needs = NEEDS[kind][name]
    absent = [f"the package {package}" for package in needs.packages if not find_spec(package)]
    return ", ".join([*absent, *needs.further])


def _origins(kind: Kind) -> dict[str, str]:
    theirs = espnet_classes(kind.name)
    places = theirs | {name: where.replace(":", ".") for name, where in kind.own.items()}
    origins = dict.fromkeys(theirs, "espnet") | dict.fromkeys(kind.own, "espnet_spike")
    for entry_point in installed(kind.group):
        cls, reason = load(entry_point, kind.name, load_class(kind.base), places)
        name, distribution = entry_point.name.lower(), distribution_of(entry_point)
        if cls is not None:
            places.setdefault(name, place(cls))
            origins.setdefault(name, distribution)
        else:
            origins.setdefault(name, f"{distribution} (broken: {reason})")
    return origins


def espnet_classes(kind: str) -> dict[str, str]:
    """Return what ESPnet offers of a kind, ``encoder`` or ``decoder``, read from its task's source.

    Returns:
        name in YAML -> the class in full.

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
            case ast.Assign(targets=[ast.Name(name)], value=ast.Call(keywords=found)):
                if name == f"{kind}_choices":
                    (classes,) = [word.value for word in found if word.arg == "classes"]
                    return _keywords(classes, homes)
    raise ValueError(f"{path} has no {kind}_choices")


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


def _broken_class(kind: Kind, entry_point: EntryPoint, reason: str) -> type:
    """Return a class that raises, on construction, why the plugin is not usable."""

    def explain(self: object, *args: object, **kwargs: object) -> None:
        raise unusable(entry_point, kind.name, reason)

    members = dict.fromkeys(kind.broken) | {"__init__": explain, "broken": reason}
    name = f"Broken{kind.name.capitalize()}"
    return type(name, (load_class(kind.base),), members | {"__module__": __name__})


def load_class(where: str) -> type:
    """Return the class ``module:Class``."""
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)
