"""ESPnet's recogniser with a beam that fits the vocabulary, and hypotheses of what was said."""

import logging
from typing import Any

import torch
from typeguard import TypeCheckError

from espnet_spike.data.tokens import spoken
from espnet_spike.errors import UserError
from espnet_spike.inference.search_values import largest_beam
from espnet_spike.tasks.espnet import asr_inference

_logger = logging.getLogger("decode")
EspnetSpeech2Text = asr_inference.Speech2Text


class Speech2Text(EspnetSpeech2Text):
    """ESPnet's ``Speech2Text``; see there for the arguments.

    A beam as large as the vocabulary has to take ``<blank>`` for a token, whose CTC score is no
    number, and nothing is recognised: it is made as large as can be, and that is said. Where a
    hypothesis ends just when its length does, ESPnet appends ``<sos/eos>`` to ``<sos/eos>`` and
    takes one of them away: the other is removed here, as is every token that stands for no sound.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        except TypeCheckError as error:  # ESPnet's own check of its arguments
            raise UserError(
                f"beam search: {error}", "correct it in the inference config, or --inference_args"
            ) from error
        model: Any = self.asr_model
        search: Any = self.beam_search
        most = largest_beam(len(model.token_list))
        if search is not None and getattr(search, "beam_size", 0) > most:
            _logger.warning(
                "beam_size %d is more than %d tokens allow; %d is used",
                *(search.beam_size, len(model.token_list), most),
            )
            search.beam_size = most
            search.pre_beam_size = len(model.token_list)
            search.do_pre_beam = False

    def _hyps_to_results(self, nbest_hyps: list[Any]) -> Any:
        return [self._spoken(*result) for result in super()._hyps_to_results(nbest_hyps)]

    def _spoken(self, text: str | None, token: list[str], ids: list[int], hypothesis: Any) -> tuple:
        model: Any = self.asr_model
        kept = spoken(ids, model.token_list)
        if len(kept) == len(ids):
            return text, token, ids, hypothesis
        token = self.converter.ids2tokens(kept)
        text = None if self.tokenizer is None else self.tokenizer.tokens2text(token)
        return text, token, kept, hypothesis


def n_best(found: Any) -> list[Any]:
    """Return the n best results of an utterance, out of what ``Speech2Text`` returned for it.

    Of a model with intermediate CTC losses ESPnet returns them in a pair, with what greedy search
    finds after those blocks; in batches it returns them alone.
    """
    return found[0] if isinstance(found, tuple) else found


def too_short_result(nbest: int, enh_s2t_task: bool, speech2text: Any) -> list[Any]:
    """Return what is recognised in an utterance that is too short for the encoder: nothing.

    ESPnet writes a space as the token with the number 2, whatever that is in the vocabulary.
    """
    hypothesis = asr_inference.Hypothesis(yseq=torch.tensor([], dtype=torch.long), score=0.0)
    return [["", [], [], hypothesis]] * nbest
