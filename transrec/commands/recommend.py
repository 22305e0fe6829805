"""Recommend items for users, given their histories (users and items may be new), or predict a task's targets.

transrec recommend --run R --history ID,ID,… [--catalogue SHARDS] [--top 10]
transrec recommend --run R --item ID --item ID …           for ids that contain a comma
transrec recommend --run R --histories users.jsonl [--catalogue SHARDS] [--top 10] > recommendations.jsonl
                                     a line's "candidates": [ids] are ranked instead of the catalogue; for a ranking
                                     model it may also hold "time", "context": {…} and "profile": {…}
transrec recommend [--run SOURCE] --adapter A [B …] …      one result per adapter, with one shared base
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from transrec.commands.entry import add_json, command, positive, print_json, values_joined
from transrec.config import ConfigError
from transrec.files import parsed_json
from transrec.runs.catalogue import Catalogue
from transrec.runs.histories import UserHistory, ids_of, read_histories, users_of
from transrec.runs.recommender import Recommender, recommenders
from transrec.terminal import console, shortened

STANDARD_INPUT = "-"
MOST_WARNINGS = 10  # users with unknown items that get a warning of their own; any others are only counted


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    history = one_history(arguments)
    users = None if history is not None else asked_users(arguments.histories, several=len(arguments.adapter) > 1)
    documents = []
    for recommender in opened(arguments.run, arguments.adapter, arguments.catalogue):
        if history is not None and arguments.json:
            documents.append(document(recommender, history, arguments.top))
        elif history is not None:
            show(recommender.name, recommender.catalogue, history, recommender.recommend(history, arguments.top))
        elif users is not None:
            named = {"adapter": str(recommender.folder)} if arguments.adapter else {}
            answer(recommender, users, arguments.top, arguments.unknown, named)
    if documents:
        print_json({"results": documents})
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    parser = argument_parser()
    arguments = parser.parse_args(values_joined(argv, "--history", "--item"))
    if arguments.history is not None and len(arguments.history) > 1:
        parser.error("--history is given twice: use --histories for several users")
    if arguments.json and arguments.histories is not None:
        parser.error(
            "--json works with --history and --item only: --histories already prints a JSON line for each user"
        )
    return arguments


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec recommend", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run folder; with --adapter, the base run of the adapters")
    parser.add_argument("--adapter", type=Path, nargs="+", default=[], help="adapted runs, or their export folders")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--history", action="append", metavar="ID,ID,…", help="item ids, oldest first, or a JSON list; shows a table"
    )
    given.add_argument(
        "--item", action="append", metavar="ID", help="like --history, but one id per option, oldest first"
    )
    given.add_argument(
        "--histories",
        metavar="FILE",
        help='JSON lines {"user": …, "history": [ids]}; prints JSON lines; - reads standard input',
    )
    parser.add_argument("--catalogue", metavar="DIR|URL", help="shards whose items to recommend (default: the run's)")
    parser.add_argument("--top", type=positive(int), default=10, help="number of results, at least 1: %(default)s")
    parser.add_argument(
        "--unknown",
        choices=["skip", "error"],
        default="skip",
        help="for item ids that are not in the catalogue: leave them out and report them (%(default)s), or stop",
    )
    add_json(parser)
    return parser


def opened(run: Path | None, adapters: Sequence[Path], catalogue: str | None) -> Iterator[Recommender]:
    """Open all recommenders, so that errors come early, and yield them; each can be freed before the next is used."""
    left = recommenders(run, adapters, catalogue)
    for recommender in left:
        recommender.open()
    while left:
        yield left.pop(0)


def one_history(arguments: argparse.Namespace) -> list[str] | None:
    """The ids given on the command line, oldest first; None with --histories."""
    if arguments.item is not None:
        found: list[str] = arguments.item
        return found
    if arguments.history is None:
        return None
    (history,) = arguments.history
    try:
        listed = parsed_json(history)
    except ValueError:
        listed = None
    return ids_of(listed, "--history") if isinstance(listed, list) else [one.strip() for one in history.split(",")]


def asked_users(place: str, several: bool) -> Iterable[UserHistory]:
    """The users of a file, read completely so that its errors come before the first answer; standard input is streamed.

    Args:
        several: the users are needed more than once.

    Raises:
        ConfigError: the file cannot be read.
        TransRecError: see `read_histories`.
    """
    if place == STANDARD_INPUT:
        stream = read_histories(sys.stdin.buffer, "standard input")
        return list(stream) if several else stream
    return users_of(place)


def answer(
    recommender: Recommender, users: Iterable[UserHistory], top: int, unknown: str, named: dict[str, str]
) -> None:
    """Print a JSON line for each user; `"unknown"` lists the items that were left out, if there are any."""
    catalogue, left_out, concerned = recommender.catalogue, 0, 0
    if isinstance(users, list):
        for user in users:  # so that errors come before the first answer
            check(recommender, user, unknown)
    for user in users:
        check(recommender, user, unknown)
        missing = catalogue.missing([*user.history, *(user.candidates or ())])
        if missing:
            left_out, concerned = left_out + len(missing), concerned + 1
            if concerned <= MOST_WARNINGS:
                such = ", ".join(map(shortened, missing[:5]))
                print(f"{user.where}: left out unknown item ids: {such}", file=sys.stderr)
        known = catalogue.known(user.history)
        candidates = None if user.candidates is None else catalogue.known(user.candidates)
        answerable = known or not recommender.needs_history
        found = recommender.recommend(known, top, candidates, user.visit) if answerable else []
        noted = {"unknown": missing} if missing else {}
        print_json({"user": user.user, **named, **noted, "recommendations": found}, flush=True)
    if left_out:
        such = ", ".join(map(shortened, catalogue.item_ids[:3]))
        print(
            f"unknown item ids left out: {left_out:,}; users concerned: {concerned:,}; the catalogue has ids such as "
            f"{such}",
            file=sys.stderr,
        )


def check(recommender: Recommender, user: UserHistory, unknown: str) -> None:
    """
    Raises:
        ConfigError: a column of the visit is misspelt; or, if `unknown` is "error", the catalogue lacks an item
            of the line, or the model needs a history and the user has none.
    """
    try:
        recommender.check_visit(user.visit)
    except ConfigError as error:
        raise ConfigError(f"{user.where}: {error}") from None
    if unknown != "error":
        return
    if user.history or recommender.needs_history:
        recommender.catalogue.check(user.history, user.where)
    if user.candidates:
        recommender.catalogue.check(user.candidates, f"{user.where}, candidates")


def document(recommender: Recommender, history: Sequence[str], top: int) -> dict[str, Any]:
    """The recommendations for a history, as `show` prints them, with full titles and scores."""
    titles = [recommender.catalogue.title(item_id) for item_id in history]
    listed = [{"item_id": item_id, "title": title} for item_id, title in zip(history, titles, strict=True)]
    found = recommender.recommend(history, top)
    return {"name": recommender.name, "history": listed, "recommendations": found}


def show(name: str, catalogue: Catalogue, history: Sequence[str], recommended: Sequence[dict[str, Any]]) -> None:
    """Print a history and the recommendations for it."""
    output = console()
    output.print("History, oldest first:", style="bold")
    for item_id in history:
        output.print(f"  {shortened(catalogue.title(item_id))}")
    table = Table("", *(recommended[0] if recommended else ()), title=name)
    for place, found in enumerate(recommended, start=1):
        *names, number = found.values()
        table.add_row(str(place), *map(shortened, names), f"{number:.4f}")
    output.print(table)


if __name__ == "__main__":
    sys.exit(main())
