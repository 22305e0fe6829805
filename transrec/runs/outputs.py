"""The output folder of an export: only one process writes to it, and it ends up either complete or unchanged.

A new output is written to a temporary folder beside it, which is renamed at the end. For an existing folder, files are
written to a subfolder and moved at the end, because a mount point, such as a container's volume, cannot be replaced. A
process that is killed during these moves leaves an output without its last file.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from transrec.config import ConfigError
from transrec.data.shards.schema import LOST_AND_FOUND
from transrec.files import move_files, rename_folder, writing
from transrec.locks import LOCK_FILE, sole_writer

PARTIAL = ".partial"


@contextmanager
def output_folder(
    output: Path,
    last: str = "config.json",
    replaced: Collection[str] | None = None,
    remedy: str = "choose another --output",
) -> Iterator[Path]:
    """Yield an empty folder whose contents are moved to `output` if the block ends without an error.

    Args:
        last: the file to move last.
        replaced: the files of an earlier export that `output` may hold; None: it must be new or empty.
        remedy: the end of the error messages.

    Raises:
        BusyError: another process is writing to `output`.
        ConfigError: `output` is a file or, without `replaced`, not empty.
        StorageError: `output` cannot be written.
    """
    place = Path(os.path.realpath(output))  # a link is followed, not replaced
    if place.exists() and not place.is_dir():
        raise ConfigError(f"{output} is a file: {remedy}")
    with sole_writer(place, f"{output} is being written", remedy):
        if replaced is None and not _is_free(place):
            raise ConfigError(f"{output} is not empty: {remedy}")
        partial = place / PARTIAL if place.exists() else place.with_name(f".{place.name}{PARTIAL}")
        with writing(output):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        try:
            yield partial
            with writing(output):
                if partial.parent == place:
                    move_files(partial, place, last, replaced or ())
                else:
                    rename_folder(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _is_free(place: Path) -> bool:
    """Whether the folder is missing or empty, or holds only a lock and what a killed export left."""
    if not place.exists():
        return True
    others = (path.name for path in place.iterdir() if not path.name.startswith(LOCK_FILE))
    return {*others} <= {PARTIAL, LOST_AND_FOUND}
