"""Metrics of predicted clicks: how well shown items are ordered, and how well the probabilities are calibrated.

They are computed from each impression's score, the logit of a click, and its label, 1 if it was clicked. Groups without
both labels cannot be ordered and are left out.

Papers: AUC as the probability that a clicked impression has a higher score than one that was not, ties counting half
(Hanley and McNeil, Radiology 1982); GAUC of DIN (Zhou et al., KDD 2018); expected calibration error (Guo
et al., ICML 2017) in bins with the same number of impressions.

Shape letters: I impressions, G groups, K bins, r resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from transrec.evaluation.estimates import Counts, Statistic
from transrec.evaluation.metric import MeanMetric, Metric

Floats = NDArray[np.float64]

BINS = 15  # of the calibration error


class AUC(Metric):
    """The area under the ROC curve of all impressions together."""

    name = "AUC"
    reads = ("score", "label")
    undefined_if = "all or none of the impressions are clicks"

    def statistic(self, *columns: Tensor) -> Statistic:
        scores, labels = _checked(*columns)
        order = np.argsort(scores, kind="stable")
        clicked, starts = labels[order], _starts(scores[order])

        def auc(counts: Counts) -> Floats:
            drawn = counts[..., order]
            one, other = drawn * clicked, drawn * (1 - clicked)
            of_ties = np.add.reduceat(one, starts, axis=-1), np.add.reduceat(other, starts, axis=-1)
            below = np.cumsum(of_ties[1], axis=-1) - of_ties[1] / 2
            pairs = one.sum(axis=-1) * other.sum(axis=-1)
            found: Floats = np.where(pairs > 0, (of_ties[0] * below).sum(axis=-1) / np.maximum(pairs, 1), np.nan)
            return found

        return auc


class GroupedAUC(Metric):
    """The mean AUC within groups, weighted by the number of impressions or equally."""

    def __init__(self, name: str, group: str, weight: Literal["impressions", "equal"]) -> None:
        self.name, self.weight = name, weight
        self.reads = (group, "score", "label")
        self.undefined_if = f"no {group} has both a click and an impression without one"

    def statistic(self, *columns: Tensor) -> Statistic:
        groups, *rest = columns
        values, sizes = _auc_of_groups(groups.cpu().numpy(), *_checked(*rest))
        weights = np.where(np.isnan(values), 0.0, 1.0 if self.weight == "impressions" else 1 / sizes)
        weighted = np.nan_to_num(values) * weights

        def mean(counts: Counts) -> Floats:
            total = counts @ weights
            found: Floats = np.divide(counts @ weighted, total, out=np.full_like(total, np.nan), where=total > 0)
            return found

        return mean


class LogLoss(MeanMetric):
    """The mean binary cross entropy."""

    name = "log_loss"
    reads = ("score", "label")
    higher_is_better = False

    def values(self, *columns: Tensor) -> Tensor:
        _checked(*columns)
        scores, labels = columns
        return F.binary_cross_entropy_with_logits(scores.double(), labels.double(), reduction="none")


class CalibrationError(Metric):
    """Σ over bins of their share times |mean probability − share of clicks|; bins have the same size."""

    name = "ECE"
    reads = ("score", "label")
    higher_is_better = False

    def statistic(self, *columns: Tensor) -> Statistic:
        probabilities, labels, order, starts = _binned(*columns)
        gaps = probabilities - labels

        def error(counts: Counts) -> Floats:
            sums = np.add.reduceat(counts[..., order] * gaps, starts, axis=-1)
            found: Floats = np.abs(sums).sum(axis=-1) / counts.sum(axis=-1)
            return found

        return error


@dataclass(frozen=True)
class Bin:
    """The impressions of a bin of the calibration error."""

    impressions: int
    predicted: float  # mean probability
    observed: float  # share of clicks
    lowest: float  # probability
    highest: float


def calibration_bins(scores: Tensor, labels: Tensor) -> list[Bin]:
    """The bins of the calibration error, in ascending order of the probability."""
    probabilities, clicked, _, starts = _binned(scores, labels)
    ends = np.append(starts[1:], len(clicked))
    sizes = ends - starts
    predicted, observed = (np.add.reduceat(values, starts) / sizes for values in (probabilities, clicked))
    columns = sizes, predicted, observed, probabilities[starts], probabilities[ends - 1]
    return [Bin(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The calibration error: the mean gap of the bins, weighted by their impressions."""
    total = sum(each.impressions for each in bins)
    return sum(each.impressions * abs(each.predicted - each.observed) for each in bins) / total


def _binned(*columns: Tensor) -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Probabilities and labels in ascending order of the score, that order (I,), and the first place of each bin."""
    scores, labels = _checked(*columns)
    order = np.argsort(scores, kind="stable")
    starts = np.unique(np.linspace(0, len(order), BINS, endpoint=False).astype(int))
    return 1 / (1 + np.exp(-scores[order])), labels[order], order, starts


def _auc_of_groups(groups: NDArray[np.int64], scores: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """The AUC (I,) of each impression's group, NaN where it lacks a label, and the group's size (I,)."""
    numbers = np.unique(groups, return_inverse=True)[1]
    order = np.lexsort((scores, numbers))
    number, score, clicked = numbers[order], scores[order], labels[order]
    firsts = _starts(number)
    new_value = np.append(True, (np.diff(score) != 0) | (np.diff(number) != 0))
    ties = np.flatnonzero(new_value)
    others = np.add.reduceat(1 - clicked, ties)
    below = np.cumsum(others) - others / 2  # over all groups; `before` is subtracted below
    group_of_tie = number[ties]
    before = np.append(0, np.cumsum(np.add.reduceat(1 - clicked, firsts))[:-1])
    won = np.bincount(group_of_tie, np.add.reduceat(clicked, ties) * (below - before[group_of_tie]))
    clicks, sizes = np.bincount(number, clicked), np.bincount(number).astype(np.float64)
    pairs = clicks * (sizes - clicks)
    values = np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)
    return values[numbers], sizes[numbers]


def _starts(ascending: NDArray[np.generic]) -> NDArray[np.int64]:
    """The first place of each distinct value."""
    return np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))


def _checked(scores: Tensor, labels: Tensor) -> tuple[Floats, Floats]:
    """
    Raises:
        ValueError: there are no impressions, a label is neither 0 nor 1, or a score is not a number.
    """
    if not len(scores) and not len(labels):
        raise ValueError("impressions: expected at least one, found none")
    if len(scores) != len(labels):
        raise ValueError(f"impressions: expected as many scores as labels, found {len(scores)} and {len(labels)}")
    if not torch.isin(labels, torch.tensor([0, 1], dtype=labels.dtype)).all():
        raise ValueError("labels: expected only 0 (not clicked) and 1 (clicked)")
    if scores.isnan().any():
        raise ValueError("scores: expected numbers, found NaN")
    return scores.cpu().double().numpy(), labels.cpu().double().numpy()
