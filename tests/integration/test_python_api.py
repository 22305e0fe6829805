"""`import transrec`: a trained run from Python, which answers as the commands do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ForkedCommands, json_lines
from tiny_world import Tiny

import transrec
from transrec.config import ConfigError
from transrec.data import progress

HISTORY = ["item-3", "item-17", "item-3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("api") / "run"
    json_lines(commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=20"))
    return run_dir


@pytest.fixture(scope="module")
def adapted(run: Path, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = run.with_name("adapted")
    more = [f"init_from={run}", "adaptation={name: houlsby}", "train.steps=20"]
    json_lines(commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *more))
    return run_dir


def test_it_recommends_what_the_command_does(run: Path, tmp_path: Path, commands: ForkedCommands) -> None:
    histories = tmp_path / "histories.jsonl"
    histories.write_text(json.dumps({"user": "ann", "history": HISTORY}))
    (line,) = json_lines(commands.run("recommend", "--run", run, "--histories", histories, "--top", "5"))
    found = transrec.load_run(str(run)).recommend(HISTORY, top=5)
    assert [record["item_id"] for record in found] == [record["item_id"] for record in line["recommendations"]]
    assert [record["score"] for record in found] == pytest.approx(
        [record["score"] for record in line["recommendations"]], abs=1e-5
    )


def test_encoding_the_catalogue_shows_its_progress(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BEFORE", 0.0)
    items = len(transrec.load_run(run).item_vectors().ids)
    assert f"encoding items: {items} of {items} items" in capsys.readouterr().err


def test_a_score_is_the_product_of_vectors(run: Path) -> None:
    recommender = transrec.load_run(run)
    ids, vectors = recommender.item_vectors()
    assert len(ids) == len(set(ids)) == 80
    assert (vectors.shape, vectors.dtype) == ((80, 16), torch.float32)
    every = recommender.recommend(HISTORY, top=100)
    of = torch.tensor([record["score"] for record in every])
    items = vectors[[ids.index(record["item_id"]) for record in every]]
    user = torch.linalg.lstsq(items, of[:, None]).solution
    assert torch.allclose((items @ user)[:, 0], of, atol=1e-3)


def test_it_measures_what_the_command_does(run: Path, tiny: Tiny, commands: ForkedCommands) -> None:
    (line,) = json_lines(commands.run("evaluate", "--run", run, "--split", "valid"))
    recommender = transrec.load_run(run)
    for found in (recommender.evaluate(split="valid"), recommender.evaluate(split="valid", data=tiny.shards)):
        assert found.keys() == {name for name in line["valid"] if not name.endswith("_interval")}
        estimate = found["HR@10"]
        assert estimate.value == line["valid"]["HR@10"]
        assert [estimate.low, estimate.high] == line["valid"]["HR@10_interval"]


def test_it_measures_the_metrics_that_are_asked_for(run: Path, commands: ForkedCommands) -> None:
    asked = ["HR@3", "novelty@3", "sampled_99_HR@3"]
    finished = commands.run("evaluate", "--run", run, "--metrics", *asked)
    (line,) = json_lines(finished)
    assert [name for name in line["test"] if not name.endswith("_interval")] == [*asked, "loss"]
    assert "HR@3" in line["by_popularity"]["rare"]
    assert "most_popular" in finished.stdout
    found = transrec.load_run(run).evaluate(metrics=asked)
    assert {name: found[name].value for name in asked} == {name: line["test"][name] for name in asked}
    with pytest.raises(ConfigError, match=r"^metric 'MAP@3': 'MAP' is not one of HR, NDCG"):
        transrec.load_run(run).evaluate(metrics=["HR@3", "MAP@3"])
    with pytest.raises(ConfigError, match=r"AUC needs the readings score, label"):
        transrec.load_run(run).evaluate(metrics=["AUC"])


def test_an_adapter_away_from_its_run_is_used_over_its_base(run: Path, adapted: Path, tiny: Tiny) -> None:
    alone = transrec.load_run(adapted).recommend(HISTORY)
    assert transrec.load_run(adapted, base=run).recommend(HISTORY) == alone
    assert transrec.load_run(adapted / "export", base=run, catalogue=tiny.shards).recommend(HISTORY) == alone
    again, other = transrec.load_adapters([adapted, adapted / "export"])
    assert again.recommend(HISTORY) == other.recommend(HISTORY) == alone


def test_what_is_wrong_is_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        transrec.load_run(tmp_path)
    with pytest.raises(ConfigError, match="holds a whole model, not an adapter"):
        transrec.load_run(run, base=run)
    with pytest.raises(ConfigError, match="unknown item ids: item-999"):
        transrec.load_run(run).recommend(["item-999"])
    assert transrec.load_adapters([], base=run) == []


@pytest.mark.parametrize("split", ["tset", "train", "val", ""])
def test_a_split_that_does_not_exist_is_refused(run: Path, split: str) -> None:
    """It was answered with the metrics of the test."""
    with pytest.raises(ConfigError, match=r"split '.*': choose 'valid' or 'test'"):
        transrec.load_run(run).evaluate(split=split)  # type: ignore[arg-type]


def test_arguments_of_another_kind_are_a_sentence(run: Path) -> None:
    loaded = transrec.load_run(run)
    assert loaded.recommend(np.array(HISTORY), np.int64(3)) == loaded.recommend(HISTORY, 3)  # type: ignore[arg-type]
    for top in (2.5, True, "3"):
        with pytest.raises(ConfigError, match="expected a whole number"):
            loaded.recommend(HISTORY, top)  # type: ignore[arg-type]
    for history, fault in (
        (None, "found None"),
        ([HISTORY], "item ids must be strings"),
        ([3], "item ids must be strings, found 3"),
    ):
        with pytest.raises(ConfigError, match=fault):
            loaded.recommend(history)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one history"):
        loaded.user_vectors([])
