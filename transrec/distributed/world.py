"""Processes and the messages between them."""

import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from transrec.distributed.meetings import Meetings
from transrec.distributed.watchdog import Watchdog
from transrec.errors import TransRecError

if not torch.accelerator.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed says on stdout, at import, that it found none
import deepspeed

Done = TypeVar("Done")


class RendezvousError(TransRecError, RuntimeError):
    """The processes of a run did not find each other."""


@dataclass(frozen=True)
class World:
    """This process among the others; `control` carries small messages that must not wait for a device."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: dist.ProcessGroup | None = None
    watchdog: Watchdog | None = None
    meetings: Meetings | None = None  # of a launched run of several ranks
    added: tuple[str, ...] = ()  # variables that `start` put into the environment

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def meet(self, what: str) -> None:
        """Wait until every rank is here, however long some of them take to `what` (a verb and its object).

        It belongs before the first collective after work whose length nobody knows, as no collective waits that long.
        """
        if self.size > 1:
            assert self.meetings is not None, "ranks that did not come by `start` have no store to meet in"
            self.meetings.meet(what)

    def in_turn(self, what: str, work: Callable[[], Done]) -> Done:
        """Call `work` on one process of each node, then on the others, which find what the first has stored."""
        if self.local_rank == 0:
            done = work()
        self.meet(what)
        if self.local_rank != 0:
            done = work()
        self.meet(what)  # where processes of a node share no disk, the others' work was as long
        return done

    def gather_ints(self, values: list[int]) -> Tensor:
        """(size, len(values)) int64: the same number of integers from every rank."""
        own = torch.tensor(values, dtype=torch.int64)
        if self.size == 1:
            return own[None]
        self._arrive()
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(gathered, own, group=self.control)
        return torch.stack(gathered)

    def union(self, values: Iterable[int]) -> set[int]:
        """All the integers from 0 on that any rank gives, however long the ranks took to find theirs."""
        own = sorted(values)
        self.meet("find what cannot be read")
        most = int(self.gather_ints([len(own)]).max())
        if most == 0:
            return set()
        return set(self.gather_ints([*own, *[-1] * (most - len(own))]).flatten().tolist()) - {-1}

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Rows (n_r, ...) of every rank, one after another; n_r may differ."""
        if self.size == 1:
            return rows
        counts = self.gather_ints([len(rows)])[:, 0].tolist()
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks of a tensor of equal shape."""
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


_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # of the environment that a launcher gives a process


def start() -> World:
    """Join the process group that the launcher described; without a launcher, make a group of one."""
    launched = "RANK" in os.environ
    added = {} if launched else _ALONE
    os.environ.update(added)
    # DeepSpeed calls names that this torch deprecates; nothing a user could put right.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed's shared-memory all-reduce for CPUs is compiled at first use and leaves its buffers in /dev/shm when a
    # run ends, 66 MiB a rank. Without it gloo does the work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = _own_device(int(os.environ["LOCAL_RANK"]))
    cuda = device.type == "cuda"
    backend = "nccl" if cuda else "gloo"
    if not launched:  # one process meets nobody: without a port no other run can take it meanwhile
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    except dist.DistNetworkError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RendezvousError(
            f"the ranks cannot meet at {place} ({str(error).splitlines()[0][:200]}). If another run of this machine "
            "meets there, choose another port: `deepspeed --master_port N …`"
        ) from None
    control = dist.new_group(backend="gloo") if cuda else dist.group.WORLD
    rank, size = dist.get_rank(), dist.get_world_size()
    watchdog = _watch(rank, size) if launched else None
    meetings = Meetings(rank, size, _store()) if size > 1 else None
    return World(rank, size, int(os.environ["LOCAL_RANK"]), device, control, watchdog, meetings, tuple(added))


def _store() -> dist.TCPStore:
    """A connection of its own, which no other thread blocks, to the store that brought the process group together."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False)


def _watch(rank: int, size: int) -> Watchdog:
    """Start the watchdog; its messages go over the store of the process group."""
    watchdog = Watchdog(rank, size, _store() if size > 1 else None)
    dist.barrier()
    watchdog.start()
    return watchdog


def join() -> World:
    """As `start`, but a process without a launcher stays alone, without a process group: all that inference needs."""
    return start() if "RANK" in os.environ else World(device=_own_device(0))


def stop(world: World, failed: bool = False) -> None:
    """Leave the process group, together; the process may then `start` again.

    Threads of a group that is still alive can abort a process at its exit.

    Args:
        failed: this rank was cut off by an error. Among several, it waits for nobody: the launcher ends them all.
    """
    if not dist.is_initialized() or (failed and world.size > 1):
        return
    world.barrier()
    if world.watchdog is not None:
        world.watchdog.stop()
    dist.destroy_process_group()
    for name in world.added:
        os.environ.pop(name, None)
    # DeepSpeed keeps the group that is gone: its next engine would talk to it.
    deepspeed.comm.comm.cdb = None
    deepspeed.utils.groups._WORLD_GROUP = None


def _own_device(local_rank: int) -> torch.device:
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    share_cores(int(os.environ.get("LOCAL_SIZE", os.environ.get("WORLD_SIZE", "1"))))
    return torch.device("cpu")


def whole(tensor: Tensor, modify: bool = False) -> AbstractContextManager[Any]:
    """Within the context a parameter that ZeRO-3 has partitioned is whole; every rank must enter it.

    With `modify`, what rank 0 writes is what all ranks hold afterwards.
    """
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    found: AbstractContextManager[Any, bool | None] = deepspeed.zero.GatheredParameters(
        [tensor], modifier_rank=0 if modify else None
    )
    return found


def share_cores(processes: int) -> None:
    """On CPU, give each process of this node its share of the cores unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
