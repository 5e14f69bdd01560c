"""A beam that the vocabulary has, and hypotheses without tokens that stand for no sound."""

from types import SimpleNamespace

import numpy as np
import pytest

from espnet_spike.errors import UserError
from espnet_spike.inference.beam_search import BeamSearch
from espnet_spike.inference.decode import read_settings
from espnet_spike.inference.speech2text import Speech2Text, asr_inference, too_short_result
from tests.helpers.tiny_model import TOKENS, speak, tiny_experiment

pytestmark = pytest.mark.xdist_group("tiny_model")
TEXTS = ["abc de", "cab"]


def search(words):
    exp = tiny_experiment()
    files = {
        "asr_train_config": str(exp / "config.yaml"),
        "asr_model_file": str(exp / "valid.cer_ctc.ave.pth"),
    }
    return BeamSearch(files, read_settings(None, words))


@pytest.mark.parametrize("words", ["--beam_size 9", "--beam_size 40 --batch_size 2"])
def test_a_beam_of_the_vocabulary_recognises_and_is_said_to_be_less(words, caplog):
    features = [speak(text, np.random.default_rng(4)) for text in TEXTS]
    assert [text for text, _, _ in search(words)(features)] == TEXTS
    assert f"is more than {len(TOKENS)} tokens allow; 8 is used" in caplog.text


def test_an_option_of_another_kind_is_refused_by_name():
    exp = tiny_experiment()
    files = {"asr_train_config": str(exp / "config.yaml"), "normalize_length": [True]}
    with pytest.raises(UserError, match=r"beam search: .*normalize_length.*bool"):
        Speech2Text(**files)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_no_hypothesis_holds_the_end_of_a_sentence(batch_size):
    """One frame, or as many tokens as are allowed: ESPnet appends the end to the end."""
    one = np.random.default_rng(1).normal(size=(7, 24)).astype(np.float32)
    three = speak("ab", np.random.default_rng(4))
    for length in ("0", "-1", "-3"):
        words = f"--beam_size 8 --nbest 8 --batch_size {batch_size} --maxlenratio {length}"
        recognizer = search(words)
        for results in recognizer._search([one, three]):
            for text, tokens, ids, _ in results:
                assert "<sos/eos>" not in text and not {"<sos/eos>", "<blank>"} & {*tokens}
                assert len(TOKENS) - 1 not in ids and 0 not in ids


def test_espnets_hypotheses_are_stripped_and_their_text_is_made_again():
    made = Speech2Text.__new__(Speech2Text)
    made.asr_model = SimpleNamespace(token_list=TOKENS)
    made.converter = SimpleNamespace(ids2tokens=lambda ids: [TOKENS[i] for i in ids])
    made.tokenizer = SimpleNamespace(tokens2text="".join)
    hypothesis = object()
    assert made._spoken("a<sos/eos>", ["a", "<sos/eos>"], [3, 8], hypothesis) == (
        *("a", ["a"], [3]),
        hypothesis,
    )
    assert made._spoken("kept", ["a"], [3], hypothesis)[0] == "kept"


def test_what_is_too_short_has_no_token():
    (text, tokens, ids, hypothesis), _ = too_short_result(2, False, None)
    assert (text, tokens, ids, hypothesis.score) == ("", [], [], 0.0)
    assert asr_inference._too_short_result is not too_short_result
