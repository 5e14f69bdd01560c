"""How a trained spiking encoder runs at decoding: by counts or by single spikes, on which levels.

In an inference config, or after ``--inference_args``, these are options beside ESPnet's own:

    spike_mode: binary   # weight layers read 0/1 spikes only; integer (the default): their counts;
                         # fire: 0/1 spikes, each fired by a membrane that is charged and reset
    T: 4                 # levels of the IMLS neurons; the trained number when absent
    T_rule: rescale      # keep: thresholds stay, larger inputs are clipped; rescale: T_train / T
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from espnet_spike.errors import UserError
from espnet_spike.ranges import DECODING, check
from espnet_spike.utils.cli import COUNT


@dataclass(frozen=True)
class SpikeOptions:
    """Options of execution; None leaves the encoder as it was trained.

    Attributes:
        spike_mode: ``integer``, ``binary`` or ``fire``.
        T: levels of the IMLS neurons at decoding.
        T_rule: ``keep`` or ``rescale`` the thresholds when T differs from training.
    """

    spike_mode: str | None = None
    T: int | None = None
    T_rule: str | None = None

    @classmethod
    def add_arguments(
        cls, parser: argparse.ArgumentParser, defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Add an option for each attribute to a parser."""
        defaults = defaults or {}
        parser.add_argument(
            "--spike_mode",
            choices=["integer", "binary", "fire"],
            default=defaults.get("spike_mode"),
            help="how the encoder runs",
        )
        parser.add_argument(
            "--T", type=COUNT, default=defaults.get("T"), help="levels of the IMLS neurons"
        )
        parser.add_argument(
            "--T_rule",
            choices=["keep", "rescale"],
            default=defaults.get("T_rule"),
            help="of the thresholds",
        )

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> "SpikeOptions":
        """Return what a parser with `add_arguments` has found.

        Raises:
            UserError: a value that cannot be.
        """
        found = cls(**{field.name: getattr(options, field.name) for field in fields(cls)})
        check(DECODING, vars(found), "options of decoding")
        if found.T_rule is not None and found.T is None:
            raise UserError(f"T_rule is {found.T_rule}, but T is not given", "add T, e.g. --T 4")
        return found

    def words(self) -> list[str]:
        """Return the options as the words of a command line."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return [word for key, value in given.items() for word in (f"--{key}", str(value))]

    def apply(self, encoder: Any) -> None:
        """Set a trained encoder up, in place.

        Raises:
            UserError: the encoder cannot run so; says why.
        """
        name = type(encoder).__name__
        try:
            if self.T is not None:
                if not hasattr(encoder, "set_levels"):
                    raise UserError(f"T: {name} has no levels to choose", "leave T out")
                encoder.set_levels(self.T, self.T_rule or "keep")
            if self.spike_mode is not None:
                if not hasattr(encoder, "set_spike_mode"):
                    raise UserError(f"spike_mode: {name} does not spike", "leave spike_mode out")
                encoder.set_spike_mode(self.spike_mode)
        except ValueError as error:
            raise UserError(str(error)) from None
