"""`recommend` and `evaluate` give the same answers on a GPU as on the CPU, also for a model with evidence."""

import json

import pytest
from commands import LaunchedCommands, json_lines
from conftest import Runs
from tiny_world import Tiny

from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder

EVIDENCE = "model.evidence=[{name: co_occurrence}, {name: transitions}]"


@pytest.fixture(scope="module", autouse=True)
def started(runs: Runs) -> None:
    runs.start("to be asked", EVIDENCE, "evaluation.metrics=[HR@10, NDCG@10, loss]")


def test_recommend(runs: Runs, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> None:
    run, folder = runs.ended("to be asked"), tmp_path_factory.mktemp("asked")
    ids = [record["item_id"] for record in ItemShards(ShardFolder(tiny.shards))]
    histories = folder / "histories.jsonl"
    lines = [json.dumps({"user": str(start), "history": ids[start : start + 5]}) for start in range(0, 40, 5)]
    histories.write_text("\n".join(lines) + "\n", encoding="utf-8")
    answers = []
    for device, environment in {"gpu": {}, "cpu": {"CUDA_VISIBLE_DEVICES": ""}}.items():
        (folder / device).mkdir()
        commands = LaunchedCommands(folder / device, **environment)
        answers.append(json_lines(commands.run("recommend", "--run", run, "--histories", histories)))
    assert len(answers[0]) == len(lines)
    ours, theirs = ([[item["item_id"] for item in line["recommendations"]] for line in lines] for lines in answers)
    assert ours == theirs


def test_evaluate(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = runs.ended("to be asked")
    finished = LaunchedCommands(tmp_path_factory.mktemp("evaluated")).run("evaluate", "--run", run)
    assert finished.code == 0, finished.stderr
    expected = json.loads((run / "summary.json").read_text())["test"]
    assert f"{expected['HR@10']:.4f}" in finished.stdout
