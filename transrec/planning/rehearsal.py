"""Reads the measurements of each phase from a finished run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transrec.config import ConfigError, read_yaml
from transrec.experiment import Experiment
from transrec.phases import Recorded
from transrec.planning.laws import LAWS, REPEATED, Amounts
from transrec.planning.setting import Parameters, Setting, known_number
from transrec.runs.places import ENVIRONMENT_FILE
from transrec.runs.run_folder import comparable, load
from transrec.runs.summary import SUMMARY_FILE, read_summary

_NEEDED = ("start", "scan", "steps", "test")


def kind_of(experiment: Experiment) -> str:
    """The kind of a run, as JSON: everything that determines the work for a window."""
    values = experiment.model_dump(mode="json", include={"model", "adaptation"})
    return json.dumps(values | {"precision": experiment.train.precision}, sort_keys=True)


def training_speed(summary: Mapping[str, Any]) -> float:
    """Windows per second of a run's training steps, including validations if the run did not record its phases.

    Raises:
        KeyError, TypeError, ValueError: the summary is from another version, or damaged.
    """
    steps = summary.get("phases", {}).get("steps", {})
    if steps.get("windows") and steps["seconds"]:
        return float(steps["windows"]) / float(steps["seconds"])
    return float(summary["users_per_second"])


@dataclass(frozen=True)
class Rehearsal:
    """A finished run, its size, and its measurements."""

    folder: Path
    setting: Setting
    device: str
    summary: Mapping[str, Any]

    @property
    def phases(self) -> Recorded:
        found: Recorded = self.summary["phases"]
        return found

    @property
    def bytes_of(self) -> Mapping[str, float]:
        """Bytes of the files of the set of shards, by kind."""
        kinds = ("users", "items", "catalogue", "blocks")
        return {kind: self.phases["scan"].get(f"bytes_of_{kind}", 0.0) for kind in kinds}

    def measured(self, phase: str, clock: str = "seconds") -> float | None:
        """The seconds of a phase: for `steps`, of one epoch; for a phase that a run may enter several times, of
        entering it once; for others, of the whole phase. None if the run did not have this phase.

        Args:
            clock: `seconds`, or `processor_seconds` of the main process.
        """
        found = self.phases.get(phase)
        if found is None:
            return None
        if phase == "steps":
            return found[clock] * known_number(self.setting.windows) / found["windows"]
        return found[clock] / (found["times"] if phase in REPEATED else 1)

    def amounts(self, phase: str) -> Amounts:
        """The amounts of work of a phase."""
        return LAWS[phase].amounts(self.setting)

    @property
    def baselines(self) -> set[str]:
        """The names of the baselines that the run evaluated."""
        return set(self.summary.get("baselines", ()))

    def windows_of_a_rank(self) -> float:
        """The number of windows that a rank trains on in a step."""
        return self.setting.experiment.train.batch_size / self.setting.ranks


def read_rehearsals(
    folders: Sequence[Path], experiment: Experiment, parameters: Callable[[int], Parameters]
) -> list[Rehearsal]:
    """Finished runs, the smallest first.

    Args:
        parameters: returns the parameters of a run with a given number of items.

    Raises:
        ConfigError: a run is not finished, did not measure its phases, or has a different configuration or device.
    """
    found = [_read(folder, parameters) for folder in folders]
    for one in found:
        if kind_of(comparable(one.setting.experiment)) != kind_of(comparable(experiment)):
            raise ConfigError(
                f"{one.folder} was trained with a different model, adaptation or precision: give runs with the same "
                "`model`, `adaptation` and `train.precision` as the configuration"
            )
        if one.device != found[0].device:
            raise ConfigError(
                f"{found[0].folder} ran on {found[0].device}, {one.folder} on {one.device}: give runs of the same kind "
                "of device"
            )
    return sorted(found, key=lambda one: one.setting.interactions or 0)


def _read(folder: Path, parameters: Callable[[int], Parameters]) -> Rehearsal:
    experiment, summary = load(folder), read_summary(folder)
    if summary is None:
        raise ConfigError(f"{folder} is not finished (no readable {SUMMARY_FILE}): give the folder of a finished run")
    phases = summary.get("phases", {})
    missing = [name for name in _NEEDED if name not in phases]
    if missing:
        raise ConfigError(
            f"{folder} did not measure its {missing[0]}: give a run that this version trained without "
            "interruption, with at least two steps"
        )
    try:
        setting = _setting(experiment, summary, parameters)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{folder / SUMMARY_FILE} lacks what a plan needs ({error!r}): train the run again") from None
    place = folder / ENVIRONMENT_FILE
    environment = read_yaml(place) if place.exists() else {}
    device = str(environment.get("device", "an unknown device"))
    if device == "cpu":
        threads = environment.get("threads", "?")
        device = f"a CPU ({threads} thread{'s' * (threads != 1)})"
    return Rehearsal(folder, setting, device, summary)


def _setting(experiment: Experiment, summary: Mapping[str, Any], parameters: Callable[[int], Parameters]) -> Setting:
    phases, scan = summary["phases"], summary["phases"]["scan"]
    validation = int(phases["test"]["questions"] - phases["results"]["questions"])
    return Setting(
        experiment=experiment,
        users=int(scan["users"]),
        items=int(scan["items"]),
        ranks=int(summary["ranks"]),
        nodes=1,
        parameters=parameters(int(scan["items"])),
        interactions=int(scan["interactions"]),
        windows=int(summary["data"]["windows"]),
        asked=(validation, int(phases["results"]["questions"])),
        operations=operations(summary, encoded_for_a_window(summary)),
    )


def encoded_for_a_window(summary: Mapping[str, Any]) -> float:
    """The number of items encoded per window, on average over the steps of a run."""
    steps = summary["phases"]["steps"]
    return float(steps["items_encoded"] / steps["windows"])


def occurrences_in_a_window(summary: Mapping[str, Any]) -> float:
    """The average number of items in a window; as many are encoded for it if no two windows share an item."""
    steps = summary["phases"]["steps"]
    return float(steps["item_occurrences"] / steps["windows"])


def operations(summary: Mapping[str, Any], encoded: float) -> float | None:
    """Floating-point operations for a window if `encoded` items are encoded for it; None if they were not counted.

    They were counted on one micro-batch; the share of the item encoder is scaled to the items encoded for a window.
    """
    if "flops_per_user" not in summary:
        return None
    flops, work, parts = summary["flops_per_user"], summary["work"], summary["flops_by_tower"]
    users = work["item_occurrences"] / occurrences_in_a_window(summary)
    then, share = work["items_encoded"] / max(1.0, users), parts.get("item_encoder", 0.0)
    return float((flops["forward"] + flops["backward"]) * (1 + share * (encoded / max(1e-9, then) - 1)))
