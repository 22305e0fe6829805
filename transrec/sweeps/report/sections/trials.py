"""The status of the trials, and a table of their values."""

import csv
from io import StringIO
from typing import Any

from transrec.sweeps.analysis.curves import label
from transrec.sweeps.analysis.results import QUANTITIES, Results
from transrec.sweeps.records import Record
from transrec.sweeps.report.draft import Draft
from transrec.sweeps.report.page import Heading, Paragraph, Table


def add_trials(draft: Draft) -> None:
    """Add the trials that failed, were stopped or cannot be read, and those with notes."""
    records, unreadable = draft.results.records, draft.results.unreadable
    lost = [record for record in records if record.status in ("failed", "stopped") or record.trial in unreadable]
    noted = [record for record in records if record.notes and record not in lost]
    told = Paragraph(f"{len(draft.results.outcomes)} of {len(records)} are in this report.")
    draft.blocks += [Heading("Trials"), told]
    if lost or noted:
        rows = [_trial_row(record, unreadable.get(record.trial)) for record in [*lost, *noted]]
        draft.blocks.append(Table(["trial", "setting", "status", "message"], rows))


def _trial_row(record: Record, unreadable: str | None) -> list[str]:
    said = "; ".join(filter(None, [unreadable, record.error, *record.notes]))
    setting = label(tuple(record.axes.items()), list(record.axes))
    return [record.trial, setting, "unreadable" if unreadable else record.status, said]


def results_csv(results: Results) -> str:
    """A CSV table with a row for every trial, whether it has results or not."""
    axes, measures = list(results.axes), results.measures
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{measure}_{end}" for measure in measures for end in ("low", "high")]
    writer.writerow(["trial", *axes, "status", "run", "source_run", *QUANTITIES, *measures, *ends, "error"])
    outcomes = {outcome.record.trial: outcome for outcome in results.outcomes}
    for record in results.records:
        values: list[Any] = [""] * (len(QUANTITIES) + len(measures) + len(ends))
        if outcome := outcomes.get(record.trial):
            test = outcome.summary["test"]
            values = [outcome.quantities.get(name, "") for name in QUANTITIES]
            values += [test[m] for m in measures] + [end for m in measures for end in test[f"{m}_interval"]]
        error = results.unreadable.get(record.trial, record.error or "")
        labels = [record.axes.get(axis, "") for axis in axes]
        writer.writerow([record.trial, *labels, record.status, record.run, record.source_run or "", *values, error])
    return out.getvalue()
