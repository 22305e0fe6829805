"""Items in webdataset tars (https://github.com/webdataset/webdataset), and interactions in a file beside them.

*.tar                                consecutive members `KEY.json`, `KEY.txt`, `KEY.jpg` (or .png, …) are an item
interactions.tsv|.csv|.parquet       user_id, item_id, timestamp (in --timestamp-unit), rating (optional)

What the format leaves open: a key is the name of a member up to the first dot after its last slash. The id of an item
is `item_id` of its JSON object or, without one, its key; the title is the object's `title`, the text its `text` or the
content of `KEY.txt`; the object's other values are columns of the item. Of several images the first counts. Other
members are not read; a key with no other members, for example because the key has a dot, is rejected. Compressed tars
must be unpacked. The line of a reject is the number of the item in its tar.
"""

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data_tools.reading.csv_files import read_csv, require_csv
from data_tools.reading.folder_source import TimedFolderSource
from data_tools.reading.input_files import visible_files
from data_tools.reading.json_lines import parse_object, to_text
from data_tools.reading.row_files import column_names, count_rows, find_row_file, read_rows
from data_tools.reading.text_blocks import count_lines, is_utf8
from data_tools.reading.time_formats import READ_AS_CSV
from data_tools.reading.typed_columns import to_interactions
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import Batch, Item, SourceError, Totals

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_LONGEST = {"json": 2**24, "txt": 2**24} | dict.fromkeys(_IMAGES, 2**28)  # bytes; a longer member is rejected
_COLUMNS = {"user_id", "item_id", "timestamp"}


class _Member(NamedTuple):
    key: str
    kind: str  # the name after the key, in lower case
    content: bytes | None  # None: longer than `_LONGEST`


class WebDatasetSource(TimedFolderSource):
    """Reads the folder.

    Raises:
        SourceError: there is no tar or no file of interactions, or a column is missing.
    """

    input_is = "folder of *.tar with KEY.json, KEY.txt, KEY.jpg …, and interactions.tsv, .csv or .parquet"

    def __init__(self, folder: Path, timestamp_unit: str = "s") -> None:
        super().__init__(folder, timestamp_unit)
        self._tars = visible_files(folder, "*.tar")
        if not self._tars:
            raise SourceError(f"{folder} has no *.tar")
        comma_separated, table = folder / "interactions.csv", find_row_file(folder, "interactions")
        if table is None and not comma_separated.is_file():
            raise SourceError(f"{folder} has no interactions.tsv, interactions.csv or interactions.parquet")
        self._is_csv = table is None
        self._interactions = table or require_csv(comma_separated, _COLUMNS)
        if table is not None and (missing := _COLUMNS - set(found := column_names(table))):
            raise SourceError(f"{table}: no column {', '.join(sorted(missing))}; it has {', '.join(found)}")

    def totals(self) -> Totals:
        return Totals(None, count_lines([self._interactions]) if self._is_csv else count_rows(self._interactions))

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for path in self._tars:
            samples = groupby(_members(path), key=lambda member: member.key)
            for number, (key, members) in enumerate(samples, 1):
                yield from _to_items(path.name, number, key, list(members), reject)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        path = self._interactions
        for batch in read_csv(path, reject) if self._is_csv else read_rows(path, reject):
            yield to_interactions(batch, reject, self.unit, READ_AS_CSV)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())


def _members(path: Path) -> Iterator[_Member]:
    """The members of a tar that are read, in their order.

    Raises:
        SourceError: not a tar, or not complete.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                folder, name = PurePosixPath(info.name).parent, PurePosixPath(info.name).name
                stem, _, kind = name.partition(".")
                if not info.isreg() or not stem or (kind := kind.lower()).rpartition(".")[2] not in _LONGEST:
                    continue
                if kind not in _LONGEST:  # a dot in the key, or a further member such as KEY.mask.png
                    yield _Member(str(folder / stem), kind, b"")
                    continue
                file = tar.extractfile(info) if info.size <= _LONGEST[kind] else None
                yield _Member(str(folder / stem), kind, file.read() if file else None)
            end = tar.offset
        with path.open("rb") as raw:  # `tarfile` takes a damaged header for the end of the tar
            raw.seek(end)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("the end-of-archive marker is missing")
    except tarfile.TarError as error:
        raise SourceError(
            f"{path} is not a complete, uncompressed tar ({error}): download it again, or unpack it"
        ) from None


def _to_items(file: str, number: int, key: str, members: list[_Member], reject: RejectSink) -> Iterator[Item]:
    """The item of these members, or none, with a reject."""
    if all(member.kind not in _LONGEST for member in members):
        detail = f"{key}.{members[0].kind}: the key is {key}, up to the first dot, and has no json, txt or image"
        reject(Reject(file, number, Reason.NO_TEXT, detail))
        return
    contents: dict[str, bytes] = {}
    for member in members:
        if member.content is None:
            reason = Reason.BAD_IMAGE if member.kind in _IMAGES else Reason.BAD_JSON
            reject(Reject(file, number, reason, f"{key}.{member.kind} is longer than {_LONGEST[member.kind]:,} bytes"))
        else:
            contents.setdefault(member.kind, member.content)
    if not is_utf8(contents.get("txt", b"")):
        reject(Reject(file, number, Reason.INVALID_UTF8, f"{key}.txt is not UTF-8"))
        return
    values = parse_object(contents.get("json", b"{}"), number, file, reject)
    if values is None:
        return
    fields = {name: to_text(value) or "" for name, value in values.items()}
    text = fields.pop("text", "") or contents.get("txt", b"").decode("utf-8-sig")
    image = next((contents[kind] for kind in contents if kind in _IMAGES), None)
    yield Item(file, number, fields.pop("item_id", "") or key, fields.pop("title", ""), text, fields, image)
