"""Token n-grams with interpolated, modified Kneser-Ney smoothing, written as ARPA files.

Chen and Goodman (1998), section 3, as KenLM estimates them (Heafield et al., 2013): a count of the
highest order is a number of times; of a lower one it is the number of tokens that have come before
(or, at the beginning of a sentence, where none does, a number of times). With a(hw) that count,

    p(w | h) = max(a(hw) - D(a(hw)), 0) / a(h .) + g(h) p(w | h'),
    g(h) = (D1 N1(h .) + D2 N2(h .) + D3 N3+(h .)) / a(h .)

where h' is h without its first token, Nk(h .) how many tokens have the count k after h, and below
unigrams all V tokens are alike, 1 / V.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_spike.data.tokens import SOS_EOS
from espnet_spike.errors import UserError
from espnet_spike.utils.files import replacing_text

# of KenLM, where there are too few n-grams to estimate discounts from
FALLBACK = (0.5, 1.0, 1.5)
BEGIN, END = "<s>", "</s>"
LOWEST_ORDER, HIGHEST_ORDER = 2, 6  # that KenLM can query as it is built by default

Discounts = tuple[float, float, float]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """All n-grams of one order that occur; G of them.

    Attributes:
        tokens: ``(G, n)`` ids.
        context, suffix: ``(G,)``, the numbers of the (n-1)-grams without the last and without the
            first token; zeros for unigrams.
        log_probs: ``(G,)``, log10 of p.
        backoffs: ``(G,)``, log10 of g as a context; 0 where nothing follows.
    """

    tokens: np.ndarray
    context: np.ndarray
    suffix: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


def discounts_of(counts: Sequence[int]) -> Discounts | None:
    """Return D1, D2 and D3+ (Chen and Goodman, 1998, equation 26), or None.

    None where a count of counts is zero or a discount lies outside [0, k], as KenLM has it.

    Args:
        counts: how many n-grams occur once, twice, three and four times.
    """
    if not all(counts):
        return None
    share = counts[0] / (counts[0] + 2 * counts[1])
    found = [k - (k + 1) * share * counts[k] / counts[k - 1] for k in (1, 2, 3)]
    if any(not 0 <= d <= k for k, d in enumerate(found, 1)):
        return None
    return found[0], found[1], found[2]


def estimate(
    sentences: Iterable[Sequence[int]],
    vocabulary: int,
    order: int,
    begin: int | None = None,
    discounts: Sequence[Discounts] | None = None,
) -> list[Order]:
    """Estimate the n-grams of all orders up to ``order``.

    Args:
        sentences: ids below ``vocabulary``, the last that of the end; with ``begin``, which is not
            among them, put before each.
        vocabulary: V, tokens that can come next. All of them get a unigram.
        order: the highest n.
        begin: id of the beginning of a sentence, which is a context and never comes next; None if
            there is none.
        discounts: for each order D1, D2, D3+; estimated when not given.

    Raises:
        UserError: no sentences.
    """
    flat, place = _flatten(sentences, begin)
    if not len(flat):
        raise UserError("there is no text to estimate an n-gram from")
    size = max(vocabulary, int(flat.max()) + 1)
    found: list[Order] = []
    # of each order: the number of the n-gram that ends at a position; -1 where none does
    ends: list[np.ndarray] = []
    levels: list[tuple[np.ndarray, ...]] = []
    for n in range(1, order + 1):
        inside = place >= n - 1
        if n == 1:
            # each token is its own number, so that those which do not occur have one, too
            ends.append(flat.copy())
            tokens = np.arange(size)[:, None]
            occurrences = np.bincount(flat, minlength=size)
            levels.append((tokens, np.zeros(size, int), np.zeros(size, int), occurrences))
            continue
        at = np.flatnonzero(inside)
        context, suffix = ends[-1][at - 1], ends[-1][at]
        keys, first, inverse, occurrences = np.unique(
            context * size + flat[at], return_index=True, return_inverse=True, return_counts=True
        )
        context, suffix = keys // size, suffix[first]
        tokens = np.concatenate([levels[-1][0][context], (keys % size)[:, None]], axis=1)
        numbers = np.full(len(flat), -1)
        numbers[at] = inverse
        ends.append(numbers)
        levels.append((tokens, context, suffix, occurrences))
    lower = np.full(1, 1 / vocabulary)  # probabilities of the order below
    for n, (tokens, context, suffix, occurrences) in enumerate(levels, 1):
        adjusted = occurrences
        if n < order:
            adjusted = np.bincount(levels[n][2], minlength=len(tokens))
            if begin is not None:
                adjusted = np.where(tokens[:, 0] == begin, occurrences, adjusted)
        if n == 1 and begin is not None:
            adjusted[begin] = 0
        given = None if discounts is None else discounts[n - 1]
        probs, backoffs = _smooth(adjusted, context, lower[suffix], n, given)
        if n > 1:
            found[-1].backoffs[: len(backoffs)] = backoffs
        with np.errstate(divide="ignore"):
            logs = np.log10(probs)
        found.append(Order(tokens, context, suffix, logs, np.zeros(len(tokens))))
        lower = probs
    return found


def _flatten(
    sentences: Iterable[Sequence[int]], begin: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return all tokens in a row, and of each its place in its sentence."""
    before = [] if begin is None else [begin]
    rows = [np.array([*before, *sentence], dtype=np.int64) for sentence in sentences]
    rows = [row for row in rows if len(row)]
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(rows), np.concatenate([np.arange(len(row)) for row in rows])


def _smooth(
    adjusted: np.ndarray, context: np.ndarray, lower: np.ndarray, n: int, given: Discounts | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities ``(G,)`` and log10 of g of the contexts, up to the last there is."""
    used = given
    if used is None:
        used = discounts_of([int((adjusted == k).sum()) for k in (1, 2, 3, 4)])
    if used is None:
        _logger.info("%d-grams: too few for discounts of their own, %s are used", n, FALLBACK)
        used = FALLBACK
    discount = np.array([0.0, *used])[np.minimum(adjusted, 3)]
    total = np.bincount(context, weights=adjusted)
    left = np.bincount(context, weights=np.minimum(discount, adjusted))
    safe = np.maximum(total, 1)
    share = np.where(total > 0, left / safe, 1.0)  # after nothing, the order below decides
    probs = np.maximum(adjusted - discount, 0) / safe[context] + share[context] * lower
    with np.errstate(divide="ignore"):
        return probs, np.log10(share)


def write_arpa(path: Path, orders: Sequence[Order], names: Sequence[str], begin: int) -> None:
    """Write an ARPA file.

    ESPnet asks for the end of a sentence by its name in the token list, ``<sos/eos>``, KenLM's own
    tools by ``</s>``: the file has it under both.

    Args:
        path: the file.
        orders: the n-grams.
        names: of the tokens, the last one that of the end.
        begin: id of the beginning, behind all names.
    """
    end = len(names) - 1
    assert names[end] == SOS_EOS and begin == len(names)
    words = [*names[:end], END, BEGIN]
    with replacing_text(path) as file:
        file.write("\\data\\\n")
        for n, order in enumerate(orders, 1):
            doubled = int((order.tokens[:, -1] == end).sum())
            file.write(f"ngram {n}={len(order.tokens) + doubled}\n")
        for n, order in enumerate(orders, 1):
            file.write(f"\n\\{n}-grams:\n")
            file.writelines(_lines(order, words, begin, last=n == len(orders)))
        file.write("\n\\end\\\n")


def _lines(order: Order, words: Sequence[str], begin: int, last: bool) -> Iterator[str]:
    """Yield the lines of one order; the end of a sentence twice, since it has two names."""
    rows = zip(order.tokens.tolist(), order.log_probs, order.backoffs, strict=True)
    for tokens, log_prob, backoff in rows:
        said: list[str] = [words[int(token)] for token in tokens]
        value = -99.0 if tokens == [begin] or math.isinf(log_prob) else log_prob
        behind = "" if last or said[-1] == END else f"\t{backoff:.7g}"
        yield f"{value:.7g}\t{' '.join(said)}{behind}\n"
        if said[-1] == END:
            yield f"{value:.7g}\t{' '.join([*said[:-1], SOS_EOS])}\n"


def make_ngram(
    sentences: Iterable[Sequence[int]], names: Sequence[str], order: int, path: Path
) -> list[int]:
    """Estimate an n-gram of tokens and write it.

    Args:
        sentences: ids of each, without beginning and end.
        names: the token list, which ends in ``<sos/eos>``.
        order: the highest n.
        path: of the ARPA file.

    Returns:
        How many n-grams there are of each order.

    Raises:
        UserError: an order that KenLM cannot query, no text, or another token list.
    """
    if not LOWEST_ORDER <= order <= HIGHEST_ORDER:
        raise UserError(f"--ngram_order {order}", f"KenLM takes {LOWEST_ORDER} to {HIGHEST_ORDER}")
    if not names or names[-1] != SOS_EOS:
        raise UserError(f"the token list does not end in {SOS_EOS}", "make it by stage 5 (token)")
    end, begin = len(names) - 1, len(names)
    orders = estimate(([*ids, end] for ids in sentences), len(names), order, begin)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arpa(path, orders, names, begin)
    return [len(found.tokens) for found in orders]
