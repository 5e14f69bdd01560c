"""CTC: best path, alignment and words, against all paths there are."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_spike.inference.ctc import (
    HOLD,
    Word,
    align,
    best_path,
    collapse,
    held,
    quietest,
    timed_words,
    token_words,
    writes_spaces,
)


def test_best_path():
    log_probs = np.eye(4)[[0, 1, 1, 0, 1, 2, 2, 3, 0]]
    assert best_path(log_probs) == [1, 1, 2, 3]
    assert best_path(np.zeros((0, 4))) == []


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(0, 3))
def test_a_path_is_collapsed_as_the_paper_says(seed, frames, blank):
    path = np.random.default_rng(seed).integers(0, 4, frames).tolist()
    tokens, spans = collapse(path, blank)
    assert tokens == [token for token, _ in itertools.groupby(path) if token != blank]
    for token, (first, last) in zip(tokens, spans, strict=True):
        assert first < last and path[first:last] == [token] * (last - first)
    assert collapse(torch.tensor(path, dtype=torch.int64), blank) == (tokens, spans)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30))
def test_parts_of_a_path_make_the_whole(seed, frames):
    rng = np.random.default_rng(seed)
    path = rng.integers(0, 3, frames)
    edges = sorted({0, frames, *rng.integers(0, frames + 1, 5).tolist()})
    found, before = [], -1
    for first, last in itertools.pairwise(edges):
        found += collapse(path[first:last], before=before)[0]
        before = int(path[last - 1])
    assert found == collapse(path)[0]


def test_the_cut_is_in_the_middle_of_the_longest_run():
    posteriors = np.full((20, 2), [-3.0, -0.1])
    posteriors[[3, 4, 5, 6, 7], 0] = 0.0  # earlier than half
    posteriors[[12, 15, 16, 17], 0] = 0.0
    assert quietest(posteriors, 0.5) == 16.5
    assert quietest(posteriors, 0.0) == 5.5
    posteriors[:, 0] = -5.0
    posteriors[13, 0] = -1.0
    assert quietest(posteriors, 0.5) == 13.5


def spelling(ids, frames):
    """Return every path of ``frames`` over three tokens that spells ``ids``."""
    return [p for p in itertools.product(range(3), repeat=frames) if collapse(p)[0] == ids]


def probability(posteriors, path):
    return sum(posteriors[t, k] for t, k in enumerate(path))


TOKENS = st.lists(st.integers(1, 2), max_size=3)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), TOKENS)
def test_the_alignment_is_the_best_path(seed, frames, ids):
    posteriors = np.log(np.random.default_rng(seed).dirichlet([1, 1, 1], size=frames))
    paths = spelling(ids, frames)
    spans = align(posteriors, ids)
    if not paths:
        assert spans is None
        return
    best = max(paths, key=lambda path: probability(posteriors, path))
    assert spans == collapse(best)[1]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.integers(0, 6), TOKENS)
def test_no_path_is_better_where_several_are_equally_probable(seed, frames, ids):
    rng = np.random.default_rng(seed)
    posteriors = rng.choice([-np.inf, -2.0, -1.0, 0.0], size=(frames, 3))
    paths = spelling(ids, frames)
    best = max((probability(posteriors, path) for path in paths), default=-np.inf)
    spans = align(posteriors, ids)
    if not ids:
        assert spans == []
    elif best == -np.inf:
        assert spans is None
    else:
        path = np.zeros(frames, dtype=int)
        for token, (first, last) in zip(ids, spans, strict=True):
            path[first:last] = token
        assert tuple(path) in paths and probability(posteriors, path) == best


def test_alignment_of_tokens():
    best = [0, 2, 2, 0, 2, 3, 0]
    log_probs = np.full((7, 4), -9.0, dtype=np.float32)
    log_probs[range(7), best] = 0.0
    assert align(log_probs, [2, 2, 3]) == [(1, 3), (4, 5), (5, 6)]
    assert align(log_probs, []) == []
    assert align(log_probs[:3], [2, 2]) == [(0, 1), (2, 3)]
    assert align(log_probs[:2], [2, 2]) is None


@pytest.mark.parametrize(
    ("tokens", "kind", "expected"),
    [
        (["▁THE", "▁C", "AT"], "bpe", [("THE", 0, 1), ("CAT", 1, 3)]),
        (["▁", "C", "AT", "▁"], "bpe", [("CAT", 1, 3)]),
        (["A", "<space>", "B", "C"], "char", [("A", 0, 1), ("BC", 2, 4)]),
        (
            ["而", "对", "A", "B", "的"],
            "char",
            [("而", 0, 1), ("对", 1, 2), ("AB", 2, 4), ("的", 4, 5)],
        ),
        (["ONE", "TWO"], "word", [("ONE", 0, 1), ("TWO", 1, 2)]),
        ([], "bpe", []),
    ],
)
def test_tokens_make_words(tokens, kind, expected):
    assert token_words(tokens, kind) == expected


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [
        ("bpe", ["▁HE", "Y", "▁", "YOU"]),
        ("char", ["H", "E", "Y", "<space>", "Y", "O", "U"]),
        ("word", ["HEY", "YOU"]),
    ],
)
def test_words_have_the_times_of_their_tokens(kind, tokens):
    spans = [(2 * i, 2 * i + 2) for i in range(len(tokens))]
    words = timed_words(tokens, spans, 0.5, kind)
    assert [word.word for word in words] == ["HEY", "YOU"]
    assert words[0].start == 0.0 and words[-1].end == len(tokens)
    assert words[0].end <= words[1].start


HAN = list("\u800c\u5bf9\u7684\u6211\u662f")


@pytest.mark.parametrize(
    ("names", "kind", "spaces"),
    [
        (["<blank>", "<unk>", "\u2581THE", "\u2581A", "S", "<sos/eos>"], "bpe", True),
        (["<blank>", "<unk>", "\u2581", *"ENTARISO", "<sos/eos>"], "bpe", True),
        (["\u2581\uac00", "\u2581\ub098", "\ub2e4", "\ub77c"], "bpe", True),  # Korean
        (["\uac00", "\ub098"], "char", True),
        (["<blank>", "<unk>", *HAN, "<sos/eos>"], "char", False),
        (["<blank>", "<unk>", "\u2581", "\u2581\u6211", *HAN, *HAN], "bpe", False),
        (["<blank>", "<unk>", "<space>", *HAN], "char", False),  # <space> parts what it parts
        ([f"\u2581{name}" for name in HAN] + HAN, "bpe", True),
        (["\u2581", *"\u0e01\u0e02\u0e04\u0e07\u0e08"], "bpe", False),  # Thai
        (HAN, "word", True),
    ],
)
def test_whether_a_model_writes_spaces_is_told_by_its_vocabulary(names, kind, spaces):
    assert writes_spaces(names, kind) is spaces


def test_korean_words_are_whole_and_thai_vowel_signs_stay_with_their_letters():
    korean = ["\u2581\uac00", "\ub098", "\u2581\ub2e4", "\ub77c"]
    assert [word for word, _, _ in token_words(korean, "bpe", True)] == [
        "\uac00\ub098",
        "\ub2e4\ub77c",
    ]
    assert [word for word, _, _ in token_words(["\uac00", "\ub098"], "char")] == ["\uac00\ub098"]
    thai = ["\u2581", "\u0e01", "\u0e34", "\u0e19"]
    assert token_words(thai, "bpe", False) == [("\u0e01\u0e34", 1, 3), ("\u0e19", 3, 4)]
    cut = ["\u2581\u6211", "\u662f", "\u2581\u7684"]  # Chinese with spaces stays in its words
    assert [word for word, _, _ in token_words(cut, "bpe", True)] == ["\u6211\u662f", "\u7684"]


def test_words_are_held_to_the_next_one_or_for_a_while():
    words = [Word("A", 0.0, 0.04), Word("B", 0.2, 0.24), Word("C", 2.0, 2.04), Word("D", 2.9, 3.0)]
    ends = [word.end for word in held(words, 3.1)]
    assert ends == [0.2, pytest.approx(0.24 + HOLD), pytest.approx(2.04 + HOLD), 3.1]
    assert held(words[:1], 0.01)[0].end == 0.04  # never less than what was heard
    assert held([], 3.0) == []  # nothing was recognised
