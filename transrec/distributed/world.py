"""The processes of a run and the communication between them."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from transrec.distributed import launchers
from transrec.distributed.launchers import Place, RendezvousError
from transrec.distributed.meetings import Meetings
from transrec.distributed.watchdog import Watchdog

if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed prints at import that it found none
import deepspeed

Done = TypeVar("Done")


@dataclass(frozen=True)
class World:
    """This process and its process group; `control` carries small messages that must not wait for a device."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: dist.ProcessGroup | None = None
    watchdog: Watchdog | None = None
    meetings: Meetings | None = None  # None if there is only one rank
    added: tuple[str, ...] = ()  # environment variables set by `start`

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def meet(self, what: str) -> None:
        """Wait until every rank has arrived, however long some take; `what` (a verb and its object) names their work.

        Call it before the first collective after work of unknown duration, because collectives time out.
        """
        if self.size > 1:
            assert self.meetings is not None, "ranks need `start` for a store to meet in"
            self.meetings.meet(what)

    def together(self, what: str, work: Callable[[], Done]) -> Done:
        """The result of `work`, once all ranks have theirs, however long they take; `what` (a verb and its object)
        names the work."""
        done = work()
        self.meet(what)
        return done

    def gather_ints(self, values: list[int]) -> Tensor:
        """(size, len(values)) int64; every rank must give the same number of integers."""
        own = torch.tensor(values, dtype=torch.int64)
        if self.size == 1:
            return own[None]
        self._arrive()
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(gathered, own, group=self.control)
        return torch.stack(gathered)

    def union(self, values: Iterable[int]) -> set[int]:
        """The union of non-negative integers from all ranks, however long the ranks take to find theirs."""
        own = sorted(values)
        self.meet("find its unreadable samples")
        most = int(self.gather_ints([len(own)]).max())
        if most == 0:
            return set()
        return set(self.gather_ints([*own, *[-1] * (most - len(own))]).flatten().tolist()) - {-1}

    def total(self, what: str, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum over ranks of arrays of equal shape, however long some ranks take; `what` (a verb and its object)
        names their work."""
        if self.size == 1:
            return numbers
        self.meet(what)
        self._arrive()
        total = torch.from_numpy(numbers.copy())
        dist.all_reduce(total, group=self.control)
        return total.numpy()

    def gather_rows(self, rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Concatenated rows (n_r, ...) of all ranks, in rank order; `counts` are their numbers n_r, if known."""
        if self.size == 1:
            return rows
        counts = self.gather_ints([len(rows)])[:, 0].tolist() if counts is None else counts
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    def sent(self, value: Tensor | None, shape: tuple[int, ...], source: int) -> Tensor:
        """The `value` of rank `source`, a tensor of this `shape`, as float32 on the CPU of every rank."""
        if self.size == 1:
            assert value is not None
            return value
        sent = torch.empty(shape, device=self.device) if value is None else value.float().to(self.device)
        dist.broadcast(sent, source)
        return sent.cpu()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks of tensors of equal shape."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def barrier(self) -> None:
        if self.size > 1:
            self._arrive()
            dist.barrier(group=self.control)

    def _arrive(self) -> None:
        if self.watchdog is not None:
            self.watchdog.arrive()


_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # environment variables that a launcher would set


def start() -> World:
    """Join the process group that the launcher described; without a launcher, create a group of one.

    Raises:
        RendezvousError: the launcher's variables are incomplete, or the ranks cannot meet.
    """
    place = launchers.find(os.environ)
    variables = _ALONE if place is None else place.variables()
    added = tuple(name for name in variables if name not in os.environ)
    os.environ.update(variables)
    # DeepSpeed uses deprecated names of torch, which a user cannot fix.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed's shared-memory all-reduce for CPUs is compiled at first use and leaves its buffers in /dev/shm when a
    # run ends, 66 MiB per rank. Without it, gloo does the work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = _own_device(place)
    cuda = device.type == "cuda"
    backend = "nccl" if cuda else "gloo"
    if place is None:  # a single process needs no port, which another run could take
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    except dist.DistNetworkError as error:
        raise RendezvousError(
            f"the ranks cannot meet at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
            f"({str(error).splitlines()[0][:200]}). If another run on this machine uses that port, choose another one: "
            "`deepspeed --master_port N …`, or MASTER_PORT=N with srun and mpirun"
        ) from None
    control = dist.new_group(backend="gloo") if cuda else dist.group.WORLD
    rank, size = dist.get_rank(), dist.get_world_size()
    watchdog = None if place is None else _watch(rank, size)
    meetings = Meetings(rank, size, _store()) if size > 1 else None
    return World(rank, size, 0 if place is None else place.local_rank, device, control, watchdog, meetings, added)


def _store() -> dist.TCPStore:
    """A separate connection to the store of the process group, which no other thread blocks."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False)


def _watch(rank: int, size: int) -> Watchdog:
    """Start the watchdog, which communicates through the store of the process group."""
    watchdog = Watchdog(rank, size, _store() if size > 1 else None)
    dist.barrier()
    watchdog.start()
    return watchdog


def join() -> World:
    """Like `start`, except that without a launcher no process group is created, because inference needs none."""
    return World(device=_own_device(None)) if launchers.find(os.environ) is None else start()


def stop(world: World, failed: bool = False) -> None:
    """Leave the process group, on all ranks together; the process may then call `start` again.

    Threads of a group that was not left can abort the process at its exit.

    Args:
        failed: this rank ends with an error. If there are others, it does not wait for them: the launcher ends them.
    """
    if not dist.is_initialized() or (failed and world.size > 1):
        return
    world.barrier()
    if world.watchdog is not None:
        world.watchdog.stop()
    dist.destroy_process_group()
    for name in world.added:
        os.environ.pop(name, None)
    # DeepSpeed keeps the destroyed group, which its next engine would use.
    deepspeed.comm.comm.cdb = None
    deepspeed.utils.groups._WORLD_GROUP = None


def _own_device(place: Place | None) -> torch.device:
    """
    Raises:
        RendezvousError: this node has more ranks than this process sees GPUs.
    """
    local_rank = 0 if place is None else place.local_rank
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise RendezvousError(
                f"local rank {local_rank} sees only {torch.cuda.device_count()} GPUs on this node: start one "
                "rank per GPU, and let each rank see all GPUs (srun with --gpus-per-node, not --gpus-per-task)"
            )
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    share_cores(1 if place is None else place.local_size or place.size)
    return torch.device("cpu")


def whole(tensor: Tensor, modify: bool = False) -> AbstractContextManager[Any]:
    """Context in which a parameter partitioned by ZeRO-3 is whole; every rank must enter it.

    With `modify`, all ranks receive the changes made by rank 0.
    """
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    found: AbstractContextManager[Any, bool | None] = deepspeed.zero.GatheredParameters(
        [tensor], modifier_rank=0 if modify else None
    )
    return found


def share_cores(processes: int) -> None:
    """On CPU, give each process of this node its share of the cores it may use, unless OMP_NUM_THREADS is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        share = (os.cpu_count() or 1) // processes
        torch.set_num_threads(max(1, min(share, len(os.sched_getaffinity(0)))))
