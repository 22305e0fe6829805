"""What a source yields, as Python objects, and a build of it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_tools.build import build
from data_tools.rejects import Reject
from data_tools.source import INTERACTION_COLUMNS, Item, Source
from data_tools.sources import SOURCES
from data_tools.verify import verify
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.schema import ShardIndex
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserShards


class Reading(NamedTuple):
    items: list[Item]
    interactions: list[tuple]  # (user, item, timestamp, rating)
    lines: list[tuple[str, int]]  # of each interaction, its file and line
    users: list[dict]
    rejects: list[Reject]

    def reasons(self) -> list[tuple[str, int, str]]:
        return [(reject.file, reject.line, str(reject.reason)) for reject in self.rejects]


def make_source(name: str, *options: object) -> Source:
    """The source that these command line options give."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    SOURCES[name].add_arguments(parser)
    return SOURCES[name].from_arguments(parser.parse_args([str(option) for option in options]))


def read_source(name: str, *options: object) -> Reading:
    """Everything, with the batches' schemas checked."""
    source = make_source(name, *options)
    reading = Reading(list[Item](), [], [], [], [])
    reading.items.extend(source.items(reading.rejects.append))
    for batch in source.interactions(reading.rejects.append):
        batch.rows.validate(full=True)
        assert batch.rows.schema == INTERACTION_COLUMNS
        reading.interactions.extend(tuple(row.values()) for row in batch.rows.to_pylist())
        reading.lines.extend((batch.file, line) for line in batch.lines.to_pylist())
    assert len(reading.lines) == len(reading.interactions)
    for batch in source.users(reading.rejects.append):
        reading.users.extend(batch.rows.to_pylist())
    return reading


def build_twice(name: str, options: Sequence[object], folder: Path) -> ShardIndex:
    """Build, verify, read back, and see that a second build gives the same bytes."""
    builds = [folder / "shards", folder / "again"]
    for output in builds:
        index = build(make_source(name, *options), name, output)
        assert verify(output) == []
    first, second = ({path.name: path.read_bytes() for path in output.iterdir()} for output in builds)
    assert first == second
    read_back(builds[0], read_source(name, *options), index)
    return index


def read_back(folder: Path, source: Reading, index: ShardIndex) -> None:
    """See that the set holds what the source yields: the first item of each id, and the histories in order of time."""
    shards = ShardFolder(folder)
    records, users = list(ItemShards(shards)), UserShards(shards)
    items = {item.item_id: item for item in reversed(source.items)}
    assert {record["item_id"] for record in records} <= set(items)
    for record in records:
        item = items[record["item_id"]]
        assert record["title"] == (item.title.strip() or item.text.strip())
        assert {name: record[name] for name in item.fields} == item.fields
    ids = [record["item_id"] for record in records]
    found, expected = {}, {}
    for block in map(users.block, range(len(users))):
        for number, user in enumerate(block.user_ids.to_pylist()):
            found[user] = [ids[item - 1] for item in block.history(number)]
    for user, item, *_ in sorted(source.interactions, key=lambda row: row[2]):
        if item in set(ids):
            expected.setdefault(user, []).append(item)
    assert found == expected
    assert sum(map(len, found.values())) == index.counts.interactions
