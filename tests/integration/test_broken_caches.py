"""`fill` over every kind of broken file in its cache and in the shards: it fills, or says in one sentence why not."""

import shutil
from pathlib import Path

import pytest
from commands import ForkedCommands
from damages import DAMAGES
from tiny_world import Tiny

pytestmark = pytest.mark.slow

KEPT = ["adaptation={name: head_only}", "model.item_encoder.dropout=0", "data.workers=0"]
OF_THE_CACHE = [
    "tokens-*/offsets.npy",
    "tokens-*/tokens.npy",
    "states-*/how.json",
    "states-*/offsets.npy",
    "states-*/states.bin",
    "evidence-*/starts.npy",
    "evidence-*/columns.int32",
]
OF_THE_SHARDS = ["index.json", "items.parquet", "user_blocks.parquet", "items-000000.tar", "users-000000.tar"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    cache = tmp_path_factory.mktemp("broken") / "cache"
    settings = [*KEPT, f"data.cache={cache}", f"run_dir={cache.parent / 'run'}", "train.steps=2"]
    assert commands.run("train", "--config", tiny.config, *settings).code == 0
    return cache


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OF_THE_CACHE)
def test_a_broken_cache(
    commands: ForkedCommands, tiny: Tiny, cache: Path, tmp_path: Path, name: str, damage: str
) -> None:
    """The states come from the tokens, so they are removed where the tokens are broken."""
    broken = Path(shutil.copytree(cache, tmp_path / "cache"))
    DAMAGES[damage](min(broken.glob(name)))
    if name.startswith("tokens"):
        for folder in broken.glob("states-*"):
            shutil.rmtree(folder)
    assert_told(commands, tiny, f"data.cache={broken}", f"run_dir={tmp_path / 'run'}")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OF_THE_SHARDS)
def test_a_broken_shard_set(commands: ForkedCommands, tiny: Tiny, tmp_path: Path, name: str, damage: str) -> None:
    broken = Path(shutil.copytree(tiny.shards, tmp_path / "shards"))
    DAMAGES[damage](broken / name)
    assert_told(
        commands, tiny, f"data.path={broken}", f"data.cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"
    )


def assert_told(commands: ForkedCommands, tiny: Tiny, *settings: str) -> None:
    """It fills, or says in a few words why not; and so does a training, which reads what was filled."""
    filled = commands.run("fill", "--config", tiny.config, *KEPT, *settings)
    trained = commands.run("train", "--config", tiny.config, *KEPT, *settings, "train.steps=2")
    for ended in (filled, trained):
        assert ended.code in (0, 1)
        assert "Traceback" not in ended.stderr
        assert ended.code == 0 or "error: " in ended.stderr, ended.stderr
        assert len(ended.stderr) < 5000, "a message is no copy of the file"
