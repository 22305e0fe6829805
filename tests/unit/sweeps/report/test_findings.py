"""What is said of curves that were made up, and what is not."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from transrec.sweeps.analysis.comparison import compare
from transrec.sweeps.analysis.crossing import crossing
from transrec.sweeps.analysis.curves import Curve
from transrec.sweeps.analysis.fits import analyse
from transrec.sweeps.analysis.laws import JOINT_LAWS
from transrec.sweeps.analysis.resampling import Resampled
from transrec.sweeps.report.findings import Findings

SIZES = np.array([100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0])


def curve(series: str = "full") -> Curve:
    return Curve("size", "interactions", (), series, "", SIZES, [[i] for i in range(len(SIZES))])


def measured(errors: np.ndarray, noise: float) -> Resampled:
    """With users whose draws move all sizes together."""
    moves = noise * np.random.default_rng(0).standard_normal((500, 1))
    return Resampled(errors, errors * np.exp(moves))


def told(errors: np.ndarray, noise: float = 0.01) -> Findings:
    findings = Findings()
    findings.scaling(curve(), "1 − HR@10", analyse(SIZES[:, None], measured(errors, noise)))
    return findings


def test_a_law_that_predicted_its_largest_size_says_what_twice_as_much_will_bring() -> None:
    wobble = np.array([1.001, 0.999, 1.001, 0.999, 1.0, 1.001])
    errors = (0.05 + 5 * SIZES**-0.4) * wobble
    law, forecast = told(errors).found
    assert "1 − HR@10 falls with interactions of training as E + A·D^-α with α = 0.4" in law
    assert "fitted without the largest size, 30k, it predicts 0." in law
    assert f"where {errors[-1]:.4f} was measured" in law
    assert "by the law fitted to all sizes, 1 − HR@10 will be 0.1" in forecast
    assert f"at 60k, compared with {errors[-1]:.4f} at 30k" in forecast


def test_a_law_too_uncertain_to_say_that_more_data_help_does_not() -> None:
    errors = (0.05 + 5 * SIZES**-0.4) * np.array([1.001, 0.999, 1.001, 0.999, 1.0, 1.001])
    findings = told(errors, noise=0.5)
    assert len(findings.found) == 1
    (unsaid,) = findings.unsaid
    assert unsaid.startswith("full: whether more interactions of training will help; 1 − HR@10 may be 0.1")


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (lambda n, d: 0.05 + 5 * n**-0.4 + 3 * d**-0.3, r"α = 0.4\d \[.*for interactions of pretraining and β = 0.3\d"),
        (
            lambda n, d: 0.5 + 0 * n,
            "loss depends neither on interactions of pretraining nor on interactions of training",
        ),
    ],
)
def test_a_law_of_two_sizes_is_told(errors: Callable[..., np.ndarray], told: str) -> None:
    sizes = np.array([[n, d] for n in SIZES for d in (200.0, 2_000.0, 20_000.0)])
    wobble = 1 + 1e-3 * np.random.default_rng(1).standard_normal(len(sizes))
    findings = Findings()
    error = measured(errors(*sizes.T) * wobble, 1e-3)
    scalings = [analyse(sizes, error, law=law) for law in JOINT_LAWS]
    findings.joint("full", ("source_interactions", "interactions"), "loss", scalings)
    (found,) = findings.found
    assert re.search(told, found), found


def test_two_laws_that_fit_alike_are_both_told_and_their_difference_is_open() -> None:
    sizes = np.array([[n, d] for n in SIZES[:4] for d in (200.0, 2_000.0, 20_000.0)])
    scalings = [analyse(sizes, measured(0.5 + 3 * sizes[:, 0] ** -0.4, 1e-3), law=law) for law in JOINT_LAWS]
    findings = Findings()
    findings.joint("full", ("source_interactions", "interactions"), "loss", scalings)
    assert len(findings.found) == 2
    assert findings.unsaid == [
        "full: which of these laws loss follows, E + A·N^-α + B·D^-β or E + A·N^-α·D^-β: "
        "the measured sizes do not distinguish them."
    ]


def test_curves_that_are_the_same_are_told_so() -> None:
    findings = Findings()
    same = [Resampled(np.zeros(2), np.zeros((100, 2))) for _ in SIZES]
    findings.crossing(curve("full"), curve("head"), "loss", crossing(SIZES, same))
    assert findings.found == ["full and head have the same loss at every measured number of interactions of training."]


def test_curves_whose_draws_disagree_have_no_crossing() -> None:
    findings = Findings()
    rng = np.random.default_rng(0)
    noisy = [Resampled(np.full(2, d), d + rng.standard_normal((100, 2))) for d in (-0.1, -0.1, -0.1, 0.1, 0.1, 0.1)]
    findings.crossing(curve("full"), curve("head"), "loss", crossing(SIZES, noisy))
    assert not findings.found
    assert "the measured curves cross once, and so do " in findings.unsaid[0]


@pytest.mark.parametrize(("value", "margin"), [(0.2, 0.01), (0.96, 0.002)])
def test_the_margin_is_of_what_is_right_or_of_what_is_wrong_whichever_is_less(value: float, margin: float) -> None:
    same = Resampled(np.full(2, value), np.full((100, 2), value))
    found = compare(same, same, higher_is_better=True)
    assert found.margin == pytest.approx(margin)
    assert compare(same, same, higher_is_better=False).margin == pytest.approx(0.05 * value)
    findings = Findings()
    findings.comparisons("head", "full", "HR@10", [found], [1.0])
    assert findings.found == [
        f"head against full, HR@10: equivalent +0.0000 [+0.0000, +0.0000], margin {margin:.4f}, p (Holm) 1.000."
    ]


def test_the_most_of_everything_is_told_where_settings_have_sizes() -> None:
    same = Resampled(np.full(2, 0.2), np.full((100, 2), 0.2))
    findings, found = Findings(), [compare(same, same, higher_is_better=True)] * 3
    findings.comparisons("head", "full", "HR@10", found, [0.01, 0.04, 0.0001])
    findings.comparisons("head", "full", "HR@10", found, [0.01, 0.06, 0.0001], by_size=True)
    assert findings.found == [
        "head against full, HR@10: equivalent at 3 of 3 settings; p (Holm) below 0.05 at 3.",
        "head against full, HR@10: equivalent at 3 of 3 settings; "
        "at the largest sizes +0.0000 [+0.0000, +0.0000], margin 0.0100, p (Holm) <0.001.",
    ]


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([("lora", "better", "better")], "HR@10 agrees with NDCG@10 in the one comparison of method."),
        (
            [("lora", "better", "better"), ("houlsby", "worse", "worse")],
            "HR@10 agrees with NDCG@10 in all 2 comparisons of method.",
        ),
        (
            [("lora", "better", "undecided"), ("houlsby", "worse", "worse")],
            "HR@10 agrees with NDCG@10 in 1 of 2 comparisons of method and contradicts it in none.",
        ),
        (
            [("lora", "better", "worse"), ("houlsby", "worse", "worse"), ("ia3", "undecided", "worse")],
            "HR@10 agrees with NDCG@10 in 1 of 3 comparisons of method and contradicts it for lora.",
        ),
    ],
)
def test_the_other_metrics_agree_or_contradict(pairs: list[tuple[str, str, str]], told: str) -> None:
    findings = Findings()
    findings.agreement("method", "HR@10", "NDCG@10", pairs)
    assert findings.found == [told]


def test_verdicts_that_are_all_undecided_are_no_agreement() -> None:
    findings = Findings()
    findings.agreement("method", "HR@10", "NDCG@10", [(name, "undecided", "undecided") for name in ("lora", "ia3")])
    assert findings.found == []
