"""Removes locks left behind by a killed compilation.

torch compiles an extension (such as DeepSpeed's CPU optimizer) in its own folder, under a lock file that does not
record its owner. A process killed during the compilation leaves the lock, and the next process that needs the extension
waits for ever without a message.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

SETTLED_SECONDS = 60.0  # an older lock without an owner on this machine is stale


def clear_stale_lock(extension: str) -> None:
    """Wait while the lock of `extension` has an owner, and remove a lock without one. Call before loading it.

    The owner keeps the lock file open, which is visible only on its own machine; if machines share the folder of
    extensions, give each its own with TORCH_EXTENSIONS_DIR.
    """
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in root.glob(f"**/{extension}/lock"):
        said = False
        while (age := _age(lock)) is not None:
            if age > SETTLED_SECONDS and not any(_holders(lock)):
                lock.unlink(missing_ok=True)
                _say(f"removed {lock}, left by a process that was killed while compiling {extension}")
                break
            if not said:
                said = True
                _say(f"waiting for the process that compiles {extension}; at most a minute if it was killed ({lock})")
            time.sleep(1.0)


def _age(lock: Path) -> float | None:
    """Age of the lock in seconds, or None if there is no lock."""
    try:
        return time.time() - lock.stat().st_mtime
    except OSError:
        return None


def _holders(lock: Path) -> Iterator[int]:
    """Ids of the processes that have the lock file open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samefile(descriptor, lock):
                yield int(descriptor.parts[2])
        except OSError:  # closed in the meantime, or another user's
            continue


def _say(text: str) -> None:
    print(f"transrec: {text}", file=sys.stderr, flush=True)
