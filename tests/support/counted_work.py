"""A work in parts that can be stopped, and a process that takes part in it.

    python counted_work.py TARGET PARTS SECONDS

Part p writes ten bytes p to its place in `numbers.bin` and takes so many seconds. Each process appends a line for each
part to `log` beside the target.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from transrec.data.content.filled_folder import filled_folder
from transrec.work import Advance, PartWriter

OF_A_PART = 10


class CountedWork:
    """Calls `before` with the number of each part that is filled."""

    name, unit = "counting", "items"

    def __init__(self, parts: int, before: Callable[[int], None], total_bytes: int | None = None) -> None:
        self.sizes = [OF_A_PART] * parts
        self.total_bytes = OF_A_PART * parts if total_bytes is None else total_bytes
        self._before = before

    def begin(self, folder: Path) -> None:
        with (folder / "numbers.bin").open("wb") as file:
            file.truncate(OF_A_PART * len(self.sizes))

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None:
        with out.at("numbers.bin", part * OF_A_PART) as write:
            write(bytes([part] * (OF_A_PART // 2)))
            self._before(part)
            write(bytes([part] * (OF_A_PART // 2)))
            advance(OF_A_PART)

    def finish(self, folder: Path) -> None: ...


def expected(parts: int) -> bytes:
    """The content of `numbers.bin`."""
    return b"".join(bytes([part] * OF_A_PART) for part in range(parts))


def main() -> None:
    target, parts, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

    def slowly(part: int) -> None:
        time.sleep(seconds)
        with (target.parent / "log").open("a") as log:
            log.write(f"{os.getpid()} {part}\n")

    filled_folder(target, lambda: CountedWork(parts, slowly))


if __name__ == "__main__":
    main()
