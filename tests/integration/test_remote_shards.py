"""Training from a server that fails, and from shards that are damaged: the same losses, or a clear end."""

import json
import shutil
import threading
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import Commands
from run_folder import hashes, losses
from shard_server import ShardServer, serve
from tiny_world import Tiny

import data_tools.build
from data_tools.sources.synthetic import SyntheticSource


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data in many small files: 25 blocks of 8 users."""
    folder = tmp_path_factory.mktemp("small") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_tools.build, "BLOCK_USERS", 8)
        data_tools.build.build(SyntheticSource(200, 80, 3000, 0), "synthetic", folder, shard_bytes=2**13)
    assert len(list(folder.glob("users-*.tar"))) > 8
    return folder


def train(commands: Commands, tiny: Tiny, run_dir: Path, place: object, *more: str, ranks: int = 1):
    cache = f"data.cache={run_dir.parent}/cache-{run_dir.name}"
    arguments = [f"run_dir={run_dir}", f"data.path={place}", cache, "train.steps=6", *more]
    return commands.run("train", "--config", tiny.config, *arguments, ranks=ranks)


def damage(folder: Path, table: str, row: int, prefix: str = "") -> str:
    place = pq.read_table(folder / table).slice(row, 1).to_pylist()[0]
    path = folder / place["shard"]
    data = bytearray(path.read_bytes())
    data[place[f"{prefix}offset"] + 3] ^= 1
    path.write_bytes(data)
    return path.name


@pytest.mark.slow
def test_a_server_that_fails_changes_nothing(commands: Commands, tiny: Tiny, shards: Path, tmp_path: Path) -> None:
    """Two ranks; every tenth request fails, at the twelfth the server is gone for five seconds."""
    server: ShardServer

    def fault(number: int) -> str | None:
        if number == 12:
            threading.Thread(target=server.refuse_for, args=[5]).start()
            return "reset"
        return "503" if number % 10 == 0 else None

    local = train(commands, tiny, tmp_path / "local", shards, ranks=2)
    with serve(shards, fault) as server:
        away = train(commands, tiny, tmp_path / "away", server.url, ranks=2)
    assert (local.code, away.code) == (0, 0), away.stderr
    assert losses(tmp_path / "away") == losses(tmp_path / "local")
    assert hashes(tmp_path / "away") == hashes(tmp_path / "local")
    assert len(losses(tmp_path / "away")) == 6
    asked = Counter(server.requests)
    files = {path.name for path in shards.iterdir()} - {"rejects.jsonl", "README.md"}
    assert set(asked) == files
    failures = len(server.requests) // 10 + 1
    assert sum(asked.values()) - asked["index.json"] <= len(files) - 1 + failures, "one download for both ranks"


def test_a_server_that_stays_away_is_an_error_in_one_line(
    commands: Commands, tiny: Tiny, shards: Path, tmp_path: Path
) -> None:
    with serve(shards, lambda number: "404" if number == 3 else None) as server:
        finished = train(commands, tiny, tmp_path / "run", server.url.replace("//", "//user:secret@"))
    assert finished.code == 1
    assert finished.stderr.startswith(f"error: {server.url}/users-000000.tar: the server answered 404")
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_bad_samples_stop_a_run_or_are_left_out(commands: Commands, tiny: Tiny, shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    bad = [damage(copy, "user_blocks.parquet", 4), damage(copy, "items.parquet", 6, "json_")]
    stopped = train(commands, tiny, tmp_path / "stopped", copy)
    assert stopped.code == 1
    assert f"{bad[0]}: block 4 cannot be read" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    skip = ["data.on_bad_sample=skip", "data.most_bad_share=0.05"]
    skipped = train(commands, tiny, tmp_path / "skipped", copy, *skip, ranks=2)
    assert skipped.code == 0, skipped.stderr
    assert "left out as unreadable: 1 blocks of users, 1 items" in skipped.stderr
    lines = [json.loads(line) for line in (tmp_path / "skipped" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["file"], line["what"]) for line in lines] == [(bad[0], "block 4"), (bad[1], "item 7")]
    evaluated = commands.run("evaluate", "--run", tmp_path / "skipped", "--data", copy)
    assert evaluated.code == 0, evaluated.stderr
    assert evaluated.stderr.count("left out as unreadable: 1 blocks of users, 1 items") == 1
    too_many = train(commands, tiny, tmp_path / "many", copy, "data.on_bad_sample=skip", ranks=2)
    assert too_many.code == 1
    assert "8 of 200 users cannot be read, more than data.most_bad_share=0.01" in too_many.stderr


def test_a_run_does_not_go_on_with_other_samples(commands: Commands, tiny: Tiny, shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    more = ["data.on_bad_sample=skip", "data.most_bad_share=0.05", "train.checkpoint_every=3"]
    assert train(commands, tiny, tmp_path / "run", copy, *more).code == 0
    damage(copy, "user_blocks.parquet", 4)
    again = train(commands, tiny, tmp_path / "run", copy, *more)
    assert again.code == 1
    assert "was trained with other unreadable samples" in again.stderr


def test_a_url_with_a_shell_command_is_refused(commands: Commands, tiny: Tiny, tmp_path: Path) -> None:
    finished = train(commands, tiny, tmp_path / "run", f"pipe:touch {tmp_path}/executed")
    assert finished.code == 1
    assert "`data.path`: 'pipe:touch" in finished.stderr
    assert "unknown scheme `pipe:`" in finished.stderr
    assert not (tmp_path / "executed").exists()
