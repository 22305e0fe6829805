"""Recommend items for histories, also with users and items not seen in training; or predict a task's targets.

transrec recommend --run R --history ID,ID,… [--catalogue SHARDS] [--top 10]
transrec recommend --run R --histories users.jsonl [--catalogue SHARDS] [--top 10] > recommendations.jsonl
transrec recommend [--run SOURCE] --adapter A [B …] …      one result per adapter, with one shared base
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from transrec.commands.entry import command
from transrec.config import ConfigError
from transrec.evaluation.report import console
from transrec.runs.recommender import Catalogue, Recommender, recommenders


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parse(argv)
    for recommender in opened(arguments.run, arguments.adapter, arguments.catalogue):
        if arguments.history is not None:
            history = arguments.history.split(",")
            show(recommender.name, recommender.catalogue, history, recommender.recommend(history, arguments.top))
            continue
        named = {"adapter": str(recommender.folder)} if arguments.adapter else {}
        for user, history in read_histories(arguments.histories):
            found = recommender.recommend(history, arguments.top)
            print(json.dumps({"user": user, **named, "recommendations": found}, ensure_ascii=False))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="transrec recommend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run folder; with --adapter, the base run of the adapters")
    parser.add_argument("--adapter", type=Path, nargs="+", default=[], help="adapted runs, or their export folders")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--history", metavar="ID,ID,…", help="item ids, oldest first; shows a table")
    given.add_argument("--histories", type=Path, help='JSON lines {"user": …, "history": [ids]}; prints JSON lines')
    parser.add_argument("--catalogue", metavar="DIR|URL", help="shards whose items to recommend (default: the run's)")
    parser.add_argument("--top", type=int, default=10)
    return parser.parse_args(argv)


def opened(run: Path | None, adapters: Sequence[Path], catalogue: str | None) -> Iterator[Recommender]:
    """Yield the recommenders, opened before the first one for early errors; each can be freed before the next."""
    left = recommenders(run, adapters, catalogue)
    for recommender in left:
        recommender.open()
    while left:
        yield left.pop(0)


def read_histories(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """
    Raises:
        ConfigError: the file cannot be read, or a line (given by number) is not an object with a list `history`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            yield record.get("user", number), [str(item_id) for item_id in record["history"]]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ConfigError(f'{path}, line {number}: expected {{"user": …, "history": [item ids]}}') from None


def show(name: str, catalogue: Catalogue, history: Sequence[str], recommended: Sequence[dict[str, Any]]) -> None:
    """Print a history and the recommendations for it."""
    output = console()
    output.print("History, oldest first:", style="bold")
    for item_id in history:
        output.print(f"  {catalogue.title(item_id)}", highlight=False, markup=False)
    table = Table("", *(recommended[0] if recommended else ()), title=name)
    for place, found in enumerate(recommended, start=1):
        *names, number = found.values()
        table.add_row(str(place), *names, f"{number:.4f}")
    output.print(table)


if __name__ == "__main__":
    sys.exit(main())
