"""Users to recommend items to, as JSON lines: `{"user": …, "history": [item ids, oldest first]}`.

A line may also hold `candidates`, the ids of the items to rank, `exclude`, the ids of items that are not recommended,
`filters`, the allowed values of columns of the items, `repeats`, whether items of the history may be recommended again,
and for a ranking model `time` (seconds since 1970), `context` and `profile` (columns of impressions and users).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from transrec.config import ConfigError
from transrec.files import json_lines
from transrec.runs.answers.click_scores import Visit
from transrec.terminal import shortened

_KEYS = {"user", "history", "candidates", "exclude", "filters", "repeats", "time", "context", "profile"}  # of a line


@dataclass(frozen=True)
class UserHistory:
    """A user in a file, and the items that the user has seen."""

    where: str  # for messages: `users.jsonl, line 3, user "ann"`
    user: Any  # as in the file; the line number if the line names no user
    history: list[str]  # item ids, oldest first
    candidates: list[str] | None = None  # ids of the items to rank; None: all
    visit: Visit = field(default_factory=Visit)
    repeats: bool = False  # whether items of the history may be recommended again
    exclude: list[str] = field(default_factory=list)  # ids of items that are not recommended
    filters: dict[str, list[str]] = field(default_factory=dict)  # allowed values of columns of the items


def read_histories(lines: Iterable[bytes], name: str | Path, repeats: bool = False) -> Iterator[UserHistory]:
    """The users of a file, one per line.

    Args:
        name: the file, for messages.
        repeats: for lines without this key.

    Raises:
        TransRecError: a line is not JSON, or not an object with a list of ids; the message names the line and user.
    """
    for number, record in json_lines(lines, name):
        where = f"{name}, line {number}"
        if not isinstance(record, dict) or "history" not in record:
            raise ConfigError(f'{where}: expected {{"user": …, "history": [item ids]}}')
        user = record.get("user", number)
        _check_keys(record, where)
        where = f"{where}, user {shortened(json.dumps(user, ensure_ascii=False))}"
        candidates = record.get("candidates")
        chosen = None if candidates is None else ids_of(candidates, where, "candidates")
        again = record.get("repeats", repeats)
        if not isinstance(again, bool):
            raise ConfigError(f"{where}: `repeats` is true or false, found {_shown(again)}")
        history, visit = ids_of(record["history"], where), _visit(record, where)
        exclude = ids_of(record.get("exclude", []), where, "exclude")
        yield UserHistory(where, user, history, chosen, visit, again, exclude, _filters(record, where))


def _check_keys(record: dict[str, Any], where: str) -> None:
    """Refuse `k`, and keys that look misspelt, because they would be ignored; allow other keys."""
    if "k" in record:
        raise ConfigError(f"{where}: 'k' is for requests to `transrec serve`: use --top")
    for key in record.keys() - _KEYS:
        if near := get_close_matches(key, _KEYS - record.keys(), 1):
            raise ConfigError(f"{where}: {shortened(repr(key))} is not a known key: did you mean {near[0]!r}?")


def users_of(place: Path | str, repeats: bool = False) -> list[UserHistory]:
    """The users of a file.

    Args:
        repeats: for lines without this key.

    Raises:
        ConfigError: the file cannot be read.
        TransRecError: see `read_histories`.
    """
    try:
        with Path(place).open("rb") as file:
            return list(read_histories(file, place, repeats))
    except OSError as error:
        raise ConfigError(f"cannot read {place}: {error.strerror}") from None


def ids_of(history: Any, where: str, what: str = "the history") -> list[str]:
    """The ids of a parsed JSON list; a whole number stands for the id with these digits.

    Raises:
        ConfigError: `history` is not a list, or holds anything but strings and whole numbers.
    """
    if not isinstance(history, list):
        raise ConfigError(f"{where}: {what} must be a list of item ids, found {_shown(history)}")
    for item in history:
        if not isinstance(item, str | int) or isinstance(item, bool):
            raise ConfigError(f"{where}: an item id is a string or a whole number, found {_shown(item)}")
    return [str(item) for item in history]


def _visit(record: dict[str, Any], where: str) -> Visit:
    time, columns = record.get("time", 0), [record.get(name, {}) for name in ("context", "profile")]
    if not isinstance(time, int) or isinstance(time, bool):
        raise ConfigError(f"{where}: `time` is a whole number of seconds since 1970, found {_shown(time)}")
    for name, values in zip(("context", "profile"), columns, strict=True):
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: `{name}` is an object of columns, found {_shown(values)}")
    context, profile = ({key: _text(value) for key, value in values.items()} for values in columns)
    try:
        return Visit(str(record.get("user", "")), time, context, profile)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _filters(record: dict[str, Any], where: str) -> dict[str, list[str]]:
    filters = record.get("filters", {})
    listed = isinstance(filters, dict) and all(isinstance(values, list) and values for values in filters.values())
    if not listed or any(not isinstance(value, str) for values in filters.values() for value in values):
        raise ConfigError(f"{where}: `filters` gives each column a list of texts, found {_shown(filters)}")
    found: dict[str, list[str]] = filters
    return found


def _text(value: Any) -> str | None:
    """A column's value as the shards store it."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
