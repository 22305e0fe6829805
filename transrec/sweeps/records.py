"""`trials.jsonl`: the outcome of every trial of a sweep, one per line, in the order of the plan.

    {"trial": "00007-3fa2…", "axes": {"method": "houlsby", "seed": 0}, "run": "runs/<hash>",
     "source_run": "runs/<hash>", "status": "done", "error": null, "notes": []}

Run folders are relative to the sweep's folder. Whenever a run ends, the file is replaced atomically.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from transrec.errors import TransRecError
from transrec.files import LinesError, json_lines, write_text

TRIALS_FILE = "trials.jsonl"

Status = Literal["done", "failed", "stopped", "pending"]


class RecordsError(TransRecError, ValueError):
    """The folder does not belong to a sweep, or its list of trials cannot be read."""


@dataclass(frozen=True)
class Record:
    """A line of `trials.jsonl`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    trial: str
    axes: dict[str, Any]  # label or number of each axis, in the order of the grid
    run: str
    source_run: str | None
    status: Status
    error: str | None = None
    notes: list[str] = field(default_factory=list)


_RECORD = TypeAdapter(Record)
_REWRITE = "to rewrite the file, run `transrec sweep` again with the same arguments and --resume"


def write(folder: Path, records: Sequence[Record]) -> None:
    """Write the list of trials to a sweep's folder, replacing the old one."""
    lines = (json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records)
    write_text(folder / TRIALS_FILE, "".join(lines))


def read(folder: Path) -> list[Record]:
    """The trials of a sweep's folder.

    Raises:
        RecordsError: the file is missing, or a line of it is not a trial.
    """
    path, number = folder / TRIALS_FILE, 0
    records = []
    try:
        with path.open("rb") as file:
            for number, values in json_lines(file, path):  # noqa: B007 (the number is for the message)
                records.append(_RECORD.validate_python(values))
    except OSError:
        raise RecordsError(f"{folder} is not the folder of a sweep: it has no {TRIALS_FILE}") from None
    except LinesError as error:
        raise RecordsError(f"{error}: {_REWRITE}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the line"
        raise RecordsError(f"{path}, line {number}, is not a trial ({where}: {fault['msg']}): {_REWRITE}") from None
    return records
