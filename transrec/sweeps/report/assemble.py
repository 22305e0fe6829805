"""The report of a sweep: `report/` in its folder, from the results of its trials.

report.md      findings and tables, with the figures beside it as PNG
index.html     the same as one self-contained page
results.csv    a row for every trial
"""

from itertools import combinations
from pathlib import Path

from transrec.files import write_text
from transrec.sweeps.analysis.comparison import MARGIN
from transrec.sweeps.analysis.fits import DELTA
from transrec.sweeps.analysis.results import Results, load_results
from transrec.sweeps.report.draft import Draft
from transrec.sweeps.report.page import REPORT_FOLDER, Block, Bullets, Heading, Paragraph, save
from transrec.sweeps.report.sections.comparisons import add_comparisons
from transrec.sweeps.report.sections.costs import add_costs
from transrec.sweeps.report.sections.laws import add_joint_laws, add_laws
from transrec.sweeps.report.sections.means import add_means
from transrec.sweeps.report.sections.trials import add_trials, results_csv


def write_report(folder: Path, margin: float = MARGIN, delta: float = DELTA) -> Draft:
    """Write `report/` into a sweep's folder.

    Args:
        margin: difference within which two choices count as equivalent, relative to the baseline.
        delta: threshold of the Huber loss that laws are fitted with.

    Raises:
        RecordsError: `folder` is not a sweep's folder.
        ResultsError: no trial has finished.
        StorageError: the report cannot be written.
    """
    draft = Draft(load_results(folder), margin, delta)
    save(folder / REPORT_FOLDER, f"Sweep {draft.results.name}", write(draft))
    write_text(folder / REPORT_FOLDER / "results.csv", results_csv(draft.results))
    return draft


def write(draft: Draft) -> list[Block]:
    """The whole document: the findings, the open questions, and the evidence for both."""
    results = draft.results
    draft.findings.trials(results)
    add_means(draft)
    add_costs(draft)
    for axis in results.choice_axes:
        add_comparisons(draft, axis)
    for axis in results.size_axes:
        add_laws(draft, axis)
    for first, second in combinations(results.size_axes, 2):
        add_joint_laws(draft, first, second)
    add_trials(draft)
    return [
        Heading(f"Sweep {results.name}", 1),
        Paragraph(_about(results)),
        Heading("Findings"),
        Bullets(draft.findings.found or ["The trials support no finding."]),
        Heading("Open questions"),
        Bullets(draft.findings.unsaid or ["Every question was answered."]),
        Paragraph(_how_to_read(draft.margin, draft.delta)),
        *draft.blocks,
    ]


def _about(results: Results) -> str:
    """A sentence about the trials and their data."""
    outcomes = results.outcomes
    sources = dict.fromkeys(outcome.source_shards for outcome in outcomes if outcome.source_shards is not None)
    targets = dict.fromkeys(outcome.shards for outcome in outcomes)
    tested = sorted({f"{len(set(outcome.users)):,}" for outcome in outcomes}, key=len)
    pretrained = f"pretrained on {', '.join(sources)}, " if sources else ""
    return (
        f"{len(outcomes)} of {len(results.records)} trials: {pretrained}trained on {', '.join(targets)} "
        f"and tested on {' or '.join(tested)} users{results.sample}."
    )


def _how_to_read(margin: float, delta: float) -> str:
    return (
        "Brackets are 95 % intervals over resampled users and over seeds. Differences are paired by user and by seed; "
        "p is twice the probability that the difference is on the other side of zero, by Student's distribution over "
        "seeds or, with one seed, a normal distribution. A table makes many comparisons: p (Holm) bounds the "
        "probability of any false claim in it, p (Benjamini–Hochberg) the expected share of false claims. "
        "Verdicts use the intervals, which are not adjusted. Two choices are called equivalent if two one-sided "
        f"tests at 5 % put the difference within the margin: {margin:.0%} of the baseline's mean or, for a metric "
        "above one half, of one minus that mean. An error is the loss (cross entropy in nats), or one minus a metric. "
        f"Laws are fitted to the log of each size's mean error with the Huber loss (delta {delta:g}). F tests compare "
        "them with a constant, at 5 % (a p-value of 5 to 15 % is undecided), and with a broken power law, at 1 %. "
        "Larger sizes are predicted only if the law, fitted without the largest size, predicted the error there."
    )
