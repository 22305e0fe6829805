"""Baselines of whole runs: measured last, by all ranks together, and only those asked for."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
from commands import ForkedCommands
from tiny_world import COMPARABLE, Tiny

from transrec.runs import train_and_test

SHORT = [*COMPARABLE, "train.steps=2"]


def summary_of(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return found


def die(*arguments: Any) -> NoReturn:
    os._exit(9)


def die_at_baselines() -> None:
    train_and_test.baselines = die


def test_a_run_that_is_killed_at_its_baselines_has_its_results(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path
) -> None:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", *SHORT]
    assert commands.start("train", *arguments, before=die_at_baselines).wait().code == 9
    before = summary_of(run_dir)
    assert before["test"].keys() >= {"HR@10", "loss"}
    assert before["baselines"] == {}
    assert before["by_popularity"].keys() == {"this run"}
    assert len(pq.read_table(run_dir / "test_users.parquet")) > 0
    finished = commands.run("train", *arguments, "evaluation.baselines=[item_to_item]")
    assert finished.code == 0, finished.stderr
    after = summary_of(run_dir)
    assert after["test"] == before["test"]
    assert [*after["baselines"]] == ["item_to_item"]
    assert pq.read_schema(run_dir / "test_baselines.parquet").names == ["user_id", "item_to_item"]


def test_ranks_share_the_baselines_and_agree_with_one(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    """Also about a sample of the users, which is the same."""
    found = []
    for ranks in (1, 2):
        run_dir, cache = tmp_path / str(ranks), f"data.cache={tmp_path / f'cache-{ranks}'}"
        settings = [f"run_dir={run_dir}", cache, *SHORT, "evaluation.users=40", "evaluation.validation_users=30"]
        finished = commands.run("train", "--config", tiny.config, *settings, ranks=ranks)
        assert finished.code == 0, finished.stderr
        samples = summary_of(run_dir)["samples"]
        assert {part: sample["users"] for part, sample in samples.items()} == {"valid": 30, "test": 40}
        assert finished.stdout.count("of a sample of 40 of ") == 2, "the tables of results and of their popularity"
        assert len(pq.read_table(run_dir / "test_users.parquet")) == 40
        found.append((summary_of(run_dir)["baselines"], pq.read_table(run_dir / "test_baselines.parquet")))
    (alone, ranks_alone), (together, ranks_together) = found
    every = ["most_popular", "item_to_item", "transitions", "co_occurrence", "content_similarity", "blend"]
    assert [*alone] == [*together] == every
    assert together == alone
    assert ranks_together.equals(ranks_alone)


def test_no_baselines_are_measured_if_none_are_asked_for(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *SHORT, "evaluation.baselines=[]")
    assert finished.code == 0, finished.stderr
    assert summary_of(run_dir)["baselines"] == {}
    assert "most_popular" not in finished.stdout
