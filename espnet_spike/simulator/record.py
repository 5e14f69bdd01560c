"""Record what a trained encoder does on real utterances, as sites of kernel calls."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from espnet_spike.errors import UserError
from espnet_spike.simulator.operations import Site
from espnet_spike.simulator.tape import Tape, torch_threads


@dataclass(frozen=True)
class Recording:
    """The sites of an encoder and the frames they were recorded on.

    Attributes:
        sites: in the order of the network.
        utterances: number recorded.
        frames: of the encoder's output.
        codings: that differ for this encoder.
    """

    sites: list[Site]
    utterances: int
    frames: int
    codings: tuple[str, ...]


def lowering_of(encoder: type) -> Callable[[Tape], tuple[list[Site], tuple[str, ...]]]:
    """Return what makes sites of the tape of an encoder of this class.

    Raises:
        UserError: there is none.
    """
    from espnet_spike.encoders.iml_spikeformer import IMLSpikeformerEncoder
    from espnet_spike.encoders.speech_mamba import SpeechMambaEncoder

    if issubclass(encoder, IMLSpikeformerEncoder):
        from espnet_spike.simulator.lower_spikeformer import lower
    elif issubclass(encoder, SpeechMambaEncoder):
        from espnet_spike.simulator.lower_speech_mamba import lower
    else:
        raise UserError(
            f"{encoder.__name__} cannot be simulated",
            "iml_spikeformer and the SpeechMamba encoders can",
        )
    return lower


def record_encoder(encoder: nn.Module, utterances: Iterable[tuple[Tensor, Tensor]]) -> Recording:
    """Record an encoder.

    Raises:
        UserError: there is no lowering for this encoder or one of its options.
    """
    lower = lowering_of(type(encoder))
    encoder = encoder.eval()
    tape = Tape(encoder)
    with torch_threads(1):
        tape.record(utterances)
    sites, codings = lower(tape)
    return Recording(sites, len(tape.lengths), sum(tape.lengths), codings)
