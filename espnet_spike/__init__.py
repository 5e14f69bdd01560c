"""espnet_spike: speech recognition recipes whose encoders spike.

Importing this package is cheap and has no side effects: the names below are imported where they are
first used. They are what other code may rely on; modules and what else is in them may move.

``espnet_spike.task`` registers encoders and decoders with ESPnet; every command under
``espnet_spike.bin`` imports it where it is needed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors, which do not run __getattr__
    from espnet_spike.counting.counter import Counter as Counter
    from espnet_spike.counting.counter import count_batch as count_batch
    from espnet_spike.counting.energy import CostModel as CostModel
    from espnet_spike.counting.energy import energy as energy
    from espnet_spike.counting.energy import read_cost_model as read_cost_model
    from espnet_spike.data.fbank import Fbank as Fbank
    from espnet_spike.data.fbank import FbankConfig as FbankConfig
    from espnet_spike.data.feature_extractor import FeatureExtractor as FeatureExtractor
    from espnet_spike.decoders.speech_mamba import SpeechMambaDecoder as SpeechMambaDecoder
    from espnet_spike.encoders.block_encoder import BlockEncoder as BlockEncoder
    from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder as IMLSpikeformerEncoder
    from espnet_spike.encoders.speech_mamba import (
        EventSpeechMambaEncoder as EventSpeechMambaEncoder,
    )
    from espnet_spike.encoders.speech_mamba import SpeechMambaEncoder as SpeechMambaEncoder
    from espnet_spike.encoders.speech_mamba import (
        SpikingSpeechMambaEncoder as SpikingSpeechMambaEncoder,
    )
    from espnet_spike.encoders.spike_options import SpikeOptions as SpikeOptions
    from espnet_spike.errors import UserError as UserError
    from espnet_spike.inference.recognizer import Recognizer as Recognizer
    from espnet_spike.inference.speech_model import SpeechModel as SpeechModel
    from espnet_spike.inference.speech_model import load_model as load_model
    from espnet_spike.inference.streaming import EncoderStream as EncoderStream
    from espnet_spike.inference.streaming import Transcriber as Transcriber
    from espnet_spike.nn.accounting import Cost as Cost
    from espnet_spike.nn.neurons.base import Firing as Firing
    from espnet_spike.nn.neurons.base import Neuron as Neuron
    from espnet_spike.nn.neurons.factory import NeuronFactory as NeuronFactory
    from espnet_spike.nn.neurons.factory import register_neuron as register_neuron
    from espnet_spike.nn.neurons.frame_lif import FrameLIF as FrameLIF
    from espnet_spike.nn.neurons.imls import IMLS as IMLS
    from espnet_spike.nn.neurons.lif import ILIF as ILIF
    from espnet_spike.nn.neurons.lif import LIF as LIF
    from espnet_spike.nn.neurons.response import LeakyResponse as LeakyResponse
    from espnet_spike.nn.neurons.response import OtherResponse as OtherResponse
    from espnet_spike.nn.neurons.response import StaircaseResponse as StaircaseResponse
    from espnet_spike.nn.neurons.spike_train import SpikeTrain as SpikeTrain
    from espnet_spike.nn.neurons.ternary import TernaryMomentum as TernaryMomentum
    from espnet_spike.tasks.asr import SpikeASRTask as SpikeASRTask
    from espnet_spike.tasks.loading import Trained as Trained
    from espnet_spike.tasks.loading import unpack_pack as unpack_pack
    from espnet_spike.tasks.registry import register_decoder as register_decoder
    from espnet_spike.tasks.registry import register_encoder as register_encoder
    from espnet_spike.tasks.registry import register_model as register_model

__version__ = "0.1.0"

# public name -> the module that has it
_WHERE = {
    "BlockEncoder": "encoders.block_encoder",
    "Cost": "nn.accounting",
    "CostModel": "counting.energy",
    "Counter": "counting.counter",
    "EncoderStream": "inference.streaming",
    "EventSpeechMambaEncoder": "encoders.speech_mamba",
    "Fbank": "data.fbank",
    "FbankConfig": "data.fbank",
    "FeatureExtractor": "data.feature_extractor",
    "Firing": "nn.neurons.base",
    "FrameLIF": "nn.neurons.frame_lif",
    "ILIF": "nn.neurons.lif",
    "IMLS": "nn.neurons.imls",
    "IMLSpikeformerEncoder": "encoders.iml_spikeformer",
    "LIF": "nn.neurons.lif",
    "LeakyResponse": "nn.neurons.response",
    "Neuron": "nn.neurons.base",
    "NeuronFactory": "nn.neurons.factory",
    "OtherResponse": "nn.neurons.response",
    "Recognizer": "inference.recognizer",
    "SpeechMambaDecoder": "decoders.speech_mamba",
    "SpeechMambaEncoder": "encoders.speech_mamba",
    "SpeechModel": "inference.speech_model",
    "SpikeASRTask": "tasks.asr",
    "SpikeOptions": "encoders.spike_options",
    "SpikeTrain": "nn.neurons.spike_train",
    "SpikingSpeechMambaEncoder": "encoders.speech_mamba",
    "StaircaseResponse": "nn.neurons.response",
    "TernaryMomentum": "nn.neurons.ternary",
    "Trained": "tasks.loading",
    "Transcriber": "inference.streaming",
    "UserError": "errors",
    "count_batch": "counting.counter",
    "energy": "counting.energy",
    "load_model": "inference.speech_model",
    "read_cost_model": "counting.energy",
    "register_decoder": "tasks.registry",
    "register_encoder": "tasks.registry",
    "register_model": "tasks.registry",
    "register_neuron": "nn.neurons.factory",
    "unpack_pack": "tasks.loading",
}

__all__ = [*_WHERE, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a public name (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
