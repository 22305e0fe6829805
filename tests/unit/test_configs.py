"""The configurations that come with the project."""

from pathlib import Path

import pytest

from transrec.config import dump, load
from transrec.experiment import Experiment

FOLDER = Path(__file__).parents[2] / "configs"
BASES = {"defaults.yaml"}
FILES = sorted(
    str(path.relative_to(FOLDER))
    for path in FOLDER.rglob("*.yaml")
    if path.name not in BASES and "sweeps" not in path.parts
)


def test_there_are_configurations() -> None:
    assert "quickstart.yaml" in FILES


@pytest.mark.parametrize("name", FILES)
def test_resolves_and_round_trips(name: str, tmp_path: Path) -> None:
    experiment = load(Experiment, FOLDER / name, ["data.path=some/shards", "run_dir=some/run"])
    assert experiment.data.path == Path("some/shards")
    assert experiment.run_dir == Path("some/run")
    (tmp_path / "resolved.yaml").write_text(dump(experiment), encoding="utf-8")
    assert load(Experiment, tmp_path / "resolved.yaml") == experiment


@pytest.mark.parametrize("name", sorted(BASES))
def test_a_base_is_used(name: str) -> None:
    assert any(f"base: {'../' * other.count('/')}{name}" in (FOLDER / other).read_text() for other in FILES)
