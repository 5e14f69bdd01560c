"""What a neuron does with its input, in terms that are not those of its class.

A neuron says which response it has (``Neuron.response``); graphs for other tools are made of these
few forms, whatever the class of the neuron.
"""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LeakyResponse:
    """Leaky integrate-and-fire, one step a frame or time step, spikes of 1, reset to a constant.

    H = V + ((v_reset - V) + gain X) / tau; a spike where H >= v_th, which sets V = v_reset, else
    V = H.
    """

    tau: float
    v_th: float
    v_reset: float
    gain: float


@dataclass(frozen=True)
class StaircaseResponse:
    """No memory: as many spikes as there are steps below the input, each worth ``unit``.

    The t-th spike, t = 1..levels, comes where X / m reaches (t - 1/2) times ``scale``, with the
    level m of the frame (``Neuron.frame_level``; 1 where it does not follow the input).

    Attributes:
        scale: height of a step in each channel, ``(C,)``.
        unit: worth of a spike in each channel, over m, ``(C,)``.
        levels: number of steps.
        rounding: ``half_up``, or ``even``: an odd step is reached above its height only.
        statistic: of the frame that m is.
        parameters: names of the neuron's parameters and buffers that these numbers hold.
    """

    scale: Tensor
    unit: Tensor
    levels: int
    rounding: str
    statistic: str = "fixed"
    parameters: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class OtherResponse:
    """None of these forms.

    Attributes:
        why: what the neuron does that they do not, to be read after its name.
    """

    why: str


Response = LeakyResponse | StaircaseResponse | OtherResponse
