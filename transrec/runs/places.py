"""The folders from which a run takes weights, compared by content: a moved or linked folder counts as the same."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from transrec.config import ConfigError, read_yaml
from transrec.experiment import Experiment
from transrec.training.records import flatten

ENVIRONMENT_FILE = "environment.yaml"
BACKBONE = "backbone"

_RECORDED_AS = "contents"  # key of the environment file
_HASHED = (".safetensors", ".json", ".txt", ".model")  # weights, configuration and tokenizer


def weight_folders(experiment: Experiment) -> dict[str, Path]:
    """The local folders from which a run takes weights, by the dotted key that names them."""
    values = flatten(experiment.model_dump(mode="json"))
    named = {key: Path(value) for key, value in values.items() if _names_weights(key) and isinstance(value, str)}
    return {key: folder for key, folder in named.items() if folder.is_dir()}


def contents(experiment: Experiment) -> dict[str, str]:
    """Hash of the content of each of `weight_folders`, for the environment file."""
    hashes = {key: hash_of_weights(folder) for key, folder in weight_folders(experiment).items()}
    return {key: digest for key, digest in hashes.items() if digest is not None}


def as_recorded(found: Mapping[str, str]) -> dict[str, Any]:
    """The part of the environment file that holds `contents`; nothing if the run takes no weights from a folder."""
    return {_RECORDED_AS: dict(found)} if found else {}


def same_content(run_dir: Path, key: str, old: Experiment, new: Experiment) -> bool:
    """Whether a field differs only because the weights that the run in `run_dir` started from are in another place.

    The folder is compared with the hash that was recorded when the run began or, for a run of an earlier version, with
    the folder named in its configuration, if that still exists.
    """
    now = weight_folders(new).get(key)
    if now is None:
        return False
    before = _recorded(run_dir).get(key)
    if before is None and (then := weight_folders(old).get(key)) is not None:
        before = hash_of_weights(then)
    return before is not None and before == hash_of_weights(now)


def _names_weights(key: str) -> bool:
    return key == "init_from" or key.rpartition(".")[2] == BACKBONE


def _recorded(run_dir: Path) -> dict[str, str]:
    try:
        found = read_yaml(run_dir / ENVIRONMENT_FILE).get(_RECORDED_AS, {})
    except (ConfigError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def hash_of_weights(folder: Path) -> str | None:
    """SHA-256 of the files of a model, or of the exported weights of a run; None if there are no such files."""
    digest, files = hashlib.sha256(), list(_files(folder))
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if files else None


def _files(folder: Path) -> Iterator[Path]:
    export = folder / "export"
    if export.is_dir():
        yield from sorted(path for path in export.glob("*.safetensors") if path.is_file())
    else:
        yield from sorted(path for path in folder.iterdir() if path.suffix in _HASHED and path.is_file())
