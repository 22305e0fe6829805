"""Curves of error against size: their trials, and the measurements along them.

A curve runs along one size axis; its trials agree in everything else except the seed. Its sizes are measured amounts
(interactions, parameters, operations), not the fractions or widths that the sweep set; where these differ between
seeds, because some stopped earlier, the geometric mean is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transrec.evaluation.metrics import metric
from transrec.sweeps.analysis.fits import DELTA, Scaling, analyse
from transrec.sweeps.analysis.laws import Floats
from transrec.sweeps.analysis.resampling import Resampled, mean_interval
from transrec.sweeps.analysis.results import SEED, Results, Setting

AMOUNTS = ("source_interactions", "interactions", "labels", "trainable_parameters", "source_flops", "flops")
_GROWS = 1.2  # least ratio of the largest size to the smallest


@dataclass(frozen=True)
class Curve:
    """Outcomes along one size axis, with everything else fixed."""

    axis: str
    amount: str  # one of `AMOUNTS`
    setting: Setting  # the labels of all other axes that vary
    series: str  # the labels of its choices, which distinguish it from other curves of a panel
    panel: str  # the labels of its tasks and other sizes
    sizes: Floats  # (m,) ascending
    members: list[list[int]]  # numbers of the outcomes at each size, one per seed

    def points(self) -> tuple[Floats, list[int]]:
        """Size and number of every trial of the curve."""
        numbers = [number for members in self.members for number in members]
        return np.repeat(self.sizes, [len(members) for members in self.members]), numbers


def curves(results: Results, axis: str) -> dict[str, list[Curve]]:
    """The curves along an axis against each amount that grows along all of them; {} if none does."""
    found = {amount: _curves(results, axis, amount) for amount in AMOUNTS}
    return {amount: curves for amount, curves in found.items() if curves}


def _curves(results: Results, axis: str, amount: str) -> list[Curve]:
    found = []
    for setting, numbers in results.groups(axis).items():
        members = _by_label(results, axis, numbers)
        if any(amount not in results.outcomes[number].quantities for of_size in members for number in of_size):
            return []
        sizes = np.array([_mean_size(results, amount, of_size) for of_size in members])
        if len(sizes) > 1 and (np.any(np.diff(sizes) <= 0) or sizes[-1] < _GROWS * sizes[0]):
            return []
        if len(sizes) > 1:
            series = label(setting, results.choice_axes) or "all trials"
            panel = label(setting, [*results.task_axes, *results.size_axes])
            found.append(Curve(axis, amount, setting, series, panel, sizes, members))
    return found


Surface = tuple[tuple[str, str], Floats, list[int]]


def surfaces(results: Results, first: str, second: str) -> dict[str, Surface]:
    """For each series, an amount of `AMOUNTS` for each of two axes, the sizes (n, 2) of its trials, and their numbers.

    {} if no amount grows along one of the axes, or if the first amount that does is the same for both.
    """
    along = [next(iter(curves(results, axis).values()), []) for axis in (first, second)]
    if not all(along) or along[0][0].amount == along[1][0].amount:
        return {}
    sizes = [{n: size for c in cs for size, n in zip(*c.points(), strict=True)} for cs in along]
    amounts = along[0][0].amount, along[1][0].amount
    found: dict[str, Surface] = {}
    for series in dict.fromkeys(curve.series for curve in along[0]):
        numbers = [n for c in along[0] if c.series == series for n in c.points()[1] if n in sizes[1]]
        if numbers:
            found[series] = amounts, np.array([[sizes[0][n], sizes[1][n]] for n in numbers]), numbers
    return found


@dataclass(frozen=True)
class Measured:
    """A measure of every outcome, its error, and the analyses of curves in this measure."""

    measure: str
    values: Resampled  # of all outcomes; the measure determines whether higher is better
    delta: float = DELTA

    @property
    def higher_is_better(self) -> bool:
        return bool(metric(self.measure).higher_is_better)

    @property
    def error_name(self) -> str:
        return f"1 − {self.measure}" if self.higher_is_better else self.measure

    @cached_property
    def errors(self) -> Resampled:
        if not self.higher_is_better:
            return self.values
        return Resampled(1 - self.values.values, 1 - self.values.draws)

    def scaling(self, curve: Curve) -> Scaling:
        sizes, numbers = curve.points()
        return analyse(sizes[:, None], self.errors.of(numbers), self.delta)

    def points(self, curve: Curve) -> tuple[Floats, Floats, Floats]:
        """Mean error at each size and the bounds of its 95 % interval, (m,) each."""
        cells = [self.errors.of(members) for members in curve.members]
        ends = [mean_interval(cell) for cell in cells]
        return np.array([c.values.mean() for c in cells]), *np.array(ends).T

    def difference(self, first: Curve, second: Curve, results: Results) -> tuple[Floats, list[Resampled]]:
        """Sizes that both curves share, and the difference of their errors there, paired by seed and user."""
        labels = [_labels(results, curve) for curve in (first, second)]
        found = []
        for name, members in labels[0].items():
            pairs = paired(results, members[1], labels[1].get(name, (0.0, []))[1])
            if pairs:
                ones, others = zip(*pairs, strict=True)
                found.append((members[0], self.errors.of(ones).minus(self.errors.of(others))))
        return np.array([size for size, _ in found]), [difference for _, difference in found]


def paired(results: Results, first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of outcomes with the same seed, tested on the same targets of the same users."""
    outcomes = results.outcomes
    by_seed = {outcomes[number].axes.get(SEED): number for number in second}
    pairs = [(number, by_seed.get(outcomes[number].axes.get(SEED))) for number in first]
    return [(a, b) for a, b in pairs if b is not None and outcomes[a].instances == outcomes[b].instances]


def label(setting: Setting, axes: Sequence[str]) -> str:
    """The labels of a setting on some axes, as text: "full, text", "source_fraction 0.5"."""
    parts = [(axis, value) for axis, value in setting if axis in axes and value is not None]
    return ", ".join(f"{axis} {value}" if isinstance(value, int | float) else str(value) for axis, value in parts)


def _by_label(results: Results, axis: str, numbers: Sequence[int]) -> list[list[int]]:
    found: dict[Any, list[int]] = {}
    for number in numbers:
        if axis in results.outcomes[number].axes:
            found.setdefault(results.outcomes[number].axes[axis], []).append(number)
    return [found[value] for value in sorted(found)]


def _labels(results: Results, curve: Curve) -> dict[Any, tuple[float, list[int]]]:
    """Size and outcomes of each label of the curve's axis."""
    pairs = zip(curve.sizes, curve.members, strict=True)
    return {results.outcomes[members[0]].axes[curve.axis]: (float(size), members) for size, members in pairs}


def _mean_size(results: Results, amount: str, numbers: Sequence[int]) -> float:
    sizes = [results.outcomes[number].quantities[amount] for number in numbers]
    return float(np.exp(np.mean(np.log(sizes))))
