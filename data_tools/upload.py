"""Sends a finished set of shards to an fsspec URL; it is built on this machine first, and `index.json` is sent last."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_tools.errors import DataToolsError
from data_tools.progress import step
from transrec.data.shards.remote import filesystem, parse_place, public
from transrec.data.shards.schema import CARD_FILE, INDEX_FILE, ShardIndex


@contextmanager
def upload_after(output: str) -> Iterator[Path]:
    """Yield the folder to build in: `output` itself or, for a URL, a temporary folder that is uploaded at the end."""
    place = parse_place(output)
    if isinstance(place, Path):
        yield place
        return
    refuse(place)
    folder = Path(tempfile.mkdtemp(prefix="transrec-build-"))
    try:
        yield folder / "shards"
        upload(folder / "shards", place)
    finally:
        shutil.rmtree(folder / "shards", ignore_errors=True)
        with suppress(OSError):  # not empty if a failed build left its rejects
            folder.rmdir()


def refuse(url: str) -> None:
    """Refuse a URL that cannot take a new set of shards.

    Raises:
        DataToolsError: nothing can be written there, or it already holds a set of shards.
    """
    if url.startswith(("http://", "https://")):
        raise DataToolsError(f"{public(url)}: cannot upload over HTTP; build to a folder, or to s3:// or similar")
    files, path = filesystem(url)
    if files.exists(f"{path}/{INDEX_FILE}"):
        raise DataToolsError(f"{public(url)} already holds a set of shards: choose another --output or delete it")


def upload(folder: Path, url: str) -> None:
    """Send every file of the set; a reader finds a complete set or none, because `index.json` comes last.

    Raises:
        DataToolsError: a file arrived with a different size.
    """
    index = ShardIndex.load(folder)
    files, path = filesystem(url)
    files.makedirs(path, exist_ok=True)
    with step("upload", sum(entry.bytes for entry in index.files)) as advance:
        for name in (*(entry.name for entry in index.files), CARD_FILE, INDEX_FILE):
            if not (folder / name).exists():
                continue
            size = (folder / name).stat().st_size
            files.put_file(str(folder / name), f"{path}/{name}")
            if files.size(f"{path}/{name}") != size:
                raise DataToolsError(f"{public(url)}/{name} arrived incomplete: run the build again")
            advance(size)
