"""The folder of a run: `config.yaml`, which is the run, and `environment.yaml`, where it was started."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from transrec.config import ConfigError, dump, read_yaml, validate
from transrec.data.shards.remote import public
from transrec.experiment import Experiment
from transrec.files import write_text, writing
from transrec.training.tracking import flatten

CONFIG_FILE = "config.yaml"
_FROM_THE_LAUNCHER = "--local_rank="  # put in for each rank; nobody types it

# What may differ when a run is resumed: how the work is done, not what is learnt.
MAY_DIFFER = (
    "zero",  # where weights and optimizer state lie
    "deepspeed.zero_optimization",  # how they travel; other DeepSpeed keys may change the arithmetic
    "data.path",  # the checkpoint holds the hash of the shards
    "data.examples.targets.target",  # likewise of the targets of a task
    "data.examples.targets.path",
    "data.cache",
    "data.cache_bytes",
    "data.workers",  # steps are dealt out to them in order
    "data.most_bad_share",  # a limit; what is left out is the same
    "model.item_encoder.chunk_tokens",  # how items are cut into encoder passes
    "model.item_encoder.text.chunk_tokens",
    "model.item_encoder.chunk_images",
    "model.item_encoder.image.chunk_images",
    "model.item_encoder.decoded_cache",  # where pixels come from
    "model.item_encoder.image.decoded_cache",
    "train.accumulation",  # a batch is cut up as other numbers of ranks cut it
    "train.gradient_checkpointing",
    "train.log_every",
    "train.checkpoint_every",
)


def load(run_dir: Path) -> Experiment:
    """The experiment a run folder holds.

    Raises:
        ConfigError: the folder is not a run.
    """
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise ConfigError(f"{run_dir} is not a run folder: it has no {CONFIG_FILE}")
    return validate(Experiment, read_yaml(path))


def check_run_dir(experiment: Experiment) -> None:
    """A run folder is new, or it belongs to the same experiment, but for what `MAY_DIFFER`.

    Raises:
        ConfigError: the folder holds another experiment (naming what differs), or something else.
    """
    run_dir, path = experiment.run_dir, experiment.run_dir / CONFIG_FILE
    if path.exists():
        changed = differences(validate(Experiment, read_yaml(path)), experiment)
        differing = [text for key, text in changed.items() if not may_differ(key)]
        if differing:
            listed = "\n  ".join(differing)
            raise ConfigError(
                f"{run_dir} holds another experiment; it differs in:\n  {listed}\n"
                "Choose another run_dir, or start with the configuration of that run to resume it."
            )
    elif run_dir.exists() and any(run_dir.iterdir()):
        raise ConfigError(f"{run_dir} is not empty and not a run folder: choose another run_dir")


def write_run_dir(experiment: Experiment) -> None:
    """Begin a new run folder; in one that is there, write down what now differs."""
    path = experiment.run_dir / CONFIG_FILE
    if path.exists():
        if differences(validate(Experiment, read_yaml(path)), experiment):
            write_text(path, dump(experiment))
        return
    with writing(experiment.run_dir):
        experiment.run_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, dump(experiment))
    write_text(experiment.run_dir / "environment.yaml", yaml.safe_dump(environment(), sort_keys=False))


def differences(old: Experiment, new: Experiment) -> dict[str, str]:
    """By dotted key, what it was and what it is."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return {
        key: public(f"{key}: {before.get(key)!r}") + " there, " + public(f"{after.get(key)!r} now")
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    }


def may_differ(key: str) -> bool:
    return any(key == field or key.startswith(f"{field}.") for field in MAY_DIFFER)


def environment() -> dict[str, Any]:
    packages = {}
    for name in ("transrec", "torch", "deepspeed", "transformers", "tokenizers", "pillow", "pyarrow", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "command": [public(argument) for argument in sys.argv if not argument.startswith(_FROM_THE_LAUNCHER)],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": packages,
    }
