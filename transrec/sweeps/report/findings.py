"""The findings of a sweep and its open questions as sentences, which open the report."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from transrec.sweeps.analysis.comparison import Comparison, Verdict
from transrec.sweeps.analysis.crossing import Crossing
from transrec.sweeps.analysis.curves import Curve
from transrec.sweeps.analysis.fits import Extrapolation, Scaling
from transrec.sweeps.analysis.multiplicity import written
from transrec.sweeps.analysis.results import QUANTITIES, SEED, Results
from transrec.sweeps.report.figures import human

_LEVEL = 0.05  # of the adjusted p-values that are counted


@dataclass
class Findings:
    """The sentences at the start of a report: findings, and open questions."""

    found: list[str] = field(default_factory=list)
    unsaid: list[str] = field(default_factory=list)

    def scaling(self, curve: Curve, error: str, scaling: Scaling) -> None:
        amount = QUANTITIES[curve.amount]
        who = f"{curve.series} ({curve.panel})" if curve.panel else curve.series
        verdict = scaling.verdict
        if verdict == "law":
            self._law(curve, error, who, scaling)
        elif verdict == "no law":
            self.found.append(f"{who}: within the noise, {error} does not depend on {amount}.")
        elif verdict == "another law":
            self.unsaid.append(
                f"{who}: a broken power law describes {error} against {amount} better than one without a break, "
                "so larger sizes are not predicted."
            )
        elif verdict == "not fitted":
            self.unsaid.append(f"{who}: whether {error} follows a law in {amount}: {scaling.why_not}.")
        else:
            self.unsaid.append(
                f"{who}: whether {error} follows a law in {amount}: "
                f"without a law, the error would fall this much by chance in {scaling.chance:.0%} of sweeps."
            )

    def _law(self, curve: Curve, error: str, who: str, scaling: Scaling) -> None:
        assert scaling.fit is not None
        low, high = scaling.intervals()["α"]
        law = (
            f"{who}: {error} falls with {QUANTITIES[curve.amount]} as {scaling.fit.law.formula} "
            f"with α = {scaling.fit.parameters['α']:.2f} [{low:.2f}, {high:.2f}]"
        )
        check = scaling.extrapolation
        if check is None:
            self.found.append(f"{law}.")
            self.unsaid.append(
                f"{who}: how {error} continues at larger sizes: there are too few sizes to hold one out."
            )
        elif check.holds:
            self.found.append(f"{law}; {prediction(check)}.")
            self._forecast(curve, error, who, scaling, check.measured)
        else:
            self.found.append(f"{law}.")
            self.unsaid.append(
                f"{who}: how {error} continues at larger sizes; {prediction(check)}, outside the interval."
            )

    def _forecast(self, curve: Curve, error: str, who: str, scaling: Scaling, measured: float) -> None:
        """Add a prediction for twice the largest size, the distance over which the check has tested the law."""
        assert scaling.fit is not None
        at = np.array([[2 * curve.sizes[-1]]])
        value = float(np.exp(scaling.fit.log_errors(at))[0])
        low, high = (float(ends[0]) for ends in scaling.band(at))
        told = (
            f"{value:.4f} [{low:.4f}, {high:.4f}] at {human(at.item())}, "
            f"compared with {measured:.4f} at {human(at.item() / 2)}"
        )
        if high < measured:
            self.found.append(f"{who}: by the law fitted to all sizes, {error} will be {told}.")
        else:
            self.unsaid.append(f"{who}: whether more {QUANTITIES[curve.amount]} will help; {error} may be {told}.")

    def joint(self, who: str, amounts: tuple[str, str], error: str, scalings: Sequence[Scaling]) -> None:
        """Add the findings about joint laws in two amounts, each with its analysis."""
        both = " and ".join(QUANTITIES[amount] for amount in amounts)
        laws = [scaling for scaling in scalings if scaling.verdict == "law"]
        if laws:
            self.found += [_joint_law(who, amounts, error, scaling) for scaling in laws]
            if len(laws) > 1:
                formulas = " or ".join(scaling.fit.law.formula for scaling in laws if scaling.fit is not None)
                self.unsaid.append(
                    f"{who}: which of these laws {error} follows, {formulas}: "
                    "the measured sizes do not distinguish them."
                )
            return
        fitted = [scaling for scaling in scalings if scaling.fit is not None]
        if not fitted:
            self.unsaid.append(f"{who}: whether {error} follows a law in {both} together: {scalings[0].why_not}.")
        elif any(scaling.verdict == "another law" for scaling in fitted):
            self.unsaid.append(
                f"{who}: which law {error} follows in {both} together: none of the fitted laws is sufficient."
            )
        elif all(scaling.verdict == "no law" for scaling in fitted):
            neither = " nor on ".join(QUANTITIES[amount] for amount in amounts)
            self.found.append(f"{who}: within the noise, {error} depends neither on {neither}.")
        else:
            chance = min(scaling.chance for scaling in fitted)
            self.unsaid.append(
                f"{who}: whether {error} follows a law in {both} together: "
                f"without a law, the errors would look like this by chance in {chance:.0%} of sweeps."
            )

    def crossing(self, one: Curve, other: Curve, error: str, found: Crossing) -> None:
        first, second, amount = one.series, other.series, QUANTITIES[one.amount]
        ahead, behind = (first, second) if found.ahead == 1 else (second, first)
        where = f" ({one.panel})" if one.panel else ""
        if not found.certain or found.crossings > 1:
            self.unsaid.append(
                f"Which of {first} and {second} has the smaller {error}, depending on the number of {amount}{where}: "
                f"the measured curves {found.times}, and so do {found.share:.0%} of the resampled ones."
            )
        elif found.ahead == 0:
            self.found.append(
                f"{first} and {second} have the same {error} at every measured number of {amount}{where}."
            )
        elif found.size is None:
            self.found.append(
                f"{ahead} has a smaller {error} than {behind} at every measured number of {amount}{where}."
            )
        else:
            assert found.low is not None
            assert found.high is not None
            self.found.append(
                f"{ahead} has the smaller {error} up to about {human(found.size)} {amount} "
                f"[{human(found.low)}, {human(found.high)}], and {behind} from there on{where}."
            )

    def comparisons(
        self,
        name: str,
        baseline: str,
        measure: str,
        found: Sequence[Comparison],
        adjusted: Sequence[float],
        by_size: bool = False,
    ) -> None:
        """Compare a choice with the baseline in several settings; with `by_size`, the last has the largest sizes.

        Args:
            adjusted: Holm's p-value of each comparison.
        """
        if not found:
            self.unsaid.append(
                f"How {name} compares with {baseline}: no seed has test results of both for the same users."
            )
            return
        counts = {verdict: sum(c.verdict == verdict for c in found) for verdict in ("better", "equivalent", "worse")}
        told = ", ".join(f"{verdict} at {count}" for verdict, count in counts.items() if count)
        undecided = len(found) - sum(counts.values())
        last = found[-1]
        p = f"p (Holm) {written(adjusted[-1])}"
        largest = f"{last.difference:+.4f} [{last.low:+.4f}, {last.high:+.4f}], margin {last.margin:.4f}, {p}"
        if told and len(found) > 1:
            below = f"p (Holm) below {_LEVEL:g} at {sum(value < _LEVEL for value in adjusted)}"
            told += f" of {len(found)} settings; {f'at the largest sizes {largest}' if by_size else below}"
        elif told:
            told = f"{last.verdict} {largest}"
        if told:
            self.found.append(f"{name} against {baseline}, {measure}: {told}.")
        if undecided:
            self.unsaid.append(
                f"Whether {name} or {baseline} has the better {measure}"
                + (f" at {undecided} of {len(found)} settings." if len(found) > 1 else f": {largest}.")
            )

    def agreement(self, axis: str, measure: str, main: str, found: Sequence[tuple[str, Verdict, Verdict]]) -> None:
        """Add whether a measure gives the same verdicts as the main one, unless all of them are undecided.

        Args:
            found: for each comparison of the axis, the name of the choice and the verdicts of `main` and `measure`.
        """
        if {verdict for _, *verdicts in found for verdict in verdicts} == {"undecided"}:
            return
        same = sum(one == other for _, one, other in found)
        told = f"{measure} agrees with {main} in "
        if same == len(found):
            told += f"{'the one comparison' if same == 1 else f'all {same} comparisons'} of {axis}"
        else:
            against = dict.fromkeys(name for name, *verdicts in found if {*verdicts} == {"better", "worse"})
            told += f"{same} of {len(found)} comparisons of {axis} and contradicts it "
            told += f"for {', '.join(against)}" if against else "in none"
        self.found.append(f"{told}.")

    def trials(self, results: Results) -> None:
        statuses = [record.status for record in results.records]
        lost = {str(s): statuses.count(s) for s in ("failed", "stopped", "pending") if s in statuses}
        if results.unreadable:
            lost["unreadable"] = len(results.unreadable)
        if lost:
            listed = ", ".join(f"{count} {status}" for status, count in lost.items())
            self.unsaid.append(f"Of {len(statuses)} trials, {listed}: these are left out of all numbers here.")
        seeds = [len({results.outcomes[n].axes.get(SEED) for n in members}) for members in results.groups().values()]
        if min(seeds) < 2:
            few = (
                "Every setting has" if max(seeds) < 2 else f"{sum(s < 2 for s in seeds)} of {len(seeds)} settings have"
            )
            self.unsaid.append(
                f"{few} only one seed: intervals there cover users only, not training, and are too narrow."
            )


def _joint_law(who: str, amounts: tuple[str, str], error: str, scaling: Scaling) -> str:
    assert scaling.fit is not None
    ends, values = scaling.intervals(), scaling.fit.parameters
    told = " and ".join(
        f"{name} = {values[name]:.2f} [{ends[name][0]:.2f}, {ends[name][1]:.2f}] for {QUANTITIES[amount]}"
        for name, amount in zip(("α", "β"), amounts, strict=True)
    )
    return f"{who}: {error} over both sizes falls as {scaling.fit.law.formula} with {told}."


def prediction(check: Extrapolation) -> str:
    """The sentence about what a law, fitted without the largest size, predicts there."""
    expected = f"{check.predicted:.4f} [{check.low:.4f}, {check.high:.4f}]"
    return (
        f"fitted without the largest size, {human(check.size)}, it predicts {expected} there, "
        f"where {check.measured:.4f} was measured"
    )
