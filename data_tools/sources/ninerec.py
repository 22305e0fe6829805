"""NineRec (https://github.com/westlake-repl/NineRec): a folder such as `QB/`, without headers.

QB_item.csv        item, title in Chinese, title in English (optional)
QB_pair.csv        user, item, timestamp (in --timestamp-unit); Bili_2M has the item first
QB_behaviour.tsv   user<TAB>item item …, oldest first; QB and TN have no timestamps, so this is read instead
QB_cover/          <item>.jpg; optional. A folder *_cover that several sets share is used if it is the only such folder.

The title is the English one or, if missing, the Chinese one, which is also kept in `title_zh`.
"""

from collections.abc import Iterator
from pathlib import Path

from data_tools.reading.csv_files import first_record, read_headless_csv
from data_tools.reading.folder_source import TimedFolderSource
from data_tools.reading.image_folder import ImageFolder
from data_tools.reading.input_files import visible_files
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import iterate_rows, to_interactions, to_strings
from data_tools.rejects import RejectSink
from data_tools.source import Batch, Item, SourceError, Totals
from data_tools.sources.sequences import read_user_sequences

TITLES = ["title_zh", "title_en"]


class NineRecSource(TimedFolderSource):
    """Reads the folder.

    Raises:
        SourceError: the folder does not hold exactly one data set, has no interactions, or a file has other columns.
    """

    input_is = "folder of one data set"

    def __init__(self, folder: Path, timestamp_unit: str = "s") -> None:
        super().__init__(folder, timestamp_unit)
        found = visible_files(folder, "*_item.csv")
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise SourceError(f"{folder} must hold exactly one file *_item.csv, found {names}")
        [self._items] = found
        self._name = self._items.name.removesuffix("_item.csv")
        self._titles = TITLES[: _count_columns(self._items, {2, 3}) - 1]
        self._pairs, self._sequences = self._find_interactions(folder)
        self._images = _find_covers(folder, self._name)

    def totals(self) -> Totals:
        return Totals(count_lines([self._items]), count_lines([self._pairs]) if self._pairs else None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for raw in read_headless_csv(self._items, ["item_id", *self._titles], reject):
            batch = to_strings(raw, "item_id", reject)
            for line, row in iterate_rows(batch):
                item_id = row["item_id"]
                title = row.get("title_en", "").strip() or row["title_zh"]
                yield Item(
                    file=batch.file,
                    line=line,
                    item_id=item_id,
                    title=title,
                    text=title,
                    fields={"title_zh": row["title_zh"]},
                    image=self._images.locate(f"{item_id}.jpg", batch.file, line, reject) if self._images else None,
                )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        if self._sequences:
            yield from read_user_sequences(self._sequences, reject)
        if self._pairs:
            for batch in read_headless_csv(self._pairs, _pair_columns(self._pairs), reject):
                yield to_interactions(batch, reject, self.unit)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        return iter(())

    def _find_interactions(self, folder: Path) -> tuple[Path | None, Path | None]:
        """(pairs, None) if the pairs have times, otherwise (None, sequences)."""
        pairs, sequences = folder / f"{self._name}_pair.csv", folder / f"{self._name}_behaviour.tsv"
        if pairs.is_file() and _count_columns(pairs, {2, 3}) == 3:
            return pairs, None
        if sequences.is_file():
            return None, sequences
        raise SourceError(f"{folder} needs {pairs.name} with timestamps, or {sequences.name}")


def _count_columns(path: Path, allowed: set[int]) -> int:
    columns = len(first_record(path))
    if columns not in allowed:
        raise SourceError(f"{path}, line 1: {columns} columns, expected {' or '.join(map(str, sorted(allowed)))}")
    return columns


def _pair_columns(path: Path) -> list[str]:
    """Column names of the pairs; ids of users begin with `u`, ids of items with `v`, which shows their order."""
    first, second, _ = first_record(path)
    swapped = first.startswith("v") and second.startswith("u")
    return ["item_id", "user_id", "timestamp"] if swapped else ["user_id", "item_id", "timestamp"]


def _find_covers(folder: Path, name: str) -> ImageFolder | None:
    others = sorted(path for path in folder.glob("*_cover") if path.is_dir() and not path.name.startswith("."))
    return ImageFolder.find(others[0] if len(others) == 1 else folder / f"{name}_cover")
