"""`report`, and `sweep --resume`, over every kind of broken file in a sweep's folder."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import ForkedCommands
from damages import DAMAGES
from tiny_sweeps import write_sweep
from tiny_world import build_shards

from transrec.errors import TransRecError
from transrec.runs.train_and_test import run as train_and_test
from transrec.sweeps import ray_executor
from transrec.sweeps.plan import Run

pytestmark = pytest.mark.slow

FILES = ["sweep.yaml", "trials.jsonl"]
OF_A_RUN = ["config.yaml", "environment.yaml", "metrics.jsonl", "summary.json", "test_users.parquet"]


class HereExecutor:
    """Executes runs in this process, without Ray."""

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> "HereExecutor":
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, runs: Sequence[Run], settle: Any) -> None:
        for run in runs:
            try:
                train_and_test(run.experiment)
            except TransRecError as error:
                settle(run.hash, str(error))
            else:
                settle(run.hash, None)


def execute_here() -> None:
    ray_executor.RayExecutor = HereExecutor  # type: ignore[assignment,misc]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, commands: ForkedCommands) -> Path:
    """The folder of a sweep of two trials."""
    folder = tmp_path_factory.mktemp("sweep")
    shards = build_shards(folder / "shards")
    grid = {"size": {"target.data.fraction": [0.3, 1.0]}}
    config = write_sweep(folder, shards, source=None, grid=grid)
    ended = commands.start("sweep", "--config", config, "target.train.steps=10", before=execute_here).wait()
    assert ended.code == 0, ended.stderr
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, *(f"runs/*/{name}" for name in OF_A_RUN)])
def test_a_broken_file_is_a_sentence_or_does_no_harm(
    commands: ForkedCommands, swept: Path, tmp_path: Path, name: str, damage: str
) -> None:
    broken = Path(shutil.copytree(swept / "storage", tmp_path / "storage"))
    DAMAGES[damage](next(iter((broken / "tiny").glob(name))))
    again = ["sweep", "--config", swept / "sweep.yaml", "target.train.steps=10", f"storage_path={broken}", "--resume"]
    for ended in (
        commands.run("report", broken / "tiny"),
        commands.start(*again, before=execute_here).wait(),
        commands.run("report", broken / "tiny"),
    ):
        assert ended.code in (0, 1)
        assert "Traceback" not in ended.stderr
        assert ended.code == 0 or "error: " in ended.stderr or "failed" in ended.stderr, ended.stderr
        assert len(ended.stderr) < 5000, "a message is no copy of the file"
