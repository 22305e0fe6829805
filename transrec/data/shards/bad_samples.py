"""Unreadable samples: a block of users, or an item.

A run stops at an unreadable sample or leaves it out. Every rank must leave out the same samples, or their orders
differ. So the ranks search for them once, before anything else, and agree on them. A sample that becomes unreadable
later always stops the run.
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

Agree = Callable[[Iterable[int]], set[int]]  # the union of the ranks' numbers; every rank must call it
Skipped = Mapping[int, "BadSample"]  # by number of the block or item


class BadSample(ShardSetError):
    """The part `what` of the file `name` in `folder`, which is unreadable for `reason`."""

    def __init__(self, folder: object, name: str, what: str, reason: str) -> None:
        super().__init__(
            f"{folder}/{name}: {what} cannot be read ({reason}); check the set with "
            f"`python -m data_tools verify {folder}`, or leave out bad samples with data.on_bad_sample=skip"
        )
        self.record = {"file": name, "what": what, "reason": reason}
        self._given = str(folder), name, what, reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickling support: loader processes send the error to the training process."""
        return BadSample, self._given


class Samples(Protocol):
    """The numbered samples of a set."""

    def read(self, number: int, /) -> Any: ...

    def bad(self, number: int, reason: str, /) -> BadSample: ...


def find_bad(samples: Samples, numbers: Iterable[int], agree: Agree) -> dict[int, BadSample]:
    """Unreadable samples that this rank finds among `numbers`, and those that the other ranks find."""
    found: dict[int, BadSample] = {}
    for number in numbers:
        try:
            samples.read(number)
        except BadSample as error:
            found[number] = error
    return {n: found.get(n) or samples.bad(n, "another process cannot read it") for n in sorted(agree(found))}


def check_share(skipped: Skipped, lost: int, total: int, most: float, unit: str) -> None:
    """Check that few enough users or items are unreadable.

    Raises:
        ShardSetError: `lost` of `total` users or items is more than the share `most`.
    """
    if lost > most * total:
        first = next(iter(skipped.values()))
        raise ShardSetError(
            f"{lost} of {total} {unit} cannot be read, more than data.most_bad_share={most} allows; the first: {first}"
        )


def warn(users: Skipped, items: Skipped) -> None:
    """Print a line on stderr if anything is left out."""
    if users or items:
        print(f"left out as unreadable: {len(users)} blocks of users, {len(items)} items", file=sys.stderr)


def write_skipped(run_dir: Path, *skipped: Skipped) -> None:
    """Write one line of JSON per sample left out: file, what, reason; no file if there is none."""
    if lines := [json.dumps(bad.record) + "\n" for samples in skipped for bad in samples.values()]:
        write_text(run_dir / SKIPPED_FILE, "".join(lines))


def digest(*skipped: Skipped) -> str:
    """Hash of the samples left out, which identify the training data of a run."""
    return hashlib.sha256(json.dumps([sorted(samples) for samples in skipped]).encode()).hexdigest()
