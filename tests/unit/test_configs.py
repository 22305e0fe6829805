"""The configurations that come with the project."""

from pathlib import Path
from typing import Any

import pytest

from transrec.config import Config, ConfigError, config_classes, dump, find, load
from transrec.experiment import Experiment
from transrec.sweeps.config import Sweep

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


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("quickstart", "quickstart.yaml"),
        ("transrec/text_sasrec", "transrec/text_sasrec.yaml"),
        ("sweeps/quick", "sweeps/quick.yaml"),
        ("configs/peterrec/peter_rec.yaml", "peterrec/peter_rec.yaml"),  # as the pages write it for a checkout
    ],
)
def test_a_shipped_one_is_found_by_name_from_anywhere(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()  # a folder is no configuration
    assert find(name) == FOLDER / file


def test_a_file_that_is_there_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("seed: 1\n")
    assert find("quickstart") == Path("quickstart")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quikstart",
            "quikstart not found: it is neither a file nor the name of a shipped configuration. Shipped with similar",
        ),
        ("text_sasrec", "Shipped with similar names: transrec/text_sasrec"),
        ("my/text_sasrc.yaml", "Shipped with similar names: transrec/text_sasrec"),
        ("/nowhere/zzzzzz", ". Shipped: defaults, em3/din, "),
    ],
)
def test_a_name_of_none_is_answered_with_those_like_it(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find(name)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def settings_of(annotation: Any) -> set[type[Config]]:
    """Every configuration class that a schema reaches."""
    found = set(config_classes(annotation))
    return found.union(*(settings_of(field.annotation) for each in found for field in each.model_fields.values()))


@pytest.mark.parametrize("schema", [Experiment, Sweep])
def test_every_key_says_what_it_is(schema: type[Config]) -> None:
    classes = settings_of(schema)
    fields = {f"{each.__name__}.{key}": field for each in classes for key, field in each.model_fields.items()}
    assert not [key for key, field in fields.items() if not field.description]
