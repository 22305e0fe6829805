"""What one run may start another with: all weights, strictly; what does not fit is named, with what to set."""

from pathlib import Path

import pytest
import torch
from commands import Commands, ForkedCommands
from run_folder import exported
from tiny_world import Tiny, build_shards

IDS = "model.item_encoder={name: id_embedding}"


def train(commands: Commands, tiny: Tiny, run_dir: Path, *more: str) -> Path:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=2", *more)
    assert finished.code == 0, finished.stderr
    return run_dir


def refusal(commands: Commands, tiny: Tiny, run_dir: Path, *more: str) -> str:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=2", *more)
    assert finished.code == 1
    assert "Traceback" not in finished.stderr
    assert not run_dir.exists()
    return finished.stderr[finished.stderr.index("error: ") :]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def text_run(runs: Path, tiny: Tiny, commands: ForkedCommands) -> Path:
    return train(commands, tiny, runs / "text")


@pytest.fixture(scope="module")
def id_run(runs: Path, tiny: Tiny, commands: ForkedCommands) -> Path:
    return train(commands, tiny, runs / "id", IDS)


@pytest.fixture(scope="module")
def other_data(runs: Path) -> list[str]:
    shards = build_shards(runs / "shards", users=120, items=60, interactions=1500, seed=5)
    return [f"data.path={shards}", "data.fraction=1.0"]


def test_another_length_of_histories(commands: ForkedCommands, tiny: Tiny, text_run: Path, run_dir: Path) -> None:
    message = refusal(commands, tiny, run_dir, f"init_from={text_run}", "model.max_length=12")
    assert "user_encoder.positions.weight: the model has (12, 16), the file (8, 16)" in message
    assert "model.max_length is 8 in the source run but 12 in this run" in message
    assert "an embedding for each position: set model.max_length=8" in message


def test_another_backbone(commands: ForkedCommands, tiny: Tiny, text_run: Path, run_dir: Path) -> None:
    message = refusal(commands, tiny, run_dir, f"init_from={text_run}", "model.item_encoder.layers=1")
    assert "unexpected: item_encoder.backbone.encoder.layer.1." in message
    assert "model.item_encoder.layers is None in the source run but 1 in this run" in message


def test_items_read_in_another_way_are_a_warning(
    commands: ForkedCommands, tiny: Tiny, text_run: Path, run_dir: Path
) -> None:
    """No weight has another shape, so the run starts, and a line names the keys and both values."""
    reading = ["model.item_encoder.max_tokens=5", "model.item_encoder.fields=[title]"]
    harmless = ["model.item_encoder.dropout=0.2", "model.item_encoder.chunk_tokens=512"]
    start = ["train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=2", f"init_from={text_run}"]
    finished = commands.run(*start, *reading, *harmless)
    assert finished.code == 0, finished.stderr
    warnings = [line for line in finished.stderr.splitlines() if "other item encoder settings" in line]
    assert warnings == [
        f"warning: the weights of `init_from` ({text_run}) were trained with other item encoder settings: "
        "model.item_encoder.fields is ['text'] in the source run but ['title'] in this run; "
        "model.item_encoder.max_tokens is 16 in the source run but 5 in this run; "
        "use the source's values unless this is intended"
    ]


def test_items_read_in_the_same_way_are_no_warning(
    commands: ForkedCommands, tiny: Tiny, text_run: Path, run_dir: Path
) -> None:
    start = ["train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=2", f"init_from={text_run}"]
    finished = commands.run(*start, "model.item_encoder.dropout=0.2")
    assert finished.code == 0, finished.stderr
    assert "other item encoder settings" not in finished.stderr


def test_item_ids_of_another_catalogue(
    commands: ForkedCommands, tiny: Tiny, id_run: Path, other_data: list[str], run_dir: Path
) -> None:
    message = refusal(commands, tiny, run_dir, IDS, *other_data, f"init_from={id_run}")
    assert f"{id_run} embeds the item ids of another catalogue (item_encoder.embedding.weight)" in message
    assert "`init_except=[item_encoder.embedding]`" in message


def test_item_ids_may_be_left_fresh_and_the_rest_is_taken(
    commands: ForkedCommands, tiny: Tiny, id_run: Path, other_data: list[str], run_dir: Path
) -> None:
    still = "optimizer.lr={backbone: 0, head: 0, adapter: 0}"
    fresh = [f"init_from={id_run}", "init_except=[item_encoder.embedding]"]
    trained, source = exported(train(commands, tiny, run_dir, IDS, *other_data, *fresh, still)), exported(id_run)
    assert trained["item_encoder.embedding.weight"].shape == (61, 16)
    del trained["item_encoder.embedding.weight"], source["item_encoder.embedding.weight"]
    assert trained.keys() == source.keys()
    assert all(torch.equal(tensor, source[name]) for name, tensor in trained.items())


def test_adapters_over_fresh_item_ids(
    commands: ForkedCommands, tiny: Tiny, id_run: Path, other_data: list[str], run_dir: Path
) -> None:
    """They have to train; then the adapter's file holds them, and the run can be used."""
    method = "adaptation={name: houlsby, towers: [user]}"
    fresh = [IDS, *other_data, f"init_from={id_run}", "init_except=[item_encoder.embedding]"]
    message = refusal(commands, tiny, run_dir, *fresh, method)
    assert "item_encoder.embedding.weight would be random and frozen" in message
    train(commands, tiny, run_dir, *fresh, "adaptation={name: houlsby, towers: [user], also_train: [head]}")
    assert exported(run_dir)["item_encoder.embedding.weight"].shape == (61, 16)
    assert commands.run("evaluate", "--adapter", run_dir).code == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["init_except=[item_encoder.nothing]"],
            "`init_except`: the model has no 'item_encoder.nothing': choose from ",
        ),
        (["init_except=[item_encoder.projection]", "init_from=null"], "init_except is set without init_from"),
    ],
)
def test_an_exception_that_excepts_nothing(
    commands: ForkedCommands, tiny: Tiny, text_run: Path, run_dir: Path, settings: list[str], message: str
) -> None:
    assert message in refusal(commands, tiny, run_dir, f"init_from={text_run}", *settings)
