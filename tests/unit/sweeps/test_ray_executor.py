"""A trial runs alone, whatever started the process of Ray that it runs in."""

import os
from typing import Any
from unittest.mock import MagicMock

import pytest

from transrec.distributed import launchers
from transrec.sweeps import ray_executor
from transrec.sweeps.config import Resources

TASK = {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NODELIST": "n[1-3]"}


def test_a_trial_is_no_task_of_the_srun_that_started_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    places: list[Any] = []
    monkeypatch.setattr(ray_executor, "train_and_test", lambda experiment: places.append(launchers.find(os.environ)))
    ray_executor.train(MagicMock(), Resources())
    assert places == [None]
