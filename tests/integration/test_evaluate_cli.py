"""What can be done with a run: evaluate it, on other items too, and start another run from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Commands, Finished, ForkedCommands, LaunchedCommands, refused
from run_folder import exported
from shard_server import serve
from tiny_world import Tiny, build_backbone, build_shards

from data_tools.build import build
from data_tools.sources.tables import TablesSource


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def train(commands: Commands, tiny: Tiny, run_dir: Path, *more: str) -> Path:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *more)
    assert finished.code == 0, finished.stderr
    return run_dir


@pytest.fixture(scope="module")
def text_run(runs: Path, tiny: Tiny, commands: ForkedCommands) -> Path:
    return train(commands, tiny, runs / "text", "model.objective={name: in_batch_softmax}", "train.steps=20")


@pytest.fixture(scope="module")
def id_run(runs: Path, tiny: Tiny, commands: ForkedCommands) -> Path:
    return train(commands, tiny, runs / "id", "model.item_encoder={name: id_embedding}")


@pytest.fixture(scope="module")
def houlsby_run(runs: Path, tiny: Tiny, commands: ForkedCommands, text_run: Path) -> Path:
    """Transfer with nothing but adapters learning."""
    return train(commands, tiny, runs / "houlsby", f"init_from={text_run}", "adaptation={name: houlsby}")


@pytest.fixture(scope="module")
def other_shards(runs: Path) -> Path:
    return build_shards(runs / "other", users=120, items=60, interactions=1500, seed=5)


def last_line(finished: Finished) -> dict[str, Any]:
    assert finished.code == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def without_loss(metrics: dict[str, Any]) -> dict[str, Any]:
    """Ranks are the same bits wherever they are counted; a loss keeps what rounding does to the scores."""
    return {name: value for name, value in metrics.items() if not name.startswith("loss")}


# Evaluation


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["text_run", "id_run", "houlsby_run"])
def test_gives_the_metrics_of_the_summary(
    request: pytest.FixtureRequest, commands: ForkedCommands, kind: str, ranks: int
) -> None:
    run_dir: Path = request.getfixturevalue(kind)
    summary = json.loads((run_dir / "summary.json").read_text())
    for part in ("valid", "test") if (kind, ranks) == ("text_run", 1) else ("test",):
        result = last_line(commands.run("evaluate", "--run", run_dir, "--split", part, ranks=ranks))
        assert result["run"] == str(run_dir)
        assert without_loss(result[part]) == without_loss(summary[part])
        assert result[part]["loss"] == pytest.approx(summary[part]["loss"], rel=1e-5)


@pytest.mark.slow
def test_gives_the_same_on_two_ranks_of_the_launcher(launched: LaunchedCommands, text_run: Path) -> None:
    one, two = (launched.run("evaluate", "--run", text_run, "--split", "test", ranks=ranks) for ranks in (1, 2))
    lines = [line for line in two.stdout.splitlines() if line.startswith('{"run"')]
    assert two.code == 0, two.stderr
    assert [json.loads(line) for line in lines] == [last_line(one)]


def test_shows_the_baselines_beside_the_run(commands: ForkedCommands, text_run: Path) -> None:
    finished = commands.run("evaluate", "--run", text_run, "--split", "valid")
    assert all(row in finished.stdout for row in ("most_popular", "item_to_item", text_run.name, "NDCG@10"))


def test_a_text_run_ranks_items_it_never_saw(commands: ForkedCommands, text_run: Path, other_shards: Path) -> None:
    result = last_line(commands.run("evaluate", "--run", text_run, "--data", other_shards))
    assert result["data"] == str(other_shards)
    assert 0 <= result["test"]["HR@10"] <= 1


def test_other_shards_may_lie_at_a_url(commands: ForkedCommands, text_run: Path, other_shards: Path) -> None:
    local = last_line(commands.run("evaluate", "--run", text_run, "--data", other_shards))
    with serve(other_shards) as server:
        away = last_line(commands.run("evaluate", "--run", text_run, "--data", server.url))
    assert away == local | {"data": server.url}
    assert "index.json" in server.requests


def test_a_url_where_nothing_answers_is_an_error_in_one_line(
    commands: ForkedCommands, text_run: Path, tmp_path: Path
) -> None:
    with serve(tmp_path) as server:
        message = refused(commands.run("evaluate", "--run", text_run, "--data", server.url))
    assert f"{server.url}/index.json: the server answered 404" in message
    assert message.count("\n") == 1


def test_an_adapted_run_ranks_items_it_never_saw(
    commands: ForkedCommands, houlsby_run: Path, other_shards: Path
) -> None:
    assert 0 <= last_line(commands.run("evaluate", "--run", houlsby_run, "--data", other_shards))["test"]["HR@10"] <= 1


def test_an_id_run_is_of_no_use_for_other_items(commands: ForkedCommands, id_run: Path, other_shards: Path) -> None:
    message = refused(commands.run("evaluate", "--run", id_run, "--data", other_shards))
    assert f"{id_run} embeds the item ids of another catalogue" in message


def test_a_folder_that_is_no_run(commands: ForkedCommands, tmp_path: Path) -> None:
    assert "is not a run folder" in refused(commands.run("evaluate", "--run", tmp_path))


def test_a_run_is_evaluated_without_what_it_was_trained_from(
    commands: ForkedCommands, text_run: Path, tiny: Tiny, tmp_path: Path
) -> None:
    """A fully trained run holds all its weights: its backbone is not needed again, nor are its checkpoints."""
    copy = shutil.copytree(text_run, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    config = copy / "config.yaml"
    assert str(tiny.backbone) in config.read_text()
    config.write_text(config.read_text().replace(str(tiny.backbone), "/gone"))
    summary = json.loads((text_run / "summary.json").read_text())
    assert last_line(commands.run("evaluate", "--run", copy))["test"] == summary["test"]


# Transfer


def test_transfer_trains_the_adapters_only(houlsby_run: Path, text_run: Path) -> None:
    trained = exported(houlsby_run)
    assert trained
    assert all(".adapter." in name for name in trained)
    assert {name.split(".")[0] for name in trained} == {"item_encoder", "user_encoder"}
    parameters = json.loads((houlsby_run / "summary.json").read_text())["parameters"]
    assert parameters["trainable"] == sum(tensor.numel() for tensor in trained.values())
    whole = json.loads((text_run / "summary.json").read_text())["parameters"]
    assert parameters["total"] == whole["total"] + parameters["trainable"]


def test_transfer_from_an_adapted_run_is_refused(
    commands: ForkedCommands, tiny: Tiny, houlsby_run: Path, run_dir: Path
) -> None:
    """Its adapters would stay behind without a word."""
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", f"init_from={houlsby_run}")
    assert f"{houlsby_run} was trained with adapters: start from a run without adapters" in refused(finished)


def test_transfer_over_a_changed_source_is_refused(
    commands: ForkedCommands, tiny: Tiny, runs: Path, text_run: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(text_run, tmp_path / "source")
    adapted = train(commands, tiny, tmp_path / "adapted", f"init_from={source}", "adaptation={name: houlsby}")
    assert commands.run("evaluate", "--run", adapted).code == 0
    other = train(commands, tiny, tmp_path / "longer", "train.steps=21", "model.objective={name: in_batch_softmax}")
    shutil.copy(other / "export" / "model.safetensors", source / "export")
    message = refused(commands.run("evaluate", "--run", adapted))
    assert "was trained on a base with hash" in message


def test_transfer_into_another_shape_is_refused(
    commands: ForkedCommands, tiny: Tiny, text_run: Path, run_dir: Path
) -> None:
    started = ["--config", tiny.config, f"run_dir={run_dir}", f"init_from={text_run}", "model.width=32"]
    message = refused(commands.run("train", *started))
    assert "item_encoder.projection.weight: the model has (32, 32), the file (16, 32)" in message


def test_adapters_over_random_weights_are_refused(commands: ForkedCommands, tiny: Tiny, run_dir: Path) -> None:
    message = refused(
        commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "adaptation={name: houlsby}")
    )
    assert "name a trained run with `init_from`, or train the head by adding `also_train: [head]`" in message


# Learning


@pytest.mark.slow
def test_learns_what_there_is_to_learn(commands: ForkedCommands, tiny: Tiny, tmp_path: Path, run_dir: Path) -> None:
    """The topic of an item, which only its text tells, predicts the topic of the next."""
    shards = build_shards(tmp_path / "shards", users=1000, items=600, interactions=20_000)
    backbone = build_backbone(tmp_path / "backbone", shards)
    size = ["model.width=32", "model.max_length=12", f"model.item_encoder.backbone={backbone}"]
    encoder = [f"model.item_encoder.{key}" for key in ("chunk_tokens=16384", "dropout=0", "pooling=mean")]
    rates = ["optimizer.lr={backbone: 1.0e-3, head: 2.0e-3}", "train.batch_size=128", "train.steps=200"]
    data = [f"data.path={shards}", "data.fraction=1.0", "train.evaluate_every=100", "train.log_every=50"]
    train(commands, tiny, run_dir, "model.objective={name: in_batch_softmax}", *size, *encoder, *rates, *data)
    summary = json.loads((run_dir / "summary.json").read_text())
    finished = commands.run("evaluate", "--run", run_dir)
    low, _ = summary["test"]["HR@10_interval"]
    assert low > 2 * row_of(finished.stdout, "most_popular")
    assert low > row_of(finished.stdout, "item_to_item")


def row_of(table: str, name: str) -> float:
    """The first metric of a row of the printed table."""
    (row,) = [line for line in table.splitlines() if name in line]
    return float(row.split("│")[2].split()[0])


def test_a_channel_of_histories_too_short_to_train_on_is_evaluated(
    commands: ForkedCommands, text_run: Path, tmp_path: Path
) -> None:
    """Each user has an item, and two that are held out: enough to be asked, though not to train."""
    rows = [
        {"user_id": f"u{n}", "item_id": f"i{(n + k) % 7}", "timestamp": 1_600_000_000 + k}
        for n in range(40)
        for k in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "interactions.parquet")
    items = [{"item_id": f"i{n}", "title": f"title {n}", "text": f"text {n}"} for n in range(7)]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    build(TablesSource(tmp_path), "tables", tmp_path / "shards")
    config = text_run / "config.yaml"
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    (run / "config.yaml").write_text(config.read_text().replace("min_interactions: 5", "min_interactions: 3"))
    found = last_line(commands.run("evaluate", "--run", run, "--data", tmp_path / "shards"))
    assert 0 <= found["test"]["HR@10"] <= 1
    new = [f"data.path={tmp_path / 'shards'}", f"run_dir={tmp_path / 'new'}"]
    told = refused(commands.run("train", "--config", run / "config.yaml", *new))
    assert "has anything to train on" in told
