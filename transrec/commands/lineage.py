"""Show the data that a run was trained on: `transrec lineage --run R --step N | --item ID | --user ID`.

`--step` shows the users of a step, their items and the negatives; `--user` and `--item` show the steps that used them.
The order of the data is recomputed from the run's seed, so it need not be recorded. Steps count from 1.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from transrec.commands.entry import add_json, command, print_json, values_joined
from transrec.runs.lineage import RunLineage, SeenWindow
from transrec.terminal import console, shortened

MOST_ROWS = 50
OF_A_STEP = ("slot", "user", "start", "items")
OF_ALL_STEPS = ("step", "slot", "user", "start")


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    run = RunLineage(arguments.run, arguments.data)
    if arguments.step is not None:
        table, answer = of_step(run, arguments.step)
    elif arguments.user is not None:
        windows = run.user(arguments.user)
        table, answer = of_all_steps(run, f"user {arguments.user}", windows)
        answer = {"user": arguments.user, **answer}
    else:
        windows = run.item(arguments.item)
        table, answer = of_all_steps(run, f"item {arguments.item}, {run.titles[arguments.item]}", windows)
        answer = {"item": arguments.item, **answer}
    if not arguments.json:
        console().print(table)
    print_json({"run": str(arguments.run), **answer})
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    return argument_parser().parse_args(values_joined(argv, "--item", "--user"))


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="transrec lineage", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--data", metavar="DIR|URL", help="the run's shards, if they have moved")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--step", type=int, help="show the users and items of this step")
    question.add_argument("--item", help="show the steps in which this item was in a history")
    question.add_argument("--user", help="show the steps that trained on this user")
    add_json(parser)
    return parser


def of_step(run: RunLineage, number: int) -> tuple[Table, dict[str, Any]]:
    """The table to display, and the full answer for JSON."""
    step = run.step(number)
    table = Table("slot", "user", "from", "items", title=f"step {number}: {len(step.windows)} windows")
    for window in step.windows[:MOST_ROWS]:
        table.add_row(str(window.slot), shortened(window.user), str(window.start), titles(run.titles, window.items))
    return table, {"step": number, "windows": objects(step.windows, OF_A_STEP), "items": step.items}


def of_all_steps(run: RunLineage, name: str, windows: Sequence[SeenWindow]) -> tuple[Table, dict[str, Any]]:
    """Like `of_step`, for a user or an item."""
    steps = len({window.step for window in windows})
    table = Table("step", "slot", "user", "from", "items", title=f"{shortened(name)}: in {steps} of {run.steps} steps")
    for w in windows[:MOST_ROWS]:
        table.add_row(str(w.step), str(w.slot), shortened(w.user), str(w.start), titles(run.titles, w.items))
    return table, {"windows": objects(windows, OF_ALL_STEPS)}


def objects(windows: Sequence[SeenWindow], fields: Sequence[str]) -> list[dict[str, Any]]:
    """The given fields of each window, as JSON objects."""
    return [{field: getattr(window, field) for field in fields} for window in windows]


def titles(of: Mapping[str, str], items: Sequence[str]) -> str:
    """Titles of the last four items, for a cell of a table."""
    shown = "; ".join(shortened(of[item]) for item in items[-4:])
    return f"… {shown}" if len(items) > 4 else shown


if __name__ == "__main__":
    sys.exit(main())
