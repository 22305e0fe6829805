"""Samples that cannot be read: a block of users, an item.

A run stops at one, or leaves it out. What is left out must be the same on every rank, or their orders differ: so it is
looked for once, before anything else, and agreed on. What cannot be read later stops the run all the same.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from transrec.data.shards.schema import ShardSetError
from transrec.files import write_text

SKIPPED_FILE = "skipped.jsonl"

Agree = Callable[[Iterable[int]], set[int]]  # the numbers that any rank gives; every rank must call it
Skipped = Mapping[int, "BadSample"]  # by number of the block or the item


class BadSample(ShardSetError):
    """`what` of the file `name`, unreadable for `reason`; the file lies at `folder`."""

    def __init__(self, folder: object, name: str, what: str, reason: str) -> None:
        super().__init__(
            f"{folder}/{name}: {what} cannot be read ({reason}); check the set with "
            f"`python -m data_tools verify {folder}`, or leave out what is bad with data.on_bad_sample=skip"
        )
        self.record = {"file": name, "what": what, "reason": reason}
        self._given = str(folder), name, what, reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Loader processes send it to the one that trains."""
        return BadSample, self._given


class Samples(Protocol):
    """Numbered samples of a set."""

    def read(self, number: int, /) -> Any: ...

    def bad(self, number: int, reason: str, /) -> BadSample: ...


def find_bad(samples: Samples, numbers: Iterable[int], agree: Agree) -> dict[int, BadSample]:
    """What this rank finds unreadable of `numbers`, and what the others find of theirs."""
    found: dict[int, BadSample] = {}
    for number in numbers:
        try:
            samples.read(number)
        except BadSample as error:
            found[number] = error
    return {n: found.get(n) or samples.bad(n, "another process cannot read it") for n in sorted(agree(found))}


def check_share(skipped: Skipped, lost: int, total: int, most: float, unit: str) -> None:
    """
    Raises:
        ShardSetError: the `lost` of `total` users or items are more than the share `most`.
    """
    if lost > most * total:
        first = next(iter(skipped.values()))
        raise ShardSetError(
            f"{lost} of {total} {unit} cannot be read, more than data.most_bad_share={most} allows; the first: {first}"
        )


def warn(users: Skipped, items: Skipped) -> None:
    """A line on stderr, if anything is left out."""
    if users or items:
        print(f"left out as unreadable: {len(users)} blocks of users, {len(items)} items", file=sys.stderr)


def write_skipped(run_dir: Path, *skipped: Skipped) -> None:
    """One line of JSON per sample left out: file, what, reason; no file if nothing is."""
    if lines := [json.dumps(bad.record) + "\n" for samples in skipped for bad in samples.values()]:
        write_text(run_dir / SKIPPED_FILE, "".join(lines))


def digest(*skipped: Skipped) -> str:
    """Which samples are left out, as a hash: they belong to what a run was trained on."""
    return hashlib.sha256(json.dumps([sorted(samples) for samples in skipped]).encode()).hexdigest()
