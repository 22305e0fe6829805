"""A process that is short of memory: what Ray calls in each of its workers, before anything else.

Every window of a micro-batch takes 256 MiB, and 3 GiB are to be had: 8 windows fit and 16 do not.
"""

import resource
from pathlib import Path

import torch

from transrec.data.batch import SequenceBatch
from transrec.models.sequential_recommender import SequentialRecommender

SETUP = {"__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": "short_memory.be_short"}  # of the environment that Ray starts in
_A_WINDOW, _ALL = 256 * 2**20, 3 * 2**30  # bytes


def be_short() -> None:
    forward = SequentialRecommender.forward

    def hungry(self: SequentialRecommender, batch: SequenceBatch) -> dict[str, torch.Tensor]:
        _limit()
        torch.empty(len(batch.inputs) * _A_WINDOW, dtype=torch.uint8)  # never touched: it is only asked for
        return forward(self, batch)

    SequentialRecommender.forward = hungry  # type: ignore[method-assign]


def _limit() -> None:
    """Address space, from what the process has when it begins to train."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ALL, resource.RLIM_INFINITY))
