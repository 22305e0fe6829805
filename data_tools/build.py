"""Builds a folder of shards from a source: items, interactions, impressions, users, a card, and `index.json` last."""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_tools.card import write_card
from data_tools.errors import DataToolsError
from data_tools.executor import Executor, InProcess
from data_tools.filters import NO_FILTERS, Filters
from data_tools.impressions import APART, context_of, count_apart, heads_of
from data_tools.indexing import RowStage, write_item_ids
from data_tools.item_shards import ItemShards, LoadImages
from data_tools.k_core import find_core
from data_tools.profiles import columns_of, stage_profiles
from data_tools.progress import step
from data_tools.rejects import RejectLog, ignore
from data_tools.shard_writer import describe_file
from data_tools.source import IMPRESSION_COLUMNS, INTERACTION_COLUMNS, ImpressionSource, Source, SourceError
from data_tools.stage import cut_tasks
from data_tools.user_shards import GroupUsers, UserShards
from transrec.data.shards.schema import (
    BLOCKS_FILE,
    CARD_FILE,
    CATALOGUE_FILE,
    INDEX_FILE,
    LOST_AND_FOUND,
    REJECTS_FILE,
    SCHEMA_VERSION,
    Counts,
    FileEntry,
    ShardIndex,
    hash_item_ids,
    user_schema,
)
from transrec.locks import LOCK_FILE, sole_writer

BLOCK_USERS = 256
BLOCK_IMPRESSIONS = 2**15  # so that a block of heavy users takes a few MB
DEFAULT_SHARD_BYTES = 128 * 2**20
_PARTIAL = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def build(
    source: Source,
    name: str,
    output: Path,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    strict: bool = False,
    *,
    image_size: int | None = None,
    raw_text: bool = False,
    filters: Filters = NO_FILTERS,
    executor: AbstractContextManager[Executor] | None = None,
) -> ShardIndex:
    """Write `source`, called `name`, as shards into the new folder `output`. Without `raw_text`, markup is removed.

    The build works in `<output>.partial`, or in `<output>/.partial` if the folder is there already, because a mount
    point cannot be replaced. A failed build leaves only its rejects there, if any (a note on the error gives the path);
    a killed build may leave anything; the next build removes it. `index.json` comes last, so `output` is a complete set
    of shards or none. Every executor gives the same bytes. The executor is entered here so that no task is running when
    a failed build is cleaned up.

    A source without any row of interactions or impressions, usable or not, gives a catalogue of items without users.

    Raises:
        DataToolsError: the output exists or cannot be written, nothing in the source is usable, or, with `strict`, one
            row is not usable.
        BusyError: another process is building the same output.
    """
    with _sole_builder(output), _new_folder(output) as folder:
        stage = folder / "stage"
        stage.mkdir()
        with executor or InProcess() as tasks, RejectLog(folder / REJECTS_FILE, strict) as reject:
            items = ItemShards(folder, shard_bytes, raw_text)
            _write_items(source, items, folder / "stage", LoadImages(image_size), tasks, reject)
            write_item_ids(items.item_ids, stage)
            rejected_items = reject.counts.total()
            group, dropped = _stage_users(source, len(items.item_ids), filters, stage, tasks, reject)
            without_rows = _has_no_rows(group, dropped) and reject.counts.total() == rejected_items
            users = _write_users(group, folder, shard_bytes, tasks, reject)
            dropped.update(users.dropped)
            if not users.items.any() and not without_rows:
                raise _nothing_left(source, dropped, reject)
        shutil.rmtree(stage)
        pq.write_table(items.catalogue(users.items[1:]), folder / CATALOGUE_FILE, compression="zstd")
        chosen = ({} if image_size is None else {"image_size": image_size}) | ({"raw_text": True} if raw_text else {})
        index = ShardIndex(
            schema_version=SCHEMA_VERSION,
            build={"source": name, "shard_bytes": shard_bytes, **chosen, **filters.options(), **source.options()},
            counts=_count(items, users, reject, dropped),
            text_fields=items.text_fields,
            heads=heads_of(group.impressions),
            context_columns=context_of(group.impressions),
            user_columns=columns_of(group.profiles),
            item_ids_sha256=hash_item_ids(items.item_ids),
            files=_files(folder, items, users, reject),
        )
        write_card(folder, index, _history_lengths(folder))
        _write_index(index, folder / INDEX_FILE)
    return index


def _sole_builder(output: Path) -> AbstractContextManager[None]:
    """Lock `output`, because a second build would remove the `.partial` folder of the first."""
    place = Path(os.path.realpath(output))  # unlike `resolve`, it does not raise on a link to itself
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(place.parent, error) from None
    return sole_writer(place, f"{output} is being built", "choose another --output")


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder; move its content to `output` when the `with` block ends without an error."""
    output = Path(os.path.realpath(output))  # a link is followed, not replaced
    if (output / INDEX_FILE).exists():
        raise DataToolsError(f"{output} already holds a set of shards: choose another --output or delete it")
    if output.is_symlink() or not _is_free(output):
        raise DataToolsError(f"{output} exists and is not an empty folder: choose another --output")
    partial = output / _PARTIAL if output.exists() else output.with_name(output.name + _PARTIAL)
    _make_empty(partial)
    try:
        yield partial
        _sync_folder(partial)
        _move(partial, output)
    except BaseException as caught:
        error = _full_disk(output) if isinstance(caught, OSError) and caught.errno in _FULL else caught
        if _leave_rejects(partial):
            error.add_note(f"rows rejected before the error: {partial / REJECTS_FILE}")
        if error is caught:
            raise
        raise error from None


def _is_free(output: Path) -> bool:
    """Whether `output` does not exist, or is a folder with nothing but the remains of an interrupted build."""
    if not output.is_dir():
        return not output.exists()
    if (output / _PARTIAL / INDEX_FILE).exists():  # interrupted while it moved its files
        for name in (CARD_FILE, *(entry.name for entry in ShardIndex.load(output / _PARTIAL).files)):
            (output / name).unlink(missing_ok=True)
    others = (path.name for path in output.iterdir() if not path.name.startswith(LOCK_FILE))
    return {*others} <= {_PARTIAL, LOST_AND_FOUND}


def _move(partial: Path, output: Path) -> None:
    if partial.parent == output:  # perhaps a mount point or a shell's working directory, so the folder itself is kept
        for path in sorted(partial.iterdir(), key=lambda path: path.name == INDEX_FILE):
            path.rename(output / path.name)
        partial.rmdir()
        _sync_folder(output)
    else:
        partial.rename(output)
    _sync_folder(output.parent)


def _make_empty(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise _cannot_make(folder, error) from None


def _cannot_make(folder: Path, error: OSError) -> DataToolsError:
    return DataToolsError(
        f"cannot create the folder {folder} ({error.strerror}): choose an --output where you can write"
    )


def _full_disk(output: Path) -> DataToolsError:
    return DataToolsError(f"the disk of {output} is full: free some space and build again")


def _leave_rejects(folder: Path) -> bool:
    """Remove everything but the rejects, or the whole folder if there are none; return whether there are rejects."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != REJECTS_FILE or path.stat().st_size == 0:
            path.unlink()
    if any(folder.iterdir()):
        return True
    folder.rmdir()
    return False


def _write_items(
    source: Source, items: ItemShards, stage: Path, load: LoadImages, executor: Executor, reject: RejectLog
) -> None:
    later = RejectLog(stage / "images.jsonl", reject.strict)
    with later, items, step("items", source.totals().items) as advance:
        items.write(source.items(reject), load, executor, advance, reject, later)
    reject.take_over(later.path)
    if not items.item_ids:
        raise DataToolsError(f"the source has no usable item{_example(reject)}")


def _stage_users(
    source: Source, n_items: int, filters: Filters, stage: Path, executor: Executor, reject: RejectLog
) -> tuple[GroupUsers, Counter[str]]:
    """Write all rows of users to the stage; return the task that groups them, and how many rows the filters drop."""
    rows = RowStage(stage, executor, reject)
    totals = source.totals()
    interactions, dropped = rows.write(
        "interactions", source.interactions(reject), INTERACTION_COLUMNS, filters, totals.interactions
    )
    shown = source.impressions(reject) if isinstance(source, ImpressionSource) else ()
    impressions, dropped_shown = rows.write(
        "impressions", shown, IMPRESSION_COLUMNS, filters.of_impressions(), totals.impressions
    )
    dropped.update(count_apart(dropped_shown))
    profiles = stage_profiles(source.users(reject), stage, executor)
    schema = user_schema(heads_of(impressions), context_of(impressions), columns_of(profiles))
    if twice := sorted(name for name, count in Counter(schema.names).items() if count > 1):
        raise SourceError(
            f"several columns of impressions and user profiles would be called {', '.join(twice)}: rename them"
        )
    group = GroupUsers(
        interactions, impressions, profiles, filters, schema, n_items, BLOCK_USERS, BLOCK_IMPRESSIONS, reject.strict
    )
    return group, dropped


def _write_users(
    group: GroupUsers, folder: Path, shard_bytes: int, executor: Executor, reject: RejectLog
) -> UserShards:
    filters, interactions, impressions = group.filters, group.interactions, group.impressions
    tasks = list(cut_tasks(interactions.rows + impressions.rows + group.profiles.rows))
    if filters.k_core:
        core = find_core(interactions, tasks, group.n_items, filters.user_minimum, filters.k_core, executor)
        group = replace(group, core=core)
    total = int(interactions.rows.sum() + impressions.rows.sum())
    with UserShards(folder, shard_bytes, group.n_items) as users, step("users", total) as advance:
        for grouped in executor.map(group, list(enumerate(tasks))):
            users.add(grouped)
            reject.take_over(grouped.rejects)
            advance(grouped.read)
    return users


def _has_no_rows(group: GroupUsers, dropped: Counter[str]) -> bool:
    """Whether the source has no interactions and no impressions, as for a catalogue of items alone."""
    return not (group.interactions.rows.any() or group.impressions.rows.any() or dropped.total())


def _nothing_left(source: Source, dropped: Counter[str], reject: RejectLog) -> DataToolsError:
    rated = (len(batch.rows) > batch.rows["rating"].null_count for batch in source.interactions(ignore))
    if dropped["min_rating"] and not any(rated):
        return DataToolsError(
            "no interaction has a rating: leave out --min-rating, or give the ratings in a column called rating"
        )
    interactions = {name: rows for name, rows in dropped.items() if not name.endswith(APART)}
    if any(interactions.values()):
        which = ", ".join(f"{name} {rows:,}" for name, rows in interactions.items())
        return DataToolsError(f"the filters drop every interaction ({which}): loosen them")
    return DataToolsError(f"the source has no usable interaction{_example(reject)}")


def _example(reject: RejectLog) -> str:
    return f" ({reject.counts.total():,} rejected, such as {reject.last})" if reject.last else ""


def _count(items: ItemShards, users: UserShards, reject: RejectLog, dropped: Counter[str]) -> Counts:
    return Counts(
        users=users.users,
        items=len(items.item_ids),
        interactions=int(users.items.sum()),
        impressions=users.impressions,
        images=items.images,
        rejects=dict(sorted(reject.counts.items())),
        dropped=dict(dropped),
        cleaned=dict(sorted(items.cleaned.items())),
    )


def _files(folder: Path, items: ItemShards, users: UserShards, reject: RejectLog) -> list[FileEntry]:
    return [
        *items.entries,
        *users.entries,
        describe_file(folder / CATALOGUE_FILE, "catalogue", samples=len(items.item_ids)),
        describe_file(folder / BLOCKS_FILE, "blocks", samples=users.users),
        describe_file(folder / REJECTS_FILE, "rejects", samples=reject.counts.total()),
    ]


def _history_lengths(folder: Path) -> np.ndarray:
    lengths = pq.read_table(folder / BLOCKS_FILE, columns=["lengths"])["lengths"].combine_chunks().flatten()
    return np.asarray(lengths)


def _write_index(index: ShardIndex, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(index.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
