"""The device and the cores of a process."""

import os

import pytest
import torch

from transrec.distributed import world
from transrec.distributed.launchers import Place, RendezvousError

SECOND = Place(rank=1, size=2, local_rank=1, local_size=2, address="127.0.0.1", port=29500)


def test_a_rank_that_does_not_see_its_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RendezvousError, match="local rank 1 sees only 1 GPUs on this node: start one rank per GPU"):
        world._own_device(SECOND)


@pytest.mark.parametrize(("allowed", "processes", "threads"), [(32, 4, 8), (4, 4, 4), (32, 64, 1)])
def test_a_process_takes_its_share_of_the_cores_that_it_may_use(
    monkeypatch: pytest.MonkeyPatch, allowed: int, processes: int, threads: int
) -> None:
    """srun binds a task to some of the cores of its node."""
    taken: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    world.share_cores(processes)
    assert taken == [threads]
