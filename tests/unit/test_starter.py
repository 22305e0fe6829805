from pathlib import Path

import pytest
import yaml

from transrec.config import ConfigError, load
from transrec.experiment import Experiment
from transrec.starter import FILES, write_project


def test_the_configuration_is_valid_and_based_on_the_recommended_one(tmp_path: Path) -> None:
    write_project(tmp_path / "new")
    assert yaml.safe_load(FILES["config.yaml"])["base"] == "transrec/recommended"
    experiment = load(Experiment, tmp_path / "new" / "config.yaml")
    assert experiment.run_dir == Path("runs/first")
    assert experiment.adaptation.name == "head_only", "from the recommended configuration"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert {path.relative_to(tmp_path).as_posix() for path in write_project(tmp_path)} == {*FILES}


def test_a_folder_with_a_file_will_not(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(ConfigError, match="is not empty: choose a new folder"):
        write_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]
