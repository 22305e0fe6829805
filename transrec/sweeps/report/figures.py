"""Figures for print, and for a web page with tooltips.

Every series has its own colour and marker, distinguishable by colour-blind readers (Okabe and Ito 2008). The SVG ids of
a series' parts contain its number, so that a page can hide the series, and points have tooltips.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib import rcParams, ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transrec.evaluation.ranking_metrics import Bin, calibration_error
from transrec.sweeps.analysis.curves import Curve, Measured
from transrec.sweeps.analysis.fits import Scaling
from transrec.sweeps.analysis.laws import Floats
from transrec.sweeps.analysis.resampling import mean_interval
from transrec.sweeps.analysis.results import QUANTITIES, Results

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
rcParams["text.parse_math"] = False  # a label may contain dollar signs
MARKERS = "osD^vPX*<>"
_PANEL = (4.2, 3.6)  # inches
_MOST_IN_PANEL = 5
_BARS = 20  # of the histogram of predictions
_DRAWN = ("law", "undecided", "another law")  # verdicts for which the law's curve is drawn


@dataclass
class Drawing:
    """A figure with its name (a file stem), caption, series, and the tooltips of its parts."""

    name: str
    caption: str
    figure: Figure
    series: list[str]
    titles: dict[str, str] = field(default_factory=dict)  # SVG id -> tooltip

    def mark(self, artists: Iterable[Artist], series: str, title: str = "") -> None:
        for artist in artists:
            gid = f"series-{self.series.index(series)}-{len(self.titles)}"
            artist.set_gid(gid)
            self.titles[gid] = title

    def look(self, series: str) -> dict[str, Any]:
        number = self.series.index(series)
        return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def scaling_figure(name: str, measured: Measured, panels: dict[str, list[tuple[Curve, Scaling]]]) -> Drawing:
    """Error against size: a panel for each setting of the other axes, a series for each method."""
    curves = [curve for of_panel in panels.values() for curve, _ in of_panel]
    series = list(dict.fromkeys(curve.series for curve in curves))
    amount = QUANTITIES[curves[0].amount]
    caption = (
        f"{measured.error_name} against {amount}, with 95 % intervals over users and seeds. "
        "A diamond is the prediction for the largest size by the law fitted to the smaller sizes."
    )
    drawing = Drawing(name, caption, _figure(len(panels)), series)
    axes = drawing.figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (panel, of_panel) in zip(axes, panels.items(), strict=True):
        for place, (curve, scaling) in enumerate(of_panel):
            _draw_curve(drawing, ax, measured, curve, scaling, _shift(place, len(of_panel)))
        ax.set_title(panel, fontsize="medium")
        _log_axis(ax, "x", np.concatenate([curve.sizes for curve, _ in of_panel]))
        _finish(ax, amount, measured.error_name if ax is axes[0] else "")
    _log_axis(axes[0], "y", np.concatenate([measured.errors.values[curve.points()[1]] for curve in curves]))
    return drawing


def _shift(place: int, series: int) -> float:
    """A factor that shifts sizes so that the intervals of several series do not overlap."""
    value: float = 1.03 ** (place - (series - 1) / 2)
    return value


def _draw_curve(drawing: Drawing, ax: Axes, measured: Measured, curve: Curve, scaling: Scaling, shift: float) -> None:
    look = drawing.look(curve.series)
    means, low, high = measured.points(curve)
    for i, (size, mean) in enumerate(zip(curve.sizes, means, strict=True)):
        bar = ax.errorbar(
            size * shift, mean, [[max(0, mean - low[i])], [max(0, high[i] - mean)]], capsize=2, lw=1, ms=5, **look
        )
        words = f"{curve.series}: {measured.error_name} {mean:.4f} [{low[i]:.4f}, {high[i]:.4f}] at {human(size)}"
        drawing.mark(bar.get_children(), curve.series, words)
    numbers = curve.points()[1]
    seeds = ax.plot(
        curve.points()[0] * shift, measured.errors.values[numbers], ".", color=look["color"], ms=3, alpha=0.4
    )
    drawing.mark(seeds, curve.series)
    if scaling.fit is not None and scaling.verdict in _DRAWN:
        _draw_law(drawing, ax, curve, scaling)
    drawing.mark([ax.plot([], [], ls="", label=f"{curve.series}: {in_short(scaling)}", **look)[0]], curve.series)


def _draw_law(drawing: Drawing, ax: Axes, curve: Curve, scaling: Scaling) -> None:
    assert scaling.fit is not None
    sizes = np.geomspace(curve.sizes[0], curve.sizes[-1], 60)
    colour = drawing.look(curve.series)["color"]
    dash = "-" if scaling.verdict == "law" else "--"
    line = ax.plot(sizes, np.exp(scaling.fit.log_errors(sizes[:, None])), dash, color=colour, lw=1.3)
    band = ax.fill_between(sizes, *scaling.band(sizes[:, None]), color=colour, alpha=0.15, lw=0)
    drawing.mark([*line, band], curve.series, f"{curve.series}: {scaling.fit.law.formula}, {in_short(scaling)}")
    check = scaling.extrapolation
    if check is not None:
        ends = [[check.predicted - check.low], [check.high - check.predicted]]
        bar = ax.errorbar(check.size * 1.06, check.predicted, ends, fmt="d", mfc="white", color=colour, lw=0.8, ms=5)
        words = (
            f"{curve.series}: {check.predicted:.4f} [{check.low:.4f}, {check.high:.4f}] predicted from smaller sizes"
        )
        drawing.mark(bar.get_children(), curve.series, words)


def in_short(scaling: Scaling) -> str:
    """The result of a fit, in the few words of a legend."""
    if scaling.fit is None:
        return "not enough sizes for a fit" if "needs" in scaling.why_not else scaling.why_not
    low, high = scaling.intervals()["α"]
    exponent = f"α = {scaling.fit.parameters['α']:.2f} [{low:.2f}, {high:.2f}]"
    return {
        "no law": "no dependence on size found",
        "law": exponent,
        "undecided": f"{exponent}, law not certain",
        "another law": "not a single power law: the slope changes",
    }[scaling.verdict]


def quality_figure(name: str, measured: Measured, results: Results, curves: Sequence[Curve]) -> Drawing:
    """A metric against size: a panel for each task and setting of other sizes; baselines are dashed."""
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(curve.panel, []).append(curve)
    baselines = list(dict.fromkeys(name for outcome in results.outcomes for name in outcome.baselines))
    series = [*dict.fromkeys(curve.series for curve in curves), *baselines]
    amount = QUANTITIES[curves[0].amount]
    caption = f"{measured.measure} against {amount}, with 95 % intervals over users and seeds; baselines are dashed."
    drawing = Drawing(name, caption, _figure(len(panels)), series)
    axes = drawing.figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (panel, of_panel) in zip(axes, panels.items(), strict=True):
        for place, curve in enumerate(of_panel):
            _draw_quality(drawing, ax, measured, curve, _shift(place, len(of_panel)))
        for baseline in baselines:
            _draw_baseline(drawing, ax, measured.measure, results, of_panel[0], baseline)
        ax.set_title(panel, fontsize="medium")
        _log_axis(ax, "x", np.concatenate([curve.sizes for curve in of_panel]))
        _finish(ax, amount, measured.measure if ax is axes[0] else "", legend=False)
    _legend(drawing, axes[-1])
    return drawing


def _draw_quality(drawing: Drawing, ax: Axes, measured: Measured, curve: Curve, shift: float) -> None:
    cells = [measured.values.of(members) for members in curve.members]
    means = np.array([cell.values.mean() for cell in cells])
    low, high = np.array([mean_interval(cell) for cell in cells]).T
    ends = np.maximum(0, [means - low, high - means])
    bar = ax.errorbar(
        curve.sizes * shift, means, ends, capsize=2, lw=1.2, ms=5, label=curve.series, **drawing.look(curve.series)
    )
    words = "; ".join(f"{mean:.4f} at {human(size)}" for size, mean in zip(curve.sizes, means, strict=True))
    drawing.mark(bar.get_children(), curve.series, f"{curve.series}: {measured.measure} {words}")


def _draw_baseline(drawing: Drawing, ax: Axes, measure: str, results: Results, curve: Curve, name: str) -> None:
    found = [results.outcomes[members[0]].baselines.get(name, {}).get(measure, np.nan) for members in curve.members]
    if not np.isnan(found).all():
        line = ax.plot(curve.sizes, found, ls="--", lw=1, ms=3, label=name, **drawing.look(name))
        drawing.mark(line, name, f"{name}: {measure}")


def cost_figure(name: str, axis: str, measured: Measured, results: Results, cells: dict[str, list[int]]) -> Drawing:
    """Quality of each choice against its cost: trained parameters, time, memory."""
    costs = [c for c in ("trainable_parameters", "seconds", "peak_memory_bytes") if _known(results, cells, c)]
    better = "higher" if measured.higher_is_better else "lower"
    caption = f"{measured.measure} ({better} is better) of each {axis} against its cost, with 95 % intervals."
    drawing = Drawing(name, caption, _figure(len(costs)), list(cells))
    axes = drawing.figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for ax, cost in zip(axes, costs, strict=True):
        for choice, numbers in cells.items():
            _draw_cost(drawing, ax, measured, results, cost, choice, numbers)
        sizes = np.array([results.outcomes[n].quantities[cost] for numbers in cells.values() for n in numbers])
        _log_axis(ax, "x", sizes)
        _finish(ax, QUANTITIES[cost], measured.measure if ax is axes[0] else "", legend=False)
    _legend(drawing, axes[0])
    return drawing


def _draw_cost(
    drawing: Drawing, ax: Axes, measured: Measured, results: Results, cost: str, choice: str, numbers: Sequence[int]
) -> None:
    cell = measured.values.of(numbers)
    mean, (low, high) = cell.values.mean(), mean_interval(cell)
    size = float(np.mean([results.outcomes[number].quantities[cost] for number in numbers]))
    ends = [[max(0, mean - low)], [max(0, high - mean)]]
    bar = ax.errorbar(size, mean, ends, ls="", capsize=2, lw=1, ms=6, label=choice, **drawing.look(choice))
    words = f"{choice}: {measured.measure} {mean:.4f} [{low:.4f}, {high:.4f}], {human(size)} {QUANTITIES[cost]}"
    drawing.mark(bar.get_children(), choice, words)


def reliability_figure(name: str, heads: Mapping[str, Sequence[Bin]]) -> Drawing:
    """The share of responses against the predicted probability of each head, over a histogram of the predictions."""
    caption = (
        "Share of impressions with the response against the mean predicted probability, in bins with the same "
        "number of impressions. Points on the dashed line are calibrated; below it, the probabilities are too high. "
        "The lower panel shows the share of impressions by predicted probability; the last bar includes all above it."
    )
    figure = Figure(figsize=(_PANEL[0] * 1.2, _PANEL[1] * 1.5), layout="constrained")
    drawing = Drawing(name, caption, figure, list(heads))
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    end = min(1.0, max(max(b.predicted, b.observed) for bins in heads.values() for b in bins) * 1.05) or 1.0
    ax.plot([0, end], [0, end], ls="--", lw=1, color="grey")
    for head, bins in heads.items():
        _draw_reliability(drawing, ax, head, bins)
    _draw_predictions(drawing, below, heads, end)
    ax.set(xlim=(0, end), ylim=(0, end))
    _finish(ax, "", "share with the response", legend=False)
    _finish(below, "predicted probability", "impressions", legend=False)
    _legend(drawing, ax)
    return drawing


def _draw_reliability(drawing: Drawing, ax: Axes, head: str, bins: Sequence[Bin]) -> None:
    look, label = drawing.look(head), f"{head}: ECE {calibration_error(bins):.4f}"
    line = ax.plot([b.predicted for b in bins], [b.observed for b in bins], lw=1.2, color=look["color"])
    drawing.mark(line, head)
    for b in bins:
        words = f"{head}: {b.predicted:.4f} predicted, {b.observed:.4f} observed, {b.impressions:,} impressions"
        drawing.mark(ax.plot(b.predicted, b.observed, ms=5, ls="", clip_on=False, **look), head, words)
    drawing.mark(ax.plot([], [], lw=1.2, ms=5, label=label, **look), head)


def _draw_predictions(drawing: Drawing, ax: Axes, heads: Mapping[str, Sequence[Bin]], end: float) -> None:
    edges = np.linspace(0, end, _BARS + 1)
    for place, (head, bins) in enumerate(heads.items()):
        width = 0.9 * end / _BARS / len(heads)
        bars = ax.bar(
            edges[:-1] + (place + 0.5) * width, _shares(bins, edges), width, color=drawing.look(head)["color"]
        )
        drawing.mark(bars, head)
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))


def _shares(bins: Sequence[Bin], edges: Floats) -> Floats:
    """The share of impressions between the edges, of predictions that are spread evenly within each bin."""
    ends = np.append(edges[:-1], np.inf)
    below = sum(b.impressions * np.clip((ends - b.lowest) / max(b.highest - b.lowest, 1e-12), 0, 1) for b in bins)
    return np.diff(below / sum(b.impressions for b in bins))


def _known(results: Results, cells: dict[str, list[int]], cost: str) -> bool:
    return all(cost in results.outcomes[number].quantities for numbers in cells.values() for number in numbers)


def _figure(panels: int) -> Figure:
    return Figure(figsize=(_PANEL[0] * panels, _PANEL[1]), layout="constrained")


def _finish(ax: Axes, x: str, y: str, legend: bool = True) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.25, lw=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    if legend:
        ax.legend(frameon=False, fontsize="small").set_gid("legend")


def _legend(drawing: Drawing, ax: Axes) -> None:
    """Add a legend to a panel, or beside all panels if it has too many series for one."""
    if len(drawing.series) > _MOST_IN_PANEL:
        found = drawing.figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    else:
        found = ax.legend(frameon=False, fontsize="small")
    found.set_gid("legend")


def _log_axis(ax: Axes, which: Literal["x", "y"], values: Floats) -> None:
    """Make an axis logarithmic with plain numbers at its ticks, even if it spans less than a decade."""
    set_scale, axis = (ax.set_xscale, ax.xaxis) if which == "x" else (ax.set_yscale, ax.yaxis)
    set_scale("log")
    axis.set_minor_locator(ticker.NullLocator())
    spans = values.max() / values.min()
    if spans < 4:
        axis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if spans < 30 else (1, 3) if spans < 1000 else (1,)))
    axis.set_major_formatter(_Plain())


class _Plain(ticker.Formatter):
    """A formatter with just enough digits to distinguish the ticks of an axis."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return human(value)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        labels: list[str] = []
        for digits in range(3, 9):
            labels = [human(value, digits) for value in values]
            if len(set(labels)) == len(labels):
                break
        return labels


def human(value: float, digits: int = 3) -> str:
    """A number with three significant digits: 0.125, 940, 12.5k, 3.2M, 4e+12."""
    value = float(f"{value:.{digits}g}")
    if value >= 1e10:
        return f"{value:.{digits}g}"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.{digits}g}{name}"
    return f"{value:.{digits}g}"
