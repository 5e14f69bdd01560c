"""How a beam search is asked and what is made of its results; `test_recognizer` runs it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet_spike.errors import UserError
from espnet_spike.inference import beam_search
from espnet_spike.inference.decode import read_settings


def test_a_search_has_espnets_defaults_the_configuration_and_the_options_over_it():
    settings = replace(
        read_settings(None),
        config={"beam_size": 3, "ctc_weight": 0.3, "time_sync": True},
        words=["--beam_size", "7"],
    )
    options = beam_search._options(settings)
    assert (options["beam_size"], options["ctc_weight"]) == (7, 0.3)
    assert options["time_sync"] is True
    assert options["maxlenratio"] == 0.0 and "output_dir" not in options
    assert None not in options.values()
    with pytest.raises(UserError, match="did you mean 'beam_size'"):
        beam_search._options(replace(settings, words=["--beam_sise", "7"]))


class Search(beam_search.BeamSearch):
    """Hears as many tokens as there are frames; none in two frames, nothing at all in fewer."""

    def __init__(self):
        self.batches = []

    def _search(self, batch):
        self.batches.append(len(batch))
        if any(len(features) < 2 for features in batch):
            raise TooShortUttError("too short", 1, 2)
        return [self._hear(len(features)) for features in batch]

    def _hear(self, frames):
        if frames == 2:
            return []
        best = (" a" * frames, ["a"] * frames, [5] * frames, SimpleNamespace(score=-frames / 2))
        return [best, ("b", ["b"], [6], SimpleNamespace(score=-99.0))]


def test_the_best_hypothesis_counts_and_none_is_empty():
    search = Search()
    found = search([np.zeros((n, 4)) for n in (3, 2)])
    assert found == [("a a a", [5, 5, 5], -1.5), ("", [], 0.0)]


def test_a_short_utterance_does_not_spoil_its_batch():
    search = Search()
    found = search([np.zeros((n, 4)) for n in (3, 1, 4)])
    assert [ids for _, ids, _ in found] == [[5] * 3, [], [5] * 4]
    assert search.batches == [3, 1, 1, 1]


def test_what_ctc_finds_between_blocks_is_no_hypothesis():
    results = [("a", ["a"], [5], SimpleNamespace(score=-1.0))]
    search = beam_search.BeamSearch.__new__(beam_search.BeamSearch)
    search.batch_size, search.speech2text = 1, lambda one: (results, {3: ["a"]})
    assert search([np.zeros((4, 4))]) == [("a", [5], -1.0)]
