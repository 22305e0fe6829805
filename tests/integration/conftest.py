from pathlib import Path

import pytest
from tiny_runs import ForkedCommands, LaunchedCommands, Tiny, write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> ForkedCommands:
    return ForkedCommands(tmp_path_factory.mktemp("forked"))


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> LaunchedCommands:
    return LaunchedCommands(tmp_path_factory.mktemp("launched"))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"
