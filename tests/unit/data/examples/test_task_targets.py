"""Where the targets of a task come from: a column, another set of shards, a file."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transrec.config import ConfigError, validate
from transrec.data.examples.task_targets import ColdStartConfig, FileConfig, ProfileConfig, Read
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserShards

HISTORIES = {f"u{n}": [1 + (n + i) % 9 for i in range(5)] for n in range(10)}
PROFILES = {
    "u0": {"gender": "F", "age": "24"},
    "u1": {"gender": "M", "age": "25"},
    "u2": {"gender": " M ", "age": "34.5"},
    "u3": {"gender": "", "age": "35"},
    "u5": {"gender": "F", "age": "90"},
}


@pytest.fixture(scope="module")
def users(build_shards: Callable[..., Path]) -> UserShards:
    return UserShards(ShardFolder(build_shards(HISTORIES, n_items=9, block_users=3, profiles=PROFILES)))


def named(users: UserShards, found: Read) -> dict[str, list[str]]:
    """User -> names of the targets."""
    names, blocks = found
    assert len(blocks) == len(users)
    targets: dict[str, list[str]] = {}
    for number, (user, target) in enumerate(blocks):
        for u, t in zip(user.tolist(), target.tolist(), strict=True):
            targets.setdefault(users.block(number).user_ids[u].as_py(), []).append(names[t - 1])
    return targets


# Profile


def test_each_value_of_a_column_is_a_class_and_an_empty_one_is_none(users: UserShards) -> None:
    found = ProfileConfig(column="gender").read(users, ShardFolder)
    assert found[0] == ["F", "M"]
    assert named(users, found) == {"u0": ["F"], "u1": ["M"], "u2": ["M"], "u5": ["F"]}


def test_bands_make_classes_of_a_number_and_a_bound_belongs_above(users: UserShards) -> None:
    found = ProfileConfig(column="age", bands=[25, 35, 60]).read(users, ShardFolder)
    assert found[0] == ["under 25", "25 to 35", "35 to 60", "60 and over"]
    assert named(users, found) == {
        "u0": ["under 25"],
        "u1": ["25 to 35"],
        "u2": ["25 to 35"],
        "u3": ["35 to 60"],
        "u5": ["60 and over"],
    }


def test_an_unknown_column_and_bands_of_words_are_explained(users: UserShards) -> None:
    with pytest.raises(ConfigError, match=r"no user column 'mood'; choose one of gender, age"):
        ProfileConfig(column="mood").read(users, ShardFolder)
    with pytest.raises(ConfigError, match=r"column 'gender' does not hold numbers"):
        ProfileConfig(column="gender", bands=[3]).read(users, ShardFolder)
    with pytest.raises(ConfigError, match="ascending"):
        validate(ProfileConfig, {"column": "age", "bands": [35, 25]})


# Cold start


def test_targets_are_the_distinct_items_of_the_users_that_both_sets_have(
    users: UserShards, build_shards: Callable[..., Path]
) -> None:
    other = build_shards({"u1": [3, 1, 3], "u7": [2], "stranger": [1, 2]}, n_items=4, block_users=2)
    found = ColdStartConfig(target=other).read(users, ShardFolder)
    assert found[0] == ["item-1", "item-2", "item-3", "item-4"]
    assert named(users, found) == {"u1": ["item-1", "item-3"], "u7": ["item-2"]}


@pytest.mark.parametrize("seed", range(3))
def test_users_are_found_whatever_the_blocks_of_the_two_sets(build_shards: Callable[..., Path], seed: int) -> None:
    rng = random.Random(seed)
    everyone = [f"u{n}" for n in range(60)]
    here, there = (sorted(rng.sample(everyone, 30)) for _ in range(2))
    targets = {user: rng.sample(range(1, 10), rng.randint(1, 4)) for user in there}
    source = build_shards({user: [1, 2, 3] for user in here}, n_items=3, block_users=rng.randint(1, 9))
    other = build_shards(targets, n_items=9, block_users=rng.randint(1, 9))
    users = UserShards(ShardFolder(source))
    found = named(users, ColdStartConfig(target=other).read(users, ShardFolder))
    expected = {user: sorted(f"item-{item}" for item in targets[user]) for user in there if user in here}
    assert expected
    assert found == expected


# File

ROWS = [("u2", "red"), ("u9", "blue"), ("u2", "blue"), ("nobody", "green"), ("u2", "red")]


@pytest.mark.parametrize("suffix", ["tsv", "parquet"])
def test_a_file_names_targets_row_by_row(users: UserShards, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels.{suffix}"
    if suffix == "tsv":
        path.write_text("user_id\ttarget\n" + "".join(f"{user}\t{target}\n" for user, target in ROWS))
    else:
        user_ids, targets = zip(*ROWS, strict=True)
        pq.write_table(pa.table({"user_id": user_ids, "target": targets}), path)
    found = FileConfig(path=path).read(users, ShardFolder)
    assert found[0] == ["blue", "green", "red"]
    assert {user: sorted(t) for user, t in named(users, found).items()} == {"u2": ["blue", "red"], "u9": ["blue"]}


def test_numbers_in_a_file_are_those_they_were_before_one_was_missing(
    build_shards: Callable[..., Path], tmp_path: Path
) -> None:
    users = UserShards(ShardFolder(build_shards({"123456789012": [1, 2, 3], "7": [1, 2, 3]}, n_items=3)))
    labels = {"user_id": [123456789012.0, 7.0, float("nan"), 7.0], "target": [1.0, 2.5, 3.0, float("nan")]}
    pq.write_table(pa.table(labels), tmp_path / "labels.parquet")
    found = FileConfig(path=tmp_path / "labels.parquet").read(users, ShardFolder)
    assert named(users, found) == {"123456789012": ["1"], "7": ["2.5"]}
    pq.write_table(pa.table({"user_id": [1e16], "target": ["a"]}), tmp_path / "labels.parquet")
    with pytest.raises(ConfigError, match="is not exact"):
        FileConfig(path=tmp_path / "labels.parquet").read(users, ShardFolder)


@pytest.mark.parametrize("content", [None, "user_id\tlabel\nu1\tx\n", "user_id\ttarget\nu1\n", "\xff\xfe"])
def test_a_file_that_is_no_such_table_is_explained(users: UserShards, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "labels.tsv"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"labels\.tsv is not a table with the columns user_id and target"):
        FileConfig(path=path).read(users, ShardFolder)
