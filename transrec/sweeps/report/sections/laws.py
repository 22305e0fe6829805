"""Scaling laws along size axes: curves, fits, crossings, and the joint law over two axes."""

from typing import Any

import numpy as np

from transrec.sweeps.analysis.crossing import crossing
from transrec.sweeps.analysis.curves import Curve, Measured, curves, surfaces
from transrec.sweeps.analysis.fits import Scaling, analyse
from transrec.sweeps.analysis.laws import ADDITIVE, JOINT_LAWS
from transrec.sweeps.analysis.results import LOSS, QUANTITIES
from transrec.sweeps.report.draft import NONE, Draft, file_name
from transrec.sweeps.report.figures import human, in_short, quality_figure, scaling_figure
from transrec.sweeps.report.page import Heading, Paragraph, Table

_MOST_PANELS = 4


def add_laws(draft: Draft, axis: str) -> None:
    """Add laws along a size axis, in every amount that grows along it; figures show the first of these amounts."""
    by_amount = curves(draft.results, axis)
    if not by_amount:
        draft.findings.unsaid.append(
            f"Whether a law holds along {axis}: no amount of data, parameters or operations grows along the whole axis."
        )
        return
    if draft.measured[draft.quality].higher_is_better:  # a measure that is itself an error is drawn with its law
        name = file_name("curve", axis, draft.quality)
        found = _in_order(draft, next(iter(by_amount.values())))
        draft.blocks += [
            Heading(f"{axis}: how much is enough{draft.results.sample}"),
            quality_figure(name, draft.measured[draft.quality], draft.results, found),
        ]
    draft.blocks += [Heading(f"{axis}: laws{draft.results.sample}"), Paragraph(_amounts(draft, axis, by_amount))]
    rows = []
    for place, found in enumerate(by_amount.values()):
        for measured in draft.measured.values():
            analysed = [(curve, measured.scaling(curve)) for curve in found]
            rows += [_law_row(curve, measured, scaling) for curve, scaling in analysed]
            if place == 0:
                _show(draft, axis, measured, analysed)
    header = ["", "setting", "error", "against", "α", "p-value if constant", "largest size, from the others", "E", "A"]
    draft.blocks.append(Table(header, rows))
    _cross(draft, _in_order(draft, next(iter(by_amount.values()))))


def _amounts(draft: Draft, axis: str, by_amount: dict[str, list[Curve]]) -> str:
    """The amounts that the labels of an axis stand for."""
    told = []
    for amount, (curve, *_) in by_amount.items():
        labels = [draft.results.outcomes[members[0]].axes[axis] for members in curve.members]
        told.append(
            f"{QUANTITIES[amount]}: "
            + ", ".join(f"{a} is {human(s)}" for a, s in zip(labels, curve.sizes, strict=True))
        )
    return f"{axis}, as {'; as '.join(told)}."


def _show(draft: Draft, axis: str, measured: Measured, analysed: list[tuple[Curve, Scaling]]) -> None:
    panels: dict[str, list[tuple[Curve, Scaling]]] = {}
    scalings = {curve.setting: scaling for curve, scaling in analysed}
    for curve in _in_order(draft, [curve for curve, _ in analysed]):
        panels.setdefault(curve.panel, []).append((curve, scalings[curve.setting]))
    chosen = np.unique(np.linspace(0, len(panels) - 1, _MOST_PANELS).round().astype(int))
    shown = {name: panels[name] for i, name in enumerate(panels) if i in chosen}
    draft.blocks.append(scaling_figure(file_name("law", axis, measured.measure), measured, shown))
    if measured.measure in list(draft.measured)[:2]:  # the loss and the first metric
        for curve, scaling in list(panels.values())[-1]:
            draft.findings.scaling(curve, measured.error_name, scaling)


def _in_order(draft: Draft, found: list[Curve]) -> list[Curve]:
    """The curves in order of their other sizes, the largest last."""
    return sorted(found, key=lambda curve: draft.sizes_of(curve.setting))


def _cross(draft: Draft, found: list[Curve]) -> None:
    """Add the crossings of each choice's curve with its baseline's, in each setting of the other axes."""
    rows = []
    for axis in draft.results.choice_axes:
        for first, second in _partners(found, axis, draft.baseline(axis)):
            for measured in draft.measured.values():
                rows += _crossing(draft, measured, first, second, largest=first.panel == found[-1].panel)
    if rows:
        header = ["", "setting", "error", "against", "smaller at first", "crossing", "share of draws that agree"]
        draft.blocks += [Heading(f"Where curves cross{draft.results.sample}", 3), Table(header, rows)]


def _crossing(draft: Draft, measured: Measured, first: Curve, second: Curve, largest: bool) -> list[list[str]]:
    sizes, differences = measured.difference(first, second, draft.results)
    if len(sizes) < 2:
        return []
    c = crossing(sizes, differences)
    amount = QUANTITIES[first.amount]
    if largest and measured.measure == draft.quality:
        draft.findings.crossing(first, second, measured.error_name, c)
    place = c.times
    if c.certain and c.size is not None and c.low is not None and c.high is not None:
        place = f"{human(c.size)} [{human(c.low)}, {human(c.high)}]"
    ahead = {1: first.series, -1: second.series, 0: NONE}[c.ahead]
    versus = f"{first.series}, {second.series}"
    return [[versus, first.panel or NONE, measured.error_name, amount, ahead, place, f"{c.share:.0%}"]]


def add_joint_laws(draft: Draft, first: str, second: str) -> None:
    """Add the additive and the multiplicative law over two axes."""
    rows = []
    for series, (amounts, sizes, numbers) in surfaces(draft.results, first, second).items():
        for measured in draft.measured.values():
            errors = measured.errors.of(numbers)
            scalings = {law: analyse(sizes, errors, draft.delta, law=law) for law in JOINT_LAWS}
            rows += [[series, measured.error_name, law.formula, *_joint(scaling)] for law, scaling in scalings.items()]
            if measured.measure in (LOSS, draft.quality):
                draft.findings.joint(series, amounts, measured.error_name, list(scalings.values()))
    if rows:
        header = ["", "error", "law", "E", "A", "α", "B", "β", "p-value if constant", "p-value against both combined"]
        title = f"{first} and {second} together: N along {first}, D along {second}"
        draft.blocks += [Heading(f"{title}{draft.results.sample}"), Table(header, rows)]


def _partners(found: list[Curve], axis: str, baseline: Any) -> list[tuple[Curve, Curve]]:
    """Pairs of a curve and the one that differs from it only in having the baseline of `axis`."""
    by_setting = {curve.setting: curve for curve in found}
    pairs = []
    for curve in found:
        partner = tuple((a, baseline if a == axis else value) for a, value in curve.setting)
        if partner != curve.setting and partner in by_setting:
            pairs.append((curve, by_setting[partner]))
    return pairs


def _law_row(curve: Curve, measured: Measured, scaling: Scaling) -> list[str]:
    head = [curve.series, curve.panel or NONE, measured.error_name, QUANTITIES[curve.amount]]
    if scaling.fit is None:
        return [*head, NONE, in_short(scaling), NONE, NONE, NONE]
    check = scaling.extrapolation
    told = "too few sizes to hold it out"
    if check is not None:
        interval = f"{check.predicted:.4f} [{check.low:.4f}, {check.high:.4f}]"
        told = f"{interval}, measured {check.measured:.4f}: {'inside' if check.holds else 'outside'}"
    floor, level, exponent = _parameters(scaling).values()
    return [*head, exponent, _chances(scaling), told, floor, level]


def _joint(scaling: Scaling) -> list[str]:
    """The parameters of a joint law and the p-values of its F tests."""
    if scaling.fit is None:
        return [*[NONE] * 5, in_short(scaling), NONE]
    told, richer = _parameters(scaling), scaling.chance_of_richer
    in_columns = [told.get(name, NONE) for name in ADDITIVE.parameters]
    return [*in_columns, f"{scaling.chance:.2g}", NONE if richer is None else f"{richer:.2g}"]


def _parameters(scaling: Scaling) -> dict[str, str]:
    assert scaling.fit is not None
    ends = scaling.intervals()
    values = scaling.fit.parameters
    return {name: f"{value:.3g} [{ends[name][0]:.3g}, {ends[name][1]:.3g}]" for name, value in values.items()}


def _chances(scaling: Scaling) -> str:
    """The p-values of the F tests, against a constant and against a break."""
    bend = scaling.chance_of_richer
    return f"{scaling.chance:.2g}" + (f"; of a break {bend:.2g}" if bend is not None else "")
