"""Every source, from its published layout to a training, by the real commands."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY, ForkedCommands
from published import ROWS, SEQUENCES, WRITERS
from run_folder import losses

from data_tools.sources import SOURCES
from transrec.data.shards.schema import ShardIndex

CONFIG = REPOSITORY / "configs" / "transrec" / "id_sasrec.yaml"
UNLIKE = ("synthetic", "sample")  # they bring data of their own


def data_tools(*arguments: object) -> str:
    command = [sys.executable, "-m", "data_tools", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_source_has_a_small_data_set() -> None:
    assert set(WRITERS) == set(SOURCES)


@pytest.mark.slow
@pytest.mark.parametrize("source", list(SOURCES))
def test_a_published_layout_is_built_verified_and_trained(
    source: str, tmp_path: Path, commands: ForkedCommands
) -> None:
    raw, shards, run_dir = tmp_path / "raw", tmp_path / "shards", tmp_path / "run"
    raw.mkdir()
    options = WRITERS[source](raw)
    data_tools("build", "--source", source, *options, "--output", shards, "--workers", 1)
    assert "no problems found" in data_tools("verify", shards)
    if source not in UNLIKE:
        counts = ShardIndex.load(shards).counts
        assert (counts.users, counts.interactions, counts.rejects) == (len(SEQUENCES), len(ROWS), {})
    places = [f"data.path={shards}", f"data.cache={tmp_path / 'cache'}", f"run_dir={run_dir}"]
    tiny = ["train.steps=2", "train.batch_size=4", "data.workers=0"]
    finished = commands.run("train", "--config", CONFIG, *places, *tiny)
    assert finished.code == 0, finished.stderr
    assert len(losses(run_dir)) == 2
