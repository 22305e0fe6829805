"""Ranking metrics over the rank of each target, with bootstrap confidence intervals over users.

Of the next item every user has one target; of a task a user may have several, which are then drawn together.

Shape letters: I targets, U users, V distinct per-user values (at most k + 1 for a metric@k of one target each),
R resamples.
Ranks are 1-based: rank 1 is the top of the list.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

_RESAMPLED_COUNTS = 4_000_000  # int64 counts held at once by the bootstrap: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A mean over users and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def hit_rate(ranks: Tensor, k: int) -> Tensor:
    """HR@k per user (U,) float64: 1 where the target is among the first k. With one target, also Recall@k."""
    return (ranks <= k).double()


def ndcg(ranks: Tensor, k: int) -> Tensor:
    """NDCG@k per user (U,) float64, one target of gain 1: 1 / log2(rank + 1) within the first k, else 0."""
    return hit_rate(ranks, k) / torch.log2(ranks.double() + 1)


def reciprocal_rank(ranks: Tensor, k: int) -> Tensor:
    """The terms of MRR@k (U,) float64: 1 / rank within the first k, else 0."""
    return hit_rate(ranks, k) / ranks.double()


METRICS: dict[str, Callable[[Tensor, int], Tensor]] = {"HR": hit_rate, "NDCG": ndcg, "MRR": reciprocal_rank}


def parse(metric: str) -> tuple[str, int]:
    """`"HR@10"` -> `("HR", 10)`; `"accuracy"`, of classes, is `("HR", 1)`.

    Raises:
        ValueError: not of the form NAME@K with K >= 1, or NAME is not in `METRICS`.
    """
    if metric == "accuracy":
        return "HR", 1
    match = re.fullmatch(r"(\w+)@([1-9][0-9]*)", metric)
    if match is None:
        raise ValueError(f"metric {metric!r}: write NAME@K with K of at least 1, such as HR@10")
    name, k = match.groups()
    if name not in METRICS:
        raise ValueError(f"metric {metric!r}: {name!r} is not one of {', '.join(METRICS)}")
    return name, int(k)


def evaluate_ranks(
    ranks: Tensor,
    metrics: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    users: Tensor | None = None,
) -> dict[str, Estimate]:
    """Mean of each metric over targets, with a percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    Users are resampled, each with all targets. The interval of a metric depends on its ranks and `seed` only, not on
    which other metrics are asked for.

    Args:
        ranks: (I,) integers >= 1, one per target.
        metrics: names that `parse` reads.
        users: (I,) whose target it is, as a number; None: each is another user's.

    Raises:
        ValueError: no users, a rank below 1, an unknown metric, or a confidence outside (0, 1).
    """
    _check_ranks(ranks)
    return {m: _estimate(*_summed(_per_target(ranks, m), users), confidence, resamples, seed) for m in metrics}


def compare_ranks(
    ranks: Tensor,
    baseline: Tensor,
    metrics: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Mean difference `ranks` minus `baseline` of each metric, with a paired bootstrap interval over users.

    Args:
        ranks, baseline: (U,) integers >= 1; entry u of both is the same user.

    Raises:
        ValueError: as `evaluate_ranks`, or vectors of different length.
    """
    _check_ranks(ranks)
    _check_ranks(baseline)
    if len(ranks) != len(baseline):
        raise ValueError(f"a paired comparison needs the same users: {len(ranks)} and {len(baseline)} ranks")
    differences = {m: _per_target(ranks, m) - _per_target(baseline, m) for m in metrics}
    return {m: _estimate(*_summed(values, None), confidence, resamples, seed) for m, values in differences.items()}


def evaluate_losses(losses: Tensor, confidence: float = 0.95) -> Estimate:
    """Mean over users with Student's interval: of means of so many unlike numbers it is the bootstrap's, at no cost.

    Args:
        losses: (U,) floating point, one per user; the interval of a single user is the value.

    Raises:
        ValueError: no users, or a confidence outside (0, 1).
    """
    if losses.ndim != 1 or len(losses) == 0:
        raise ValueError(f"losses: expected a vector of at least one loss, found shape {tuple(losses.shape)}")
    _check_confidence(confidence)
    mean, users = float(losses.double().mean()), len(losses)
    if users == 1:
        return Estimate(mean, mean, mean)
    margin = float(stats.t.ppf((1 + confidence) / 2, users - 1) * losses.double().std() / users**0.5)
    return Estimate(mean, mean - margin, mean + margin)


def _per_target(ranks: Tensor, metric: str) -> Tensor:
    name, k = parse(metric)
    return METRICS[name](ranks, k)


def _summed(values: Tensor, users: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of each user, the sum of the values and how many they are: twice (U,)."""
    if users is None:
        return values, torch.ones_like(values)
    rows = torch.unique(users, return_inverse=True)[1]
    return torch.bincount(rows, values), torch.bincount(rows).to(values.dtype)


def _estimate(sums: Tensor, sizes: Tensor, confidence: float, resamples: int, seed: int) -> Estimate:
    """Σ sums / Σ sizes over users (U,), and its bootstrap interval."""
    distinct, counts = (x.cpu().numpy() for x in torch.unique(torch.stack([sums, sizes], 1), dim=0, return_counts=True))

    def mean(counts: np.ndarray) -> np.ndarray:
        return (counts @ distinct[:, 0]) / (counts @ distinct[:, 1])

    return bootstrap(mean, counts, confidence, resamples, seed)


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, confidence: float, resamples: int, seed: int
) -> Estimate:
    """A statistic of users and its bootstrap interval.

    Drawing U users with replacement and counting how often each distinct value comes up is one multinomial
    draw over the V values, so the exact bootstrap costs O(R V) whatever U is.

    Args:
        statistic: from counts (r, V) to what they give (r,).
        counts: (V,) how many users have each of the distinct values.

    Raises:
        ValueError: a confidence outside (0, 1), or no resamples.
    """
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples {resamples}: draw at least 1")
    users, generator = counts.sum(), np.random.default_rng(seed)
    step = max(1, _RESAMPLED_COUNTS // len(counts))
    values = [
        statistic(generator.multinomial(users, counts / users, size=min(step, resamples - start)))
        for start in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(values), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(statistic(counts[None])[0]), float(low), float(high))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: give a share between 0 and 1, such as 0.95")


def _check_ranks(ranks: Tensor) -> None:
    if ranks.ndim != 1 or len(ranks) == 0:
        raise ValueError(f"ranks: expected a vector of at least one rank, found shape {tuple(ranks.shape)}")
    if ranks.is_floating_point() or int(ranks.min()) < 1:
        raise ValueError("ranks: expected integers that start at 1")
