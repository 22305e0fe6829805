"""Reads files with one JSON object per line, compressed with gzip or not.

Lines are parsed one by one with the standard library, because Arrow's reader guesses one schema per block, which real
logs do not follow, and cannot report the line of an error.

Some data sets (Amazon 2014, Steam) have Python literals instead of JSON: `{'asin': u'0558925278'}`. With `literals`, a
line that is not JSON is read by `ast.literal_eval`, which executes nothing. Such lines are limited in length,
because the parser needs many times their size in memory, and their values must be possible in JSON.
"""

import ast
import json
import warnings
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_tools.reading.text_blocks import describe_bad_utf8, is_utf8, line_blocks
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import Batch

_LONGEST_LITERAL = 2**20  # characters
_EXACT = 2**53  # from here on a float skips whole numbers


def read_json_lines(
    path: Path, names: Sequence[str], reject: RejectSink, label: str | None = None, literals: bool = False
) -> Iterator[Batch]:
    """Yield batches of the values of these keys as strings, null where an object lacks the key.

    Text stays as it is; any other value is written as JSON.
    """
    for batch in _parse_blocks(path, reject, label or path.name, literals):
        lines, objects = zip(*batch, strict=True)
        columns = [pa.array([to_text(value.get(name)) for value in objects], pa.string()) for name in names]
        yield Batch(label or path.name, pa.array(lines), pa.RecordBatch.from_arrays(columns, list(names)))


def read_objects(
    path: Path, reject: RejectSink, label: str | None = None, literals: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) of each line; lines that are not a JSON object in UTF-8 go to `reject`."""
    for batch in _parse_blocks(path, reject, label or path.name, literals):
        yield from batch


def to_text(value: Any) -> str | None:
    """Text and None unchanged, any other value as JSON."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if type(value) is int else json.dumps(value, ensure_ascii=False)


def _parse_blocks(
    path: Path, reject: RejectSink, label: str, literals: bool
) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    start, load = 1, _load_literal if literals else _load
    for block in line_blocks(path):
        lines = block.split(b"\n")[:-1]
        parsed = ((start + index, _parse(line, start + index, label, reject, load)) for index, line in enumerate(lines))
        if objects := [(number, value) for number, value in parsed if value is not None]:
            yield objects
        start += len(lines)


def parse_object(data: bytes, number: int, label: str, reject: RejectSink) -> dict[str, Any] | None:
    """The JSON object in `data`, which is line `number` of the file called `label`; None for nothing or, with a reject,
    anything else."""
    return _parse(data.removeprefix(BOM_UTF8), number, label, reject, _load)


def _parse(
    line: bytes, number: int, label: str, reject: RejectSink, load: Callable[[str], Any]
) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        value = load(line.decode("utf-8"))
        if isinstance(value, dict) and _is_plain_text(line, value):
            return value
        reason, detail = Reason.BAD_JSON, "not an object" if not isinstance(value, dict) else "half a surrogate pair"
    except UnicodeDecodeError:
        reason, detail = Reason.INVALID_UTF8, describe_bad_utf8(line)
    except (ValueError, RecursionError) as error:
        reason, detail = Reason.BAD_JSON, str(error)
    reject(Reject(label, number, reason, detail))
    return None


def _load(text: str) -> Any:
    return json.loads(text, parse_float=_parse_float, parse_constant=lambda _: None)


def _load_literal(text: str) -> Any:
    try:
        return _load(text)
    except ValueError as not_json:
        if len(text) > _LONGEST_LITERAL:
            raise ValueError(
                f"{not_json}; the line is too long to be read as a Python literal (more than {_LONGEST_LITERAL:,} "
                "characters)"
            ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know, such as \\d
            value = ast.literal_eval(text.strip())
        return _load(json.dumps(value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor a Python literal with values that JSON has: {error}") from None


def _parse_float(text: str) -> int | float | str:
    """The number, whole if it is (an id 7.0 is the id 7), or the text if a float would be another number."""
    number = float(text)
    if abs(number) >= _EXACT:
        return text
    return int(number) if number.is_integer() else number


def _is_plain_text(line: bytes, value: dict[str, Any]) -> bool:
    r"""Whether UTF-8 can encode the strings: `"\ud800"` is valid JSON but not a character."""
    return b"\\u" not in line or is_utf8(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
