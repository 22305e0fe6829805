"""Users to recommend for, as JSON lines: `{"user": …, "history": [item ids, oldest first]}`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transrec.config import ConfigError
from transrec.files import json_lines


@dataclass(frozen=True)
class UserHistory:
    """A user of a file, and the items that the user has seen."""

    where: str  # for messages: `users.jsonl, line 3, user "ann"`
    user: Any  # as in the file; without one, the number of the line
    history: list[str]  # item ids, oldest first


def read_histories(lines: Iterable[bytes], name: str | Path) -> Iterator[UserHistory]:
    """The users of a file, one per line; `name` is the file, for messages.

    Raises:
        TransRecError: a line is not JSON, or not an object with a list of ids; the message names line and user.
    """
    for number, record in json_lines(lines, name):
        where = f"{name}, line {number}"
        if not isinstance(record, dict) or "history" not in record:
            raise ConfigError(f'{where}: expected {{"user": …, "history": [item ids]}}')
        user = record.get("user", number)
        where = f"{where}, user {json.dumps(user, ensure_ascii=False)}"
        yield UserHistory(where, user, ids_of(record["history"], where))


def ids_of(history: Any, where: str) -> list[str]:
    """The ids of a parsed JSON list; a number stands for the id of its digits.

    Raises:
        ConfigError: it is no list, or holds anything but strings and whole numbers.
    """
    if not isinstance(history, list):
        raise ConfigError(f"{where}: the history must be a list of item ids, found {_shown(history)}")
    for item in history:
        if not isinstance(item, str | int) or isinstance(item, bool):
            raise ConfigError(f"{where}: an item id is a string or a whole number, found {_shown(item)}")
    return [str(item) for item in history]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
