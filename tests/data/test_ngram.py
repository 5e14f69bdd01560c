"""N-grams against published values, KenLM's own, and sums of probabilities."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.data.ngram import FALLBACK, discounts_of, estimate, make_ngram
from espnet_spike.errors import UserError

NAMES = ["<blank>", "<unk>", "a", "b", "c", "<sos/eos>"]
END, BEGIN = 5, 6


def table(orders):
    """Return n-gram -> (log10 p, log10 back-off)."""
    return {
        tuple(tokens): (float(p), float(backoff))
        for order in orders
        for tokens, p, backoff in zip(
            order.tokens.tolist(), order.log_probs, order.backoffs, strict=True
        )
    }


def log_prob(grams, context, token):
    """Query as an ARPA file is meant (Katz's back-off form)."""
    gram = (*context, token)
    if gram in grams:
        return grams[gram][0]
    return grams.get(tuple(context), (0, 0))[1] + log_prob(grams, context[1:], token)


def test_the_values_that_nltk_publishes():
    """``TestKneserNeyInterpolatedTrigram`` of NLTK: one discount, 0.75, and no uniform share."""
    letters = {letter: number for number, letter in enumerate("SabcdzUE")}
    texts = [["S", "S", *text, "E", "E"] for text in ("abcd", "UUadbU")]
    sentences = [[letters[letter] for letter in text] for text in texts]
    one = (0.75, 0.75, 0.75)
    grams = table(estimate(sentences, len(letters), 3, None, [(0.0, 0.0, 0.0), one, one]))

    def score(word, context=""):
        return 10 ** log_prob(grams, [letters[x] for x in context], letters[word])

    assert score("c") == pytest.approx(1 / 14)
    assert score("z") == 0
    assert score("U") == pytest.approx(3 / 14)
    assert score("c", "b") == pytest.approx(0.125 + 0.75 / 14)
    assert score("c", "ab") == pytest.approx(0.25 + 0.75 * (0.125 + 0.75 / 14))
    assert score("c", "zb") == pytest.approx(0.125 + 0.75 / 14)


def test_discounts_are_those_of_chen_and_goodman():
    # Y = 10 / (10 + 2 * 4) = 5/9; D1 = 1 - 2 Y 4/10, D2 = 2 - 3 Y 2/4, D3+ = 3 - 4 Y 1/2
    assert discounts_of([10, 4, 2, 1]) == pytest.approx((5 / 9, 7 / 6, 17 / 9))
    assert discounts_of([10, 4, 0, 1]) is None
    assert discounts_of([1, 1, 5, 5]) is None


def by_the_book(sentences, vocabulary, order):
    """Return p(token, context) by the equations, with dictionaries."""
    raw = [Counter() for _ in range(order + 1)]
    for sentence in sentences:
        row = (BEGIN, *sentence, END)
        for n in range(1, order + 1):
            raw[n].update(row[i : i + n] for i in range(len(row) - n + 1))
    adjusted = [Counter() for _ in range(order + 1)]
    adjusted[order] = raw[order]
    for n in range(1, order):
        for gram in raw[n + 1]:
            adjusted[n][gram[1:]] += 1
        adjusted[n] |= {g: c for g, c in raw[n].items() if g[0] == BEGIN and n > 1}
    after = [defaultdict(dict) for _ in range(order + 1)]
    discount = [()] * (order + 1)
    for n in range(1, order + 1):
        if n == 1:
            adjusted[n].pop((BEGIN,), None)
        for gram, count in adjusted[n].items():
            after[n][gram[:-1]][gram[-1]] = count
        sizes = Counter(adjusted[n].values())
        discount[n] = (0, *(discounts_of([sizes[k] for k in (1, 2, 3, 4)]) or FALLBACK))

    def prob(token, context):
        n = len(context) + 1
        lower = prob(token, context[1:]) if context else 1 / vocabulary
        counts = after[n].get(tuple(context))
        if not counts:
            return lower
        d, total = discount[n], sum(counts.values())
        own = counts.get(token, 0)
        share = sum(d[min(c, 3)] for c in counts.values()) / total
        return max(own - d[min(own, 3)], 0) / total + share * lower

    return prob


texts = st.lists(st.lists(st.integers(2, 4), max_size=7), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(texts, st.integers(1, 4))
def test_equals_the_equations_and_sums_to_one(sentences, order):
    found = estimate([[*s, END] for s in sentences], len(NAMES), order, BEGIN)
    grams = table(found)
    prob = by_the_book(sentences, len(NAMES), order)
    contexts = {gram[:-1] for gram in grams} | {(BEGIN, 4, 3)[: order - 1], (3, 3)[: order - 1]}
    for context in contexts:
        logs = [log_prob(grams, context, token) for token in range(len(NAMES))]
        wanted = [prob(token, context) for token in range(len(NAMES))]
        np.testing.assert_allclose(np.power(10, logs), wanted, rtol=1e-9)
        assert sum(wanted) == pytest.approx(1)


def test_an_arpa_file_names_the_end_twice(tmp_path):
    path = tmp_path / "exp" / "2gram.arpa"
    assert make_ngram([[2, 3], [2]], NAMES, 2, path) == [7, 4]
    lines = path.read_text().splitlines()
    assert lines[:4] == ["\\data\\", "ngram 1=8", "ngram 2=6", ""] and lines[-1] == "\\end\\"
    rows = {fields[1]: fields for fields in (line.split("\t") for line in lines) if len(fields) > 1}
    assert rows["a </s>"][0] == rows["a <sos/eos>"][0] and "<s> a" in rows
    assert rows["</s>"][0] == rows["<sos/eos>"][0] and len(rows["</s>"]) == 2
    assert rows["<s>"][0] == "-99" and float(rows["<s>"][2]) < 0
    assert float(rows["<blank>"][0]) == float(rows["<unk>"][0]) < float(rows["b"][0])
    total = sum(10 ** float(r[0]) for w, r in rows.items() if " " not in w and w != "</s>")
    assert total == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_estimated_is_refused(tmp_path):
    with pytest.raises(UserError, match="no text"):
        make_ngram([], NAMES, 3, tmp_path / "x")
    for order in (1, 7):  # KenLM reads no unigrams alone
        with pytest.raises(UserError, match=f"--ngram_order {order}"):
            make_ngram([[2]], NAMES, order, tmp_path / "x")
    with pytest.raises(UserError, match="does not end in <sos/eos>"):
        make_ngram([[2]], NAMES[:-1], 3, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_kenlm_reads_what_is_written(tmp_path):
    """Through ESPnet's scorer, which asks for the end of a sentence as ``<sos/eos>``."""
    pytest.importorskip("kenlm", reason="the extra 'ngram' is not installed")
    import torch
    from espnet2.legacy.nets.scorers.ngram import NgramFullScorer

    sentences = [[2, 3, 4, 2], [3, 3, 2], [2, 3, 2, 4, 4], []]
    make_ngram(sentences, NAMES, 3, tmp_path / "3.arpa")
    prob = by_the_book(sentences, len(NAMES), 3)
    scorer = NgramFullScorer(str(tmp_path / "3.arpa"), NAMES)
    x = torch.zeros(1)
    for row in [[2, 3, 2], [4, 3, 3, 3], [3]]:
        state = scorer.init_state(x)
        for seen in range(len(row) + 1):
            y = torch.tensor([END, *row[:seen]])  # ESPnet begins with <sos/eos>
            scores, state = scorer.score(y, state, x)
            context = (BEGIN, *row[:seen])[-2:]
            wanted = [math.log10(prob(token, context)) for token in range(len(NAMES))]
            np.testing.assert_allclose(scores.numpy(), wanted, rtol=1e-5)
