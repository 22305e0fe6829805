"""Impressions from tables: the real command builds them, survives being killed, verifies and inspects them."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import Shown, UserShards

REPOSITORY = Path(__file__).parents[2]
MIND = REPOSITORY.parent / "shared" / "data" / "mind-4k"
BUILD = [sys.executable, "-m", "data_tools", "build", "--workers", "2"]
USERS, ITEMS, ROWS = 400, 50, 60_000


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_tools", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


def build(source: str, raw: Path, output: Path) -> None:
    result = run("build", "--source", source, "--input", raw, "--output", output)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third impression was clicked; ten are shown at once."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "items.tsv").write_text("item_id\ttitle\n" + "".join(f"i{n}\tTitle {n}\n" for n in range(ITEMS)))
    likes = "".join(f"u{n % USERS}\ti{n % 7}\t{n}\n" for n in range(4 * USERS))
    (folder / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n" + likes)
    shown = "".join(f"u{n // 10 % USERS}\ti{n % ITEMS}\t{n // 10}\t{int(n % 3 == 0)}\t{n % 10}\n" for n in range(ROWS))
    (folder / "impressions.tsv").write_text("user_id\titem_id\ttimestamp\tclick\tposition\n" + shown)
    return folder


def test_a_build_that_is_killed_among_the_impressions_starts_again(raw: Path, tmp_path: Path) -> None:
    build("tables", raw, tmp_path / "whole")
    out, stage = tmp_path / "out", tmp_path / "out.partial" / "stage"
    arguments = ["--source", "tables", "--input", str(raw), "--output", str(out)]
    process = subprocess.Popen([*BUILD, *arguments], cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while not list(stage.glob("impressions-*.arrow")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it was not killed in time"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not out.exists()
    build("tables", raw, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()
    }
    assert not stage.parent.exists()
    verified = run("verify", out)
    assert (verified.returncode, verified.stderr) == (0, "")
    words = run("inspect", out).stdout.split()
    assert "impressions 60,000 in 6,000 requests of 400 users; click 33.33%; context: position" in " ".join(words)


def test_mind_and_the_same_as_tables_agree(tmp_path: Path) -> None:
    if not MIND.is_dir():
        pytest.skip(f"{MIND} is absent: it may not be distributed with the project")
    build("mind", MIND / "raw", tmp_path / "mind")
    build("tables", MIND, tmp_path / "tables")
    mind, tables = (UserShards(ShardFolder(tmp_path / name)) for name in ("mind", "tables"))
    assert mind.index.item_ids_sha256 == tables.index.item_ids_sha256
    assert mind.index.counts.impressions == 149_984
    clicks = 0
    for number in range(len(mind)):
        first, second = mind.block(number), tables.block(number)
        assert first.user_ids.equals(second.user_ids)
        assert np.array_equal(first.items, second.items)
        assert first.shown is not None
        assert second.shown is not None
        assert_equal(first.shown, second.shown)
        clicks += int(first.shown.labels["click"].sum())
    assert clicks == 6_053


def assert_equal(first: Shown, second: Shown) -> None:
    for name in ("offsets", "items", "timestamps", "requests"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert np.array_equal(first.labels["click"], second.labels["click"])
    assert first.context["position"].equals(second.context["position"])
