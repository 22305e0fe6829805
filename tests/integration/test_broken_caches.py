"""`fill` over every kind of broken file in its cache and in the shards: it fills, or says in one sentence why not."""

import shutil
from pathlib import Path

import pytest
from commands import ForkedCommands
from damages import DAMAGES
from tiny_world import Tiny

pytestmark = pytest.mark.slow

KEPT = ["run_dir=unwritten", "adaptation={name: head_only}", "model.item_encoder.dropout=0", "data.workers=0"]
OF_THE_CACHE = ["tokens-*/offsets.npy", "tokens-*/tokens.npy", "states-*/how.json", "states-*/offsets.npy"]
OF_THE_SHARDS = ["index.json", "items.parquet", "user_blocks.parquet", "items-000000.tar", "users-000000.tar"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    cache = tmp_path_factory.mktemp("broken") / "cache"
    assert commands.run("fill", "--config", tiny.config, f"data.cache={cache}", *KEPT).code == 0
    return cache


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*OF_THE_CACHE, "states-*/states.bin"])
def test_a_broken_cache(
    commands: ForkedCommands, tiny: Tiny, cache: Path, tmp_path: Path, name: str, damage: str
) -> None:
    """The states come from the tokens, so they are removed where the tokens are broken."""
    broken = Path(shutil.copytree(cache, tmp_path / "cache"))
    (path,) = broken.glob(name)
    DAMAGES[damage](path)
    if name.startswith("tokens"):
        for folder in broken.glob("states-*"):
            shutil.rmtree(folder)
    assert_told(commands, tiny, f"data.cache={broken}")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OF_THE_SHARDS)
def test_a_broken_shard_set(commands: ForkedCommands, tiny: Tiny, tmp_path: Path, name: str, damage: str) -> None:
    broken = Path(shutil.copytree(tiny.shards, tmp_path / "shards"))
    DAMAGES[damage](broken / name)
    assert_told(commands, tiny, f"data.path={broken}", f"data.cache={tmp_path / 'cache'}")


def assert_told(commands: ForkedCommands, tiny: Tiny, *settings: str) -> None:
    """It fills, or says in a few words why not; and so does a training, which reads what was filled."""
    filled = commands.run("fill", "--config", tiny.config, *KEPT, *settings)
    trained = commands.run("train", "--config", tiny.config, *KEPT, *settings, "run_dir=none", "train.steps=2")
    for ended in (filled, trained):
        assert ended.code in (0, 1)
        assert "Traceback" not in ended.stderr
        assert ended.code == 0 or "error: " in ended.stderr, ended.stderr
        assert len(ended.stderr) < 5000, "a message is no copy of the file"
