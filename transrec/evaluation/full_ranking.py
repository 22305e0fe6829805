"""Ranks and losses of targets, and the best items, over the whole catalogue, one chunk of items at a time.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), D width, H history, n items of a chunk, P pairs of a
user and an item.

A score is a function `score(a, b)` that returns the scores of items a..b-1 for all B users, (B, n). It must be
deterministic: the same call returns the same bits. Scores are compared exactly, in float32, and always with the
target's score from its own chunk, so `chunk` and B affect a rank only through the rounding of `score`.

This rounding matters for ties. A float32 matrix product rounds equal rows differently depending on their position in
the matrix (1,798 of 15 million scores on a CPU), so exact duplicates of the target would beat it by chance. Exact
scores (`nn.dot_product`) are therefore accumulated in float64 and rounded once: duplicates tie, and ranks do not depend
on `chunk` or B, except where an error of 1e-16 straddles a float32 boundary.

Designs considered for ranks. Exact scores of everything: float64 costs twice as much as float32 on CPUs, and 2 to 64
times on GPUs. Rough scores alone: ties are decided by chance. Chosen: a rough score decides if its distance from
the target's score exceeds the largest possible error (`BoundedScore`); exact scores decide the rest, a few items for
each user.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from transrec.errors import NotFiniteError
from transrec.protocols import BoundedScore, Score

Repeats = Literal["count", "miss"]

CHUNK = 16384
_SCORES_AT_ONCE, _SCORES_AT_ONCE_ON_CPU = 2**24, 2**20  # scores of a ranking; 4 MiB stay in the cache of a CPU
_MOST_CLOSE = 64  # at most one score in this many may be too close to decide by rough scores
_NOTHING = torch.iinfo(torch.int64).min  # sorts below the key of every item


def rank_targets(
    score: Score,
    catalogue_size: int,
    targets: Tensor,
    history: Tensor,
    candidates: Tensor,
    repeats: Repeats = "count",
    chunk: int | None = None,
) -> Tensor:
    """Rank of each user's target: 1 + the number of other items scored at least as high.

    Other items are candidates outside the user's history. Ties count against the target, so a model that scores all
    items equally gains nothing. The target is always a candidate, even if `candidates` excludes it.

    With a `BoundedScore`, every item is scored roughly once, and exactly only where the rough score cannot decide. With
    any other score, a chunk with a target is scored twice, first for the target's own score (the last scored chunk is
    kept, so a catalogue of one chunk is scored once). Memory is O(B chunk).

    Args:
        catalogue_size: N.
        targets: (B,) item indices 1..N.
        history: (B, H) item indices, 0 where padded, in any order.
        candidates: (N + 1,) bool; entry 0 is False.
        repeats: handling of a target that is also in the history. "count": it is ranked like any other. "miss": its
            rank is N + 1, as when the scores of the whole history are set to -inf (the released code of Adapter4Rec,
            `data_utils/metrics.py`).
        chunk: items scored at a time; None: a number that is fast on the device.

    Returns:
        (B,) int64, 1..N, or N + 1 for a miss.

    Raises:
        ValueError: arguments or scores of the wrong shape or range.
        NotFiniteError: a score is NaN.
    """
    chunk = fast_chunk(targets) if chunk is None else chunk
    _check_items(catalogue_size, candidates, chunk)
    _check_users(catalogue_size, targets, history)
    if repeats not in get_args(Repeats):
        raise ValueError(f"repeats {repeats!r}: choose one of {', '.join(get_args(Repeats))}")
    chunks = list(_chunks(catalogue_size, chunk))
    uncounted = _Uncounted(torch.cat([history, targets[:, None]], dim=1), candidates, chunks)
    ranks = _bounded_ranks(score, targets, uncounted) if isinstance(score, BoundedScore) else None
    if ranks is None:
        ranks = _exact_ranks(score, targets, uncounted)
    if repeats == "miss":
        ranks[(history == targets[:, None]).any(dim=1)] = catalogue_size + 1
    return ranks


def target_losses(
    score: Score, catalogue_size: int, targets: Tensor, history: Tensor, candidates: Tensor, chunk: int | None = None
) -> Tensor:
    """Cross entropy of each user's target: log Σ exp(score) − the target's score, natural logarithm, scores as logits.

    The sum runs over the items that `rank_targets` ranks: the target and the candidates outside the user's history. A
    model that scores all of them equally has the logarithm of their number as its loss. Arguments and errors are those
    of `rank_targets`.

    Returns:
        (B,) float32, at least 0.
    """
    chunk = fast_chunk(targets) if chunk is None else chunk
    _check_items(catalogue_size, candidates, chunk)
    _check_users(catalogue_size, targets, history)
    total = torch.full((len(targets),), -torch.inf, dtype=torch.float64, device=targets.device)
    own = torch.empty_like(total)
    for a, b in _chunks(catalogue_size, chunk):
        scores = _scored(score, a, b, len(targets)).double()
        rows = ((targets >= a) & (targets < b)).nonzero().squeeze(1)
        own[rows] = scores[rows, targets[rows] - a]
        logits = _without(scores.masked_fill(~candidates[a:b], -torch.inf), history, a, b, -torch.inf)
        logits[rows, targets[rows] - a] = own[rows]
        total = torch.logaddexp(total, logits.logsumexp(dim=1))
    return (total - own).clamp(min=0).float()


def top_items(
    score: Score, catalogue_size: int, history: Tensor | None, candidates: Tensor, top: int, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """The `top` best candidates of each user, best first; tied items are ordered by ascending index.

    Args:
        catalogue_size: N.
        history: (B, H) item indices to leave out, 0 where padded; None: leave out nothing.
        candidates: (N + 1,) bool, or (B, N + 1) for each user; entry 0 is False.
        chunk: items scored at a time; memory is O(B (chunk + top)).

    Returns:
        scores (B, top) float32 and item indices (B, top) int64. If fewer than `top` items are
        left, the rest have score -inf and index 0.

    Raises:
        ValueError: arguments or scores of the wrong shape or range.
        NotFiniteError: a score is NaN.
    """
    for own in candidates if candidates.ndim == 2 else [candidates]:
        _check_items(catalogue_size, own, chunk)
    if top < 1:
        raise ValueError(f"top is {top}: ask for at least 1 item")
    users = None if history is None else len(history)
    best: Tensor | None = None
    for a, b in _chunks(catalogue_size, chunk):
        keys = _sort_keys(_scored(score, a, b, users), a).masked_fill(~candidates[..., a:b], _NOTHING)
        if history is not None:
            keys = _without(keys, history, a, b, _NOTHING)
        if best is None:
            best = keys.new_full((len(keys), top), _NOTHING)
        best = torch.cat([best, keys], dim=1).topk(top, dim=1).values
    assert best is not None  # a catalogue has at least one chunk
    return _read_keys(best)


class _Uncounted:
    """The entries of a (B, N + 1) matrix that rankings leave out: each user's `items` (B, X), and all items that
    are not candidates. They are found chunk by chunk without waiting for the device."""

    def __init__(self, items: Tensor, candidates: Tensor, chunks: list[tuple[int, int]]) -> None:
        self.chunks = chunks
        edges = torch.tensor([*(a for a, _ in chunks), chunks[-1][1]], device=items.device)
        rows, places = (items > 0).nonzero(as_tuple=True)
        self.columns, order = torch.sort(items[rows, places])
        self.rows = rows[order]
        self.nobody = (~candidates).nonzero().squeeze(1)
        self._cuts = torch.searchsorted(self.columns, edges).tolist()
        self._cuts_of_nobody = torch.searchsorted(self.nobody, edges).tolist()

    def fill(self, block: Tensor, number: int, value: float) -> Tensor:
        """Write `value` to the places of chunk `number`, in place."""
        first, last = self._cuts[number : number + 2]
        block[self.rows[first:last], self.columns[first:last] - self.chunks[number][0]] = value
        first, last = self._cuts_of_nobody[number : number + 2]
        if last > first:
            block.index_fill_(1, self.nobody[first:last] - self.chunks[number][0], value)
        return block


def _bounded_ranks(score: BoundedScore, targets: Tensor, uncounted: _Uncounted) -> Tensor | None:
    """Ranks by rough scores and, where they are too close to the target's, by exact ones.

    None if there is no bound, or if so many scores are close (as with a model that gives all items the same score) that
    exact scores of all items are faster.
    """
    own = score.at(torch.arange(len(targets), device=targets.device), targets).detach()[:, None]
    ranks, worst = torch.ones_like(targets, dtype=torch.float64), torch.zeros_like(own)
    flags, spare = own.new_empty(0), len(targets) * uncounted.chunks[-1][1] // _MOST_CLOSE
    for number, (a, b) in enumerate(uncounted.chunks):
        rough, margin = uncounted.fill(score.rough(a, b), number, torch.nan), score.margin(a, b)
        low, high = own - margin, own + margin
        if flags.shape != rough.shape:
            flags = torch.empty_like(rough)
        above = torch.gt(rough, high, out=flags).sum(dim=1)  # numbers are summed faster than booleans
        users = (torch.ge(rough, low, out=flags).sum(dim=1) > above).nonzero().squeeze(1)
        ranks += above
        if len(users):
            close = (rough[users] >= low[users]) & (rough[users] <= high[users])
            rows, columns = close.nonzero(as_tuple=True)
            spare -= len(rows)
            if spare < 0:
                return None
            ahead = score.at(users[rows], a + columns) >= own[users[rows], 0]
            ranks.index_add_(0, users[rows], ahead.to(ranks.dtype))
        torch.maximum(worst, margin, out=worst)
    return ranks.long() if worst.isfinite().all() else None


def _exact_ranks(score: Score, targets: Tensor, uncounted: _Uncounted) -> Tensor:
    block = lru_cache(maxsize=1)(lambda a, b: _scored(score, a, b, len(targets)))
    own = _own_scores(block, uncounted.chunks, targets)
    ranks = torch.ones_like(targets)
    numbers = range(len(uncounted.chunks))
    for number in reversed(numbers):  # starts with the chunk that `_own_scores` may have left in the cache
        scores = block(*uncounted.chunks[number])
        flags = torch.ge(scores, own, out=torch.empty_like(scores))
        ranks += uncounted.fill(flags, number, 0.0).sum(dim=1).long()
    return ranks


def fast_chunk(targets: Tensor) -> int:
    """Number of items to score at a time for the users of `targets` (B,), on their device."""
    at_once = _SCORES_AT_ONCE_ON_CPU if targets.device.type == "cpu" else _SCORES_AT_ONCE
    return max(256, at_once // max(1, len(targets)))


def _chunks(catalogue_size: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of item indices that cover 1..N."""
    for a in range(1, catalogue_size + 1, chunk):
        yield a, min(a + chunk, catalogue_size + 1)


def _scored(score: Score, a: int, b: int, users: int | None) -> Tensor:
    """Scores (B, n) of items a..b-1 in float32, checked; `users` is B if the caller knows it."""
    scores = score(a, b).detach().float()
    if scores.ndim != 2 or scores.shape != (len(scores) if users is None else users, b - a):
        expected = f"({'users' if users is None else users}, {b - a})"
        raise ValueError(f"score({a}, {b}) returned shape {tuple(scores.shape)}, expected {expected}")
    if scores.numel() and scores.amax().isnan():  # the maximum of values with a NaN is NaN
        raise NotFiniteError(f"score({a}, {b}): {int(scores.isnan().sum())} scores are NaN, so items cannot be ranked")
    return scores


def _own_scores(block: Score, chunks: list[tuple[int, int]], targets: Tensor) -> Tensor:
    """(B, 1) score of each user's target; only the chunks that contain a target are scored."""
    own = torch.empty(len(targets), 1, device=targets.device)
    for a, b in chunks:
        rows = ((targets >= a) & (targets < b)).nonzero().squeeze(1)
        if len(rows):
            own[rows, 0] = block(a, b)[rows, targets[rows] - a]
    return own


def _without(block: Tensor, items: Tensor, a: int, b: int, value: bool | float) -> Tensor:
    """`block` (B, n) of items a..b-1 with `value` written in place at each user's `items` (B, H)."""
    rows, columns = ((items >= a) & (items < b)).nonzero(as_tuple=True)
    block[rows, items[rows, columns] - a] = value
    return block


def _sort_keys(scores: Tensor, first: int) -> Tensor:
    """int64 keys (B, n), distinct per user, ordered by score, then by descending item index (`first` + column).

    The bits of a float32 sort like a signed integer once the bits below the sign are flipped for negative numbers. They
    form the upper half of a key; the item index, counted from the end, forms the lower half.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    indices = torch.arange(first, first + scores.shape[1], device=scores.device)
    return (ordered << 32) + (0xFFFFFFFF - indices)


def _read_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and item indices unpacked from the keys of `_sort_keys`; -inf and 0 for `_NOTHING`."""
    ordered = (keys >> 32).int()
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    nothing = keys == _NOTHING
    return scores.masked_fill(nothing, -torch.inf), (0xFFFFFFFF - (keys & 0xFFFFFFFF)).masked_fill(nothing, 0)


def _check_items(catalogue_size: int, candidates: Tensor, chunk: int) -> None:
    if catalogue_size < 1 or chunk < 1:
        raise ValueError(f"catalogue_size {catalogue_size}, chunk {chunk}: both must be at least 1")
    if candidates.dtype != torch.bool or candidates.shape != (catalogue_size + 1,) or bool(candidates[0]):
        raise ValueError(
            f"candidates: expected ({catalogue_size + 1},) bool with entry 0 (padding) False, "
            f"found {tuple(candidates.shape)} {candidates.dtype}"
        )


def _check_users(catalogue_size: int, targets: Tensor, history: Tensor) -> None:
    if targets.dtype != torch.int64 or targets.ndim != 1:
        raise ValueError(f"targets: expected (users,) int64, found {tuple(targets.shape)} {targets.dtype}")
    if history.ndim != 2 or len(history) != len(targets):
        raise ValueError(f"history: expected ({len(targets)}, items), found {tuple(history.shape)}")
    if bool(((targets < 1) | (targets > catalogue_size)).any()):
        raise ValueError(f"targets: expected item indices 1..{catalogue_size}")
    if bool(((history < 0) | (history > catalogue_size)).any()):
        raise ValueError(f"history: expected item indices 1..{catalogue_size}, or 0 for padding")
