"""The table of metrics by name, and the rank metrics.

To add a metric, add its class here or in a file of its own, or an object of an existing class, and a line in `METRICS`.

Shape letters: I targets, one row each (one per user for the next item, perhaps several for a task), r resamples.
Ranks are 1-based: rank 1 is the top of the list.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transrec.evaluation.estimates import USUAL, Estimate, Interval, Statistic, student_mean
from transrec.evaluation.macro_f1 import macro_f1, macro_f1_of
from transrec.evaluation.metric import MeanMetric, Metric
from transrec.evaluation.ranking_metrics import AUC, CalibrationError, GroupedAUC, LogLoss
from transrec.evaluation.sampled_ranking import SAMPLED


@dataclass(frozen=True)
class RankMetric(MeanMetric):
    """The mean over targets of a gain within the first k ranks."""

    name: str
    gain: Callable[[Tensor, int], Tensor]  # ranks (I,), k -> (I,) float64
    k: int
    reads = ("rank",)

    def values(self, *columns: Tensor) -> Tensor:
        (ranks,) = columns
        if ranks.ndim != 1 or len(ranks) == 0:
            raise ValueError(f"ranks: expected a vector of at least one rank, found shape {tuple(ranks.shape)}")
        if ranks.is_floating_point() or int(ranks.min()) < 1:
            raise ValueError("ranks: expected integers that start at 1")
        return self.gain(ranks, self.k)


def hit(ranks: Tensor, k: int) -> Tensor:
    """HR@k: 1 where the target is among the first k; with one target for each user, the same as Recall@k."""
    return (ranks <= k).double()


def discounted_gain(ranks: Tensor, k: int) -> Tensor:
    """NDCG@k with one target of gain 1: 1 / log2(rank + 1) within the first k, else 0."""
    return hit(ranks, k) / torch.log2(ranks.double() + 1)


def reciprocal_rank(ranks: Tensor, k: int) -> Tensor:
    """MRR@k: 1 / rank within the first k, else 0."""
    return hit(ranks, k) / ranks.double()


class OfSampledRanks(Metric):
    """A metric of ranks, computed from ranks among sampled items."""

    reads = ("sampled_rank",)

    def __init__(self, full: Metric) -> None:
        self.full = full
        self.name = SAMPLED + full.name
        self.higher_is_better = full.higher_is_better

    def statistic(self, *columns: Tensor) -> Statistic:
        return self.full.statistic(*columns)

    def estimate(self, columns: Sequence[Tensor], users: Tensor | None = None, interval: Interval = USUAL) -> Estimate:
        return self.full.estimate(columns, users, interval)


class Loss(MeanMetric):
    """The mean cross entropy of the targets, with Student's interval."""

    name = "loss"
    reads = ("loss",)
    higher_is_better = False

    def values(self, *columns: Tensor) -> Tensor:
        (losses,) = columns
        if losses.ndim != 1 or len(losses) == 0:
            raise ValueError(f"losses: expected a vector of at least one loss, found shape {tuple(losses.shape)}")
        return losses.double()

    def estimate(self, columns: Sequence[Tensor], users: Tensor | None = None, interval: Interval = USUAL) -> Estimate:
        """The value and Student's interval; targets count as independent, and nothing is resampled."""
        return student_mean(self.values(*columns), interval.confidence)


class Novelty(MeanMetric):
    """How little known the k best items are: the mean of -log2 of their share of the training interactions.

    Popular items have a low value. Neither direction is better: random recommendations are the most novel ones.
    Paper: the surprisal of Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems",
    PNAS 2010. Deviations: the share is of interactions, not of users; an item without any counts as if it had one.
    """

    higher_is_better = None

    def __init__(self, k: int) -> None:
        self.name = f"novelty@{k}"
        self.reads = (self.name,)

    def values(self, *columns: Tensor) -> Tensor:
        return columns[0].double()


class MacroF1(Metric):
    """F1 averaged over classes; its interval resamples targets, not users."""

    name = "macro_F1"
    reads = ("target", "predicted")

    def statistic(self, *columns: Tensor) -> Statistic:
        return macro_f1_of(*(column.cpu().numpy() for column in columns))

    def estimate(self, columns: Sequence[Tensor], users: Tensor | None = None, interval: Interval = USUAL) -> Estimate:
        targets, predicted = columns
        return macro_f1(targets, predicted, interval)


_OF_IMPRESSIONS: list[Metric] = [
    AUC(),
    GroupedAUC("GAUC", "user", "impressions"),
    GroupedAUC("UAUC", "user", "equal"),
    GroupedAUC("AUC_by_request", "request", "equal"),
    LogLoss(),
    CalibrationError(),
]
METRICS: dict[str, Metric] = {
    "accuracy": RankMetric("accuracy", hit, 1),
    "macro_F1": MacroF1(),
    "loss": Loss(),
    **{metric.name: metric for metric in _OF_IMPRESSIONS},
}
METRICS_AT_K: dict[str, Callable[[int], Metric]] = {
    "HR": lambda k: RankMetric(f"HR@{k}", hit, k),
    "NDCG": lambda k: RankMetric(f"NDCG@{k}", discounted_gain, k),
    "MRR": lambda k: RankMetric(f"MRR@{k}", reciprocal_rank, k),
    "novelty": Novelty,
}


def listed() -> str:
    """The names of all metrics, as text."""
    of_clicks = [each.name for each in _OF_IMPRESSIONS]
    cutoffs = ", ".join(f"{family}@K" for family in METRICS_AT_K)
    others = ", ".join(name for name in METRICS if name not in of_clicks)
    return f"{cutoffs}, {others}; {SAMPLED} before a rank metric; of clicks: {', '.join(of_clicks)}"


def metric(name: str) -> Metric:
    """The metric of this name: one of `METRICS`, NAME@K from `METRICS_AT_K`, or `sampled_99_` and a rank metric.

    Raises:
        ValueError: there is no such metric; the message lists the known names.
    """
    if name.startswith(SAMPLED):
        return _sampled(name)
    if name in METRICS:
        return METRICS[name]
    match = re.fullmatch(r"(\w+)@([1-9][0-9]*)", name)
    if match is None:
        whole = ", ".join(METRICS)
        raise ValueError(f"metric {name!r}: write NAME@K with K >= 1, such as HR@10, or one of {whole}")
    family, k = match.groups()
    if family not in METRICS_AT_K:
        raise ValueError(f"metric {name!r}: {family!r} is not one of {', '.join(METRICS_AT_K)}")
    return METRICS_AT_K[family](int(k))


def _sampled(name: str) -> Metric:
    full = metric(name.removeprefix(SAMPLED))
    if full.reads != ("rank",):
        raise ValueError(f"metric {name!r}: {SAMPLED} can only precede a rank metric, such as {SAMPLED}HR@10")
    return OfSampledRanks(full)
