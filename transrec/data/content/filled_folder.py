"""Folders of the node's cache that are filled once, by whichever process comes first, and then only read."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from transrec.files import writing


def filled_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """`target`; unless it is there, `fill` writes its files to the folder given to it, which then takes its name.

    Raises:
        StorageError: the disk is full or read-only.
    """
    if target.exists():
        return target
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        with writing(target):
            fill(partial)
            partial.chmod(0o755)  # shared by all users of the node
            _take_name(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _take_name(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        if not target.exists():  # else another process was first, with the same content
            raise
