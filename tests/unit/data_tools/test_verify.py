from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from shard_sets import edit_index, make_version_3, seal

from data_tools import user_shards
from data_tools.build import build
from data_tools.sources.synthetic import SyntheticSource
from data_tools.verify import verify
from transrec.data.shards.schema import ShardSetError

FILES = ["items-000000.tar", "users-000000.tar", "items.parquet", "user_blocks.parquet"]


def test_what_was_built_is_well(shards: Path) -> None:
    assert verify(shards) == []


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_is_found_in_its_file(shards: Path, name: str) -> None:
    data = bytearray((shards / name).read_bytes())
    data[len(data) // 2] ^= 1
    (shards / name).write_bytes(data)
    [problem] = verify(shards)
    assert problem.file == name
    assert "SHA-256" in problem.message


def test_every_bad_file_is_named(shards: Path) -> None:
    (shards / "items-000000.tar").unlink()
    with (shards / "users-000000.tar").open("ab") as file:
        file.write(b"\0")
    (shards / "stray.tar").touch()
    problems = {problem.file: problem.message for problem in verify(shards)}
    assert set(problems) == {"items-000000.tar", "users-000000.tar", "stray.tar"}
    assert problems["items-000000.tar"] == "is missing"


@pytest.mark.parametrize(
    ("edit", "file"),
    [
        (lambda index: index["counts"].update(users=4), "user_blocks.parquet"),
        (lambda index: index["counts"].update(interactions=6), "user_blocks.parquet"),
        (lambda index: index["counts"].update(impressions=1), "user_blocks.parquet"),
        (lambda index: index["counts"].update(images=0), "items.parquet"),
        (lambda index: index["counts"].update(rejects={"no_text": 1}), "rejects.jsonl"),
        (lambda index: index.update(item_ids_sha256="0" * 64), "items.parquet"),
        (lambda index: index.update(user_columns=[]), "users-000000.tar"),
        (lambda index: index.update(text_fields=["title", "text"]), "items-000000.tar"),
        (lambda index: index["files"][0].update(samples=2), "items-000000.tar"),
        (lambda index: index["files"][1].update(samples=2), "users-000000.tar"),
    ],
)
def test_index_that_says_otherwise(shards: Path, edit: Callable[[dict[str, Any]], None], file: str) -> None:
    edit_index(shards, edit)
    assert file in {problem.file for problem in verify(shards)}


def test_offsets_that_point_elsewhere(shards: Path) -> None:
    catalogue = pq.read_table(shards / "items.parquet")
    moved = catalogue.set_column(5, "json_offset", pc.add(catalogue["json_offset"], 1))
    pq.write_table(moved, shards / "items.parquet")
    seal(shards, "items.parquet")
    assert [problem.file for problem in verify(shards)] == ["items-000000.tar"]


def test_item_that_is_not_the_catalogues(shards: Path) -> None:
    catalogue = pq.read_table(shards / "items.parquet")
    renamed = catalogue.set_column(2, "title", pa.array(["Alpha", "Gamma", "Cé"]))
    pq.write_table(renamed, shards / "items.parquet")
    seal(shards, "items.parquet")
    [problem] = verify(shards)
    assert problem.file == "items-000000.tar"
    assert "item 2" in problem.message


Damage = Callable[[pa.RecordBatch], pa.RecordBatch]


def reverse_users(block: pa.RecordBatch) -> pa.RecordBatch:
    return block.set_column(0, block.schema.field(0), block["user_id"].take(pa.array(range(len(block))[::-1])))


def map_lists(column: str, change: Callable[[list], list]) -> Damage:
    def apply(block: pa.RecordBatch) -> pa.RecordBatch:
        position = block.schema.get_field_index(column)
        values = [change(value) for value in block[column].to_pylist()]
        return block.set_column(position, block.schema.field(position), pa.array(values, block[column].type))

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (reverse_users, "not in the order of their hash"),
        (map_lists("timestamps", lambda times: times[::-1]), "timestamps that are not in ascending order"),
        (map_lists("items", lambda items: [0, *items[1:]]), "items 0 to"),
        (map_lists("items", lambda items: [21, *items[1:]]), "not 1 to 20"),
        (map_lists("ratings", lambda ratings: ratings[1:]), "the lengths of ratings differ"),
    ],
    ids=["users", "timestamps", "item 0", "item 21", "lengths"],
)
def test_faults_of_the_builder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage, message: str
) -> None:
    encode = user_shards._to_ipc_stream
    monkeypatch.setattr(user_shards, "_to_ipc_stream", lambda block: encode(damage(block)))
    build(SyntheticSource(n_users=5, n_items=20, n_interactions=60), "synthetic", tmp_path / "out")
    problems = verify(tmp_path / "out")
    assert ("users-000000.tar", True) in {(problem.file, message in problem.message) for problem in problems}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (map_lists("shown", lambda items: [4 for _ in items]), "items 4 to 4, not 1 to 3"),
        (map_lists("shown", lambda items: items[1:]), "the lengths of shown differ"),
        (map_lists("shown_requests", lambda numbers: numbers[1:]), "different numbers of shown and shown_requests"),
        (map_lists("shown_timestamps", lambda times: times[::-1]), "shown_timestamps that are not in ascending order"),
        (map_lists("label_click", lambda labels: [2 for _ in labels]), "label_click other than 0, 1 and null"),
    ],
    ids=["items", "lengths", "requests", "timestamps", "labels"],
)
def test_faults_of_impressions_are_found(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, damage: Damage, message: str
) -> None:
    encode = user_shards._to_ipc_stream
    monkeypatch.setattr(user_shards, "_to_ipc_stream", lambda block: encode(damage(block)))
    problems = verify(request.getfixturevalue("shown_shards"))
    assert ("users-000000.tar", True) in {(problem.file, message in problem.message) for problem in problems}


def test_impressions_that_the_index_does_not_count(shown_shards: Path) -> None:
    edit_index(shown_shards, lambda index: index["counts"].update(impressions=4))
    assert [str(problem) for problem in verify(shown_shards)] == [
        "user_blocks.parquet: impressions: found 5, but index.json lists 4"
    ]


def test_a_set_of_version_3_is_well(shards: Path) -> None:
    make_version_3(shards)
    assert verify(shards) == []


def test_folder_without_index(tmp_path: Path) -> None:
    with pytest.raises(ShardSetError, match=r"index\.json"):
        verify(tmp_path)
