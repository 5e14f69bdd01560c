"""The hybrid CTC/attention model of ESPnet, plus what a spiking encoder has to tell."""

from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_spike.errors import UserError
from espnet_spike.fatrelu import mean_sparsity, sparsities
from espnet_spike.firing import firing_rates


class SpikeASRModel(ESPnetASRModel):
    """``ESPnetASRModel`` that logs firing rates and adds the encoder's auxiliary losses.

    Chosen by ``model: spike_asr`` (the default of ``SpikeASRTask``); takes the arguments of
    ``ESPnetASRModel``. Any encoder works: one without spiking neurons only adds nothing.

    Added to the statistics, and so to log, plots and tensorboard:

    * ``firing_rate_<layer>``: spikes per neuron, frame and level, padding excluded, in [0, 1];
    * ``firing_rate``: their mean over layers;
    * ``sparsity_<point>``: share of exact zeros behind a FATReLU, padding excluded, in [0, 1];
    * ``sparsity``: their mean over points; ``sparsity_macs``: weighted by the operations saved;
    * ``loss_<name>``: each auxiliary loss.

    If the encoder has ``auxiliary_losses() -> dict[str, Tensor]`` (called once after each forward
    pass, 0-dim tensors already weighted), they are added to the loss.
    """

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor | None], torch.Tensor]:
        """Compute the training loss.

        Args:
            speech: features (B, T, D).
            speech_lengths: frames of each utterance (B,).
            text: token ids (B, L), padded with -1.
            text_lengths: tokens of each utterance (B,).
            **kwargs: ``utt_id``, the names of the B utterances.

        Returns:
            the loss, the statistics (1-dim tensors) and the weight of the batch (its size).

        Raises:
            UserError: a feature of some utterance is NaN or infinite; names the utterance.
        """
        _check_finite(speech, kwargs.get("utt_id"))
        loss, stats, weight = super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        auxiliary = getattr(self.encoder, "auxiliary_losses", dict)()
        for name, value in auxiliary.items():
            loss = loss + value
            stats[f"loss_{name}"] = value.detach().reshape(1)
        if auxiliary:
            stats["loss"] = loss.detach()
        rates = firing_rates(self.encoder)
        for name, rate in rates.items():
            stats[f"firing_rate_{name}"] = rate.detach().reshape(1)
        if rates:
            stats["firing_rate"] = torch.stack(list(rates.values())).detach().mean().reshape(1)
        zeros = sparsities(self.encoder)
        for name, share in zeros.items():
            stats[f"sparsity_{name}"] = share.detach().reshape(1)
        if zeros:
            stats["sparsity"] = mean_sparsity(self.encoder).reshape(1)
            stats["sparsity_macs"] = mean_sparsity(self.encoder, mac_weighted=True).reshape(1)
        return loss, stats, weight


def _check_finite(speech: torch.Tensor, utt_ids: list[str] | None) -> None:
    """Stop at a non-finite feature: ESPnet would skip every update and end with status 0."""
    finite = torch.isfinite(speech).flatten(1).all(1)
    if not bool(finite.all()):
        rows = (~finite).nonzero().flatten().tolist()
        names = [utt_ids[row] for row in rows] if utt_ids is not None else [f"row {rows}"]
        raise UserError(
            f"features are NaN or infinite in utterance {', '.join(names[:5])}",
            "mend or remove the audio and extract the features again (stage 3)",
        )
