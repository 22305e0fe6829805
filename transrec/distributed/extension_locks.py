"""Locks that a killed compilation left behind.

torch compiles an extension (DeepSpeed's CPU optimizer is one) in a folder of its own, under a lock file that says
nothing about its owner. A process killed meanwhile leaves the lock, and whoever needs the extension next waits for ever
without a word.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

SETTLED_SECONDS = 60.0  # a lock this old whose owner is not on this machine is not another machine's either


def clear_stale_lock(extension: str) -> None:
    """Before `extension` is loaded: wait while its lock has an owner, remove the lock of an owner that is gone.

    The owner keeps the lock file open, which can be seen for processes of this machine only; where machines share the
    folder of extensions, give each its own with TORCH_EXTENSIONS_DIR.
    """
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in root.glob(f"**/{extension}/lock"):
        said = False
        while (age := _age(lock)) is not None:
            if age > SETTLED_SECONDS and not any(_holders(lock)):
                lock.unlink(missing_ok=True)
                _say(f"removed {lock}, left by a process that was killed as it compiled {extension}")
                break
            if not said:
                said = True
                _say(f"waiting for the process that compiles {extension}; a minute at most if it was killed ({lock})")
            time.sleep(1.0)


def _age(lock: Path) -> float | None:
    """Seconds since the lock was made; None: there is none."""
    try:
        return time.time() - lock.stat().st_mtime
    except OSError:
        return None


def _holders(lock: Path) -> Iterator[int]:
    """Processes that have the lock file open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.path.samefile(descriptor, lock):
                yield int(descriptor.parts[2])
        except OSError:  # closed meanwhile, or another user's
            continue


def _say(text: str) -> None:
    print(f"transrec: {text}", file=sys.stderr, flush=True)
