"""The results of a finished run: writing them to its folder and displaying them."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table
from torch import Tensor

from transrec import weights
from transrec.data.examples.user_sample import UserSample
from transrec.evaluation.estimates import Estimate
from transrec.evaluation.evaluator import KINDS, UserResults
from transrec.evaluation.groups import OF_GROUPING, Groups, group_table
from transrec.evaluation.metrics import metric
from transrec.evaluation.report import as_json, table
from transrec.experiment import Experiment
from transrec.files import plain_json, read_json, replace_atomically, write_text
from transrec.protocols import Examples
from transrec.terminal import console, read_by_program
from transrec.training.checkpoint import TrainState
from transrec.training.cost import Cost
from transrec.training.records import flatten

_ROWS_OF_A_GROUP = 2**18  # of a Parquet file; the ids and names of a group fit into 2 GiB

_MEASURED = ("valid", "test", "baselines", *OF_GROUPING)  # parts of a summary whose values may be undefined

USERS_FILE = "test_users.parquet"
SUMMARY_FILE = "summary.json"  # its presence marks a finished run; baselines may be added to it later


def assemble(
    experiment: Experiment,
    examples: Examples,
    parameters: dict[str, Any],
    learning_rates: dict[str, float],
    state: TrainState,
    peak_memory: int,
    results: Mapping[str, UserResults],
    cost: Cost | None,
) -> dict[str, Any]:
    """The contents of `summary.json`, without the baselines."""
    return {part: as_json(result.estimates) for part, result in results.items()} | {
        "samples": {part: sample.as_json() for part, result in results.items() if (sample := result.sample)},
        "data": examples.training_size(),
        "remarks": examples.remarks("test"),
        "parameters": parameters,
        "learning_rates": learning_rates,
        "steps": state.step,
        "best_step": state.best_step,
        "seconds": round(state.seconds, 1),
        "users_per_second": round(state.windows / max(1e-9, state.seconds), 1),
        "peak_memory_bytes": peak_memory,
        "export_bytes": weights.size(experiment.run_dir / "export"),
        **({"energy_joules": {part: round(j, 1) for part, j in state.energy.items()}} if state.energy else {}),
        **(cost.as_json() if cost is not None else {}),
    }


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write the summary, after all other files of a finished run: its presence marks the run as finished."""
    write_text(run_dir / SUMMARY_FILE, json.dumps(plain_json(summary), indent=2) + "\n")


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """The contents of `summary.json`; None if there is none, or it is damaged."""
    try:
        found = read_json(run_dir / SUMMARY_FILE)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    return found | {part: _with_undefined(found[part]) for part in _MEASURED if part in found}


def _with_undefined(measured: Any) -> Any:
    """Measured values with NaN where JSON has null."""
    if isinstance(measured, dict):
        return {name: _with_undefined(value) for name, value in measured.items()}
    if isinstance(measured, list):
        return [_with_undefined(value) for value in measured]
    return math.nan if measured is None else measured


def save_users(path: Path, examples: Examples, results: UserResults) -> None:
    """Write one row per test question: user_id and its results, with targets by name.

    For ranked targets, the results are target, rank and loss, plus `predicted` if macro-F1 is among the metrics. Runs
    are compared user by user from these files.
    """
    kind, names = KINDS[examples.name], examples.target_names()
    kept = (*kind.kept, *(name for name in results.columns if name in kind.named and name not in kind.kept))
    columns = {name: _numbers(results.columns[name]) for name in kept}
    _write_rows(path, examples, results.sample, columns, dict.fromkeys(kind.named & {*kept}, names))


def save_ranks(path: Path, examples: Examples, baselines: Mapping[str, UserResults]) -> None:
    """Write one row per test question, in the order of `save_users`: user_id, and the rank that each ranking baseline
    gives to the target."""
    ranking = {name: results.columns["rank"] for name, results in baselines.items() if "rank" in results.columns}
    sample = next((results.sample for results in baselines.values()), None)
    _write_rows(path, examples, sample, {name: _numbers(column) for name, column in ranking.items()}, {})


def _numbers(values: Tensor) -> pa.Array:
    return pa.array((values.float() if values.is_floating_point() else values).numpy())


def _write_rows(
    path: Path,
    examples: Examples,
    sample: UserSample | None,
    columns: Mapping[str, pa.Array],
    named: Mapping[str, pa.StringArray],
) -> None:
    """Write a column `user_id` and the `columns` of all test questions.

    Rows are written in groups, because a text column holds at most 2 GiB, and all ids together may exceed this.

    Args:
        named: for columns that hold numbers from 1, the names that replace the numbers.
    """
    schema = pa.schema(
        {"user_id": pa.string()} | {name: pa.string() if name in named else c.type for name, c in columns.items()}
    )
    with replace_atomically(path) as partial, pq.ParquetWriter(partial, schema) as file:
        first = 0
        for users in _row_groups(examples.question_users("test", sample)):
            part = {name: column.slice(first, len(users)) for name, column in columns.items()}
            part |= {name: names.take(pc.subtract(part[name], 1)) for name, names in named.items()}
            file.write_table(pa.table({"user_id": users, **part}, schema=schema))
            first += len(users)


def _row_groups(users: Iterable[pa.StringArray]) -> Iterator[pa.StringArray]:
    """The ids of blocks of users put together, about `_ROWS_OF_A_GROUP` at a time."""
    waiting: list[pa.StringArray] = []
    for block in users:
        waiting.append(block)
        if sum(map(len, waiting)) >= _ROWS_OF_A_GROUP:
            yield pa.concat_arrays(waiting)
            waiting = []
    if waiting:
        yield pa.concat_arrays(waiting)


def hyperparameters(experiment: Experiment) -> dict[str, Any]:
    """The settings by which trackers compare runs, by dotted key."""
    sections = experiment.model_dump(mode="json", include={"seed", "model", "adaptation", "optimizer", "train", "zero"})
    del sections["train"]["trackers"]
    return flatten(sections)


def show(
    experiment: Experiment,
    tested: Mapping[str, Mapping[str, Estimate]],
    groupings: Mapping[str, Mapping[str, Groups]],
    summary: dict[str, Any],
    cost: Cost | None,
    of: str,
) -> None:
    """Print the results of the run and its baselines, overall and by group, the cost, and where to find more.

    Args:
        of: description of the tested users if they are a sample, otherwise empty.
    """
    output, folder = console(), experiment.run_dir
    output.print(table(tested, of=of))
    for grouping, models in groupings.items():
        output.print(group_table(grouping, models, of))
    if ahead := untrained_ahead(experiment, tested):
        output.print(ahead, highlight=False)
    output.print(cost_table(summary))
    parameters = summary["parameters"]
    for remark in summary["remarks"]:
        output.print(remark, highlight=False)
    output.print(
        f"{parameters['trainable']:,} of {parameters['total']:,} parameters trained for {summary['steps']} steps; "
        f"{chosen(summary)}.",
        *(cost.advice() if cost is not None else ["Operations were not counted: one device cannot hold the model."]),
        f"Results    {folder}/summary.json",
        *([f"Curves     tensorboard --logdir {folder}/tensorboard"] if (folder / "tensorboard").exists() else []),
        f"Evaluate   transrec evaluate --run {folder} --split test",
        f"Recommend  transrec recommend --run {folder} {_question(experiment)} --top 10",
        sep="\n",
        highlight=False,
    )
    if read_by_program():
        print(json.dumps(plain_json({"run": str(folder), "test": summary["test"]})))


def chosen(summary: Mapping[str, Any]) -> str:
    """Which weights of a run are exported and tested."""
    best = summary["best_step"]
    return f"best at step {best}" if best else "without validations, the last weights are exported"


def _question(experiment: Experiment) -> str:
    """The option that passes histories to `transrec recommend`: a file for a ranking model, which has more inputs."""
    return "--history ID,ID,…" if experiment.model.name != "ranking_model" else "--histories users.jsonl"


def untrained_ahead(experiment: Experiment, tested: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A message that names the baselines ahead of the run, which is the last of `tested`; empty if there are none."""
    name = experiment.train.monitor
    [*others, run] = tested
    own, values = tested[run][name], {o: tested[o][name].value for o in others if name in tested[o]}
    better = {other: value for other, value in values.items() if metric(name).improves(value, own.value)}
    if not better:
        return ""
    listed = ", ".join(f"{other} ({value:.4f})" for other, value in better.items())
    kind = "a far simpler baseline" if len(better) == 1 else "far simpler baselines"
    small = all(own.low <= value <= own.high for value in better.values())
    near = " The difference is small enough to be chance." if small else ""
    return f"{name}: this run ({own.value:.4f}) is behind {kind}: {listed}.{near}"


def energy(joules: Mapping[str, float]) -> str:
    """The energy of a run as text, without the devices that were not measured."""
    return ", ".join(f"{value / 1e3:,.1f} kJ of {part.upper()}s" for part, value in joules.items())


def cost_table(summary: dict[str, Any]) -> Table:
    """Two columns with parameters by tower, operations, speed, memory, energy and export size."""
    view = Table("cost", "")
    for tower, counts in summary["parameters"]["towers"].items():
        share = counts["adapters"] / max(1, counts["total"] - counts["adapters"])
        adapters = f"; adapters are {share:.1%} of the rest" if counts["adapters"] else ""
        view.add_row(f"parameters, {tower}", f"{counts['total']:,}, {counts['trainable']:,} of them trained{adapters}")
    if "flops_per_user" in summary:
        flops = summary["flops_per_user"]
        useful = flops["useful"] / max(1, flops["forward"] + flops["backward"])
        both = f"{flops['forward'] / 1e6:,.1f} forward, {flops['backward'] / 1e6:,.1f} backward, {useful:.0%} useful"
        view.add_row("MFLOPs per user", both)
    view.add_row("users per second", f"{summary['users_per_second']:,}")
    view.add_row("peak memory", f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB")
    if "energy_joules" in summary:
        view.add_row("energy of training", energy(summary["energy_joules"]))
    for name, size in summary["export_bytes"].items():
        view.add_row(f"trained weights, export/{name}", f"{size / 2**20:,.2f} MiB")
    return view
