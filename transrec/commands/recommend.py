"""Recommend items for users, given their histories (users and items may be new), or predict a task's targets.

transrec recommend --run R --history ID,ID,… [--catalogue SHARDS] [--top 10]
transrec recommend --run R --item ID --item ID …           for ids that contain a comma
transrec recommend --run R --histories users.jsonl [--catalogue SHARDS] [--top 10] > recommendations.jsonl
                                     a line's "candidates": [ids] are ranked instead of the catalogue; it may also
                                     hold "exclude": [ids], "filters": {column: [values]}, "repeats": true and, for a
                                     ranking model, "time", "context": {…} and "profile": {…}
transrec recommend [--run SOURCE] --adapter A [B …] …      one result per adapter, with one shared base
transrec recommend --run RANKING --first-stage NEXT_ITEM [--first-stage-top 100] …
                                     a next-item run finds the candidates, and a ranking model ranks them
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from transrec.commands.entry import add_json, command, positive, print_json, values_joined
from transrec.config import ConfigError
from transrec.files import parsed_json
from transrec.runs.answers.query import Query, why_none
from transrec.runs.catalogue import Catalogue
from transrec.runs.histories import UserHistory, ids_of, read_histories, users_of
from transrec.runs.recommender import CANDIDATES_TWICE, FIRST_STAGE_TOP, Recommender, load_run, recommenders
from transrec.terminal import console, shortened

STANDARD_INPUT = "-"
LINES_AT_ONCE = 64  # of a file; standard input is answered line by line
MOST_WARNINGS = 10  # users with unknown items that get a warning of their own; any others are only counted


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    history = one_history(arguments)
    several = len(arguments.adapter) > 1
    users = None if history is not None else asked_users(arguments.histories, several, arguments.repeats)
    documents = []
    first_stage = opened_first_stage(arguments)
    for recommender in opened(arguments, first_stage):
        if users is not None:
            named = {"adapter": str(recommender.folder)} if arguments.adapter else {}
            stages = (first_stage, arguments.first_stage_top)
            answer(recommender, users, arguments.top, arguments.unknown, named, *stages)
        elif history is not None:
            found = recommender.recommend(
                history,
                arguments.top,
                repeats=arguments.repeats,
                first_stage=first_stage,
                first_stage_top=arguments.first_stage_top,
            )
            if arguments.json:
                documents.append(document(recommender, history, found))
            else:
                show(recommender.name, recommender.catalogue, history, found)
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
    if arguments.first_stage_top is None:
        arguments.first_stage_top = FIRST_STAGE_TOP
    elif arguments.first_stage is None:
        parser.error("--first-stage-top needs --first-stage")
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
        "--repeats", action="store_true", help="recommend items of the history again, too (default: leave them out)"
    )
    parser.add_argument(
        "--first-stage", type=Path, metavar="RUN", help="run that finds the candidates which a ranking model ranks"
    )
    parser.add_argument(
        "--first-stage-top",
        type=positive(int),
        metavar="N",
        help=f"number of candidates that the first stage finds: {FIRST_STAGE_TOP}",
    )
    parser.add_argument(
        "--unknown",
        choices=["skip", "error"],
        default="skip",
        help="for item ids of --histories that are not in the catalogue: leave them out and report them (skip, the "
        "default), or stop (error); --history and --item always stop",
    )
    add_json(parser)
    return parser


def opened_first_stage(arguments: argparse.Namespace) -> Recommender | None:
    """The run that finds candidates, with its catalogue; None: there is no first stage."""
    if arguments.first_stage is None:
        return None
    first_stage = load_run(arguments.first_stage, catalogue=arguments.catalogue)
    first_stage.open()
    return first_stage


def opened(arguments: argparse.Namespace, first_stage: Recommender | None) -> Iterator[Recommender]:
    """Open all recommenders, so that errors come early, and yield them; each can be freed before the next is used."""
    left = recommenders(arguments.run, arguments.adapter, arguments.catalogue)
    for recommender in left:
        if first_stage is not None:
            recommender.check_first_stage(first_stage, arguments.top, arguments.first_stage_top)
        recommender.open()
        if first_stage is not None:
            check_catalogues(recommender, first_stage, arguments.unknown)
    while left:
        yield left.pop(0)


def check_catalogues(recommender: Recommender, first_stage: Recommender, unknown: str) -> None:
    """Count the items that the first stage may find although the ranking model's catalogue lacks them.

    Raises:
        ConfigError: there are such items, and `unknown` is "error".
    """
    missing = recommender.catalogue.missing(first_stage.catalogue.item_ids)
    if not missing:
        return
    message = (
        f"{first_stage.folder} has {len(missing):,} items that the catalogue of {recommender.folder} lacks, such as "
        f"{', '.join(map(shortened, missing[:3]))}"
    )
    if unknown == "error":
        raise ConfigError(f"{message}: name one catalogue for both runs with --catalogue")
    print(f"{message}: they are left out", file=sys.stderr)


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


def asked_users(place: str, several: bool, repeats: bool) -> Iterable[UserHistory]:
    """The users of a file, read completely so that its errors come before the first answer; standard input is streamed.

    Args:
        several: the users are needed more than once.
        repeats: for lines without this key.

    Raises:
        ConfigError: the file cannot be read.
        TransRecError: see `read_histories`.
    """
    if place == STANDARD_INPUT:
        stream = read_histories(sys.stdin.buffer, "standard input", repeats)
        return list(stream) if several else stream
    return users_of(place, repeats)


def answer(
    recommender: Recommender,
    users: Iterable[UserHistory],
    top: int,
    unknown: str,
    named: dict[str, str],
    first_stage: Recommender | None = None,
    first_stage_top: int = FIRST_STAGE_TOP,
) -> None:
    """Print a JSON line for each user; `"unknown"` lists the items that were left out, if there are any.

    If there are no recommendations, `"note"` says why.
    """
    catalogue, left_out, concerned = recommender.catalogue, 0, 0
    if isinstance(users, list):
        for user in users:  # so that errors come before the first answer
            check(recommender, user, unknown, first_stage)
    for some in batches(users):
        for user in some:
            check(recommender, user, unknown, first_stage)
        asked = some if first_stage is None else with_candidates(some, first_stage, first_stage_top)
        for user, one, found in zip(some, asked, recommended(recommender, asked, top), strict=True):
            missing = missing_from(recommender, first_stage, one)
            if missing:
                left_out, concerned = left_out + len(missing), concerned + 1
                if concerned <= MOST_WARNINGS:
                    such = ", ".join(map(shortened, missing[:5]))
                    print(f"{user.where}: left out unknown item ids: {such}", file=sys.stderr)
            noted: dict[str, Any] = {"unknown": missing} if missing else {}
            if not found:
                noted["note"] = note(recommender, first_stage, user, one)
            print_json({"user": user.user, **named, **noted, "recommendations": found}, flush=True)
    if left_out:
        such = ", ".join(map(shortened, catalogue.item_ids[:3]))
        print(
            f"unknown item ids left out: {left_out:,}; users concerned: {concerned:,}; the catalogue has ids such as "
            f"{such}",
            file=sys.stderr,
        )


def batches(users: Iterable[UserHistory]) -> Iterator[list[UserHistory]]:
    """The users that are answered together: several of a list, one at a time of a stream."""
    if isinstance(users, list):
        yield from (users[start : start + LINES_AT_ONCE] for start in range(0, len(users), LINES_AT_ONCE))
    else:
        yield from ([user] for user in users)


def with_candidates(users: Sequence[UserHistory], first_stage: Recommender, top: int) -> list[UserHistory]:
    """The users with the items that the first stage finds for them, by its own catalogue."""
    found = recommended(first_stage, users, top)
    return [replace(user, candidates=[row["item_id"] for row in rows]) for user, rows in zip(users, found, strict=True)]


def recommended(recommender: Recommender, users: Sequence[UserHistory], top: int) -> list[list[dict[str, Any]]]:
    """The recommendations for each user from the items that the catalogue has; [] without a history that is needed."""
    queries = [query_of(recommender, user, top) for user in users]
    answerable = [bool(query.history) or not recommender.needs_history for query in queries]
    found = iter(recommender.recommend_many([query for query, can in zip(queries, answerable, strict=True) if can]))
    return [next(found) if can else [] for can in answerable]


def query_of(recommender: Recommender, user: UserHistory, top: int = 1) -> Query:
    """The query for a user, without the ids of the history and the candidates that the catalogue lacks."""
    known = recommender.catalogue.known
    candidates = None if user.candidates is None else known(user.candidates)
    return Query(known(user.history), top, candidates, user.visit, user.exclude, user.filters, user.repeats)


def note(
    recommender: Recommender, first_stage: Recommender | None, user: UserHistory, with_candidates: UserHistory
) -> str:
    """The reason why there are no recommendations for a user, before and after the first stage found candidates."""
    if first_stage is not None and not with_candidates.candidates:
        query = query_of(first_stage, user)
        return f"first stage: {why_none(query, user.history, first_stage.catalogue, first_stage.needs_history)}"
    query = query_of(recommender, with_candidates)
    return why_none(query, user.history, recommender.catalogue, recommender.needs_history)


def missing_from(recommender: Recommender, first_stage: Recommender | None, user: UserHistory) -> list[str]:
    """The ids of a user's items that the catalogue lacks, and those of the history that only the first stage lacks."""
    missing = recommender.catalogue.missing([*user.history, *(user.candidates or ())])
    if first_stage is None:
        return missing
    return missing + recommender.catalogue.known(first_stage.catalogue.missing(user.history))


def check(recommender: Recommender, user: UserHistory, unknown: str, first_stage: Recommender | None = None) -> None:
    """
    Raises:
        ConfigError: a column of the visit is misspelt; the items have no column to filter by; the line names candidates
            although a first stage finds them;
            or, if `unknown` is "error", a catalogue lacks an item of the line, or a model needs a history and the
            user has none.
    """
    try:
        recommender.check_visit(user.visit)
        for one in (recommender, first_stage):
            if one is not None:
                one.catalogue.check_filters(user.filters)
    except ConfigError as error:
        raise ConfigError(f"{user.where}: {error}") from None
    if first_stage is not None and user.candidates is not None:
        raise ConfigError(f"{user.where}: {CANDIDATES_TWICE}")
    if unknown != "error":
        return
    if user.history or recommender.needs_history:
        recommender.catalogue.check(user.history, user.where)
    if first_stage is not None:
        first_stage.catalogue.check(user.history, f"{user.where}, first stage")
    if user.candidates:
        recommender.catalogue.check(user.candidates, f"{user.where}, candidates")


def document(recommender: Recommender, history: Sequence[str], recommended: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The recommendations for a history, as `show` prints them, with full titles and scores."""
    titles = [recommender.catalogue.title(item_id) for item_id in history]
    listed = [{"item_id": item_id, "title": title} for item_id, title in zip(history, titles, strict=True)]
    return {"name": recommender.name, "history": listed, "recommendations": recommended}


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
