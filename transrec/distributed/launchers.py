"""The place of a process among the processes of a run, from the environment variables set by its launcher.

| launcher                             | variables                                                                  |
| ------------------------------------ | -------------------------------------------------------------------------- |
| deepspeed, torchrun, Ray Train       | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`           |
| Open MPI's mpirun                    | `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE`              |
| MVAPICH's mpirun                     | `MV2_COMM_WORLD_RANK` and the same endings                                 |
| MPICH's and Intel MPI's mpirun       | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS`               |
| srun                                 | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`, `SLURM_LOCALID` and those of nodes |

The first launcher in this order whose variables are set is used, because mpirun starts its daemons with srun, and
torchrun may itself be a task of srun. `MASTER_ADDR` and `MASTER_PORT` are used if they are set, whichever launcher
started the process.

Designs considered. mpi4py, as DeepSpeed does: one more library to compile, and it does not help under srun without MPI.
Environment plugins as in Lightning: a class for each launcher, although only the names differ. Chosen: a table of
names, and a function for what only SLURM has.
"""

import re
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

from transrec.errors import TransRecError

_PORT = 29500  # torch's default
_FIRST_PORT, _PORTS = 20000, 10000  # below those that the system gives to outgoing connections
_SHELLS = 0xFFFFFFF0  # SLURM gives higher ids to the steps of batch scripts and interactive shells


class RendezvousError(TransRecError, RuntimeError):
    """The processes of a run could not find each other."""


@dataclass(frozen=True)
class Place:
    """The rank of a process, and where the ranks meet."""

    rank: int
    size: int
    local_rank: int  # among the processes of this node
    local_size: int | None  # processes of this node; None: unknown
    address: str  # of the node of rank 0
    port: int

    def variables(self) -> dict[str, str]:
        """The place as torch and DeepSpeed read it."""
        numbers = {"RANK": self.rank, "WORLD_SIZE": self.size, "LOCAL_RANK": self.local_rank, "MASTER_PORT": self.port}
        # If mpirun starts torchrun, mpirun's own value differs, which DeepSpeed would refuse.
        numbers["OMPI_COMM_WORLD_LOCAL_RANK"] = self.local_rank
        return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": self.address}


@dataclass(frozen=True)
class _Launcher:
    """A launcher, how to start ranks with it, and the names of its variables."""

    name: str
    command: str
    rank: str
    size: str
    local_rank: str
    local_size: str


def _mpi(name: str, prefix: str) -> _Launcher:
    return _Launcher(name, "mpirun", *(f"{prefix}_{end}" for end in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))


_TORCH = _Launcher("torchrun", "torchrun or deepspeed", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_PMI = _Launcher("mpirun", "mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_MPI = (_mpi("Open MPI", "OMPI_COMM_WORLD"), _mpi("MVAPICH", "MV2_COMM_WORLD"), _PMI)
_SRUN = _Launcher("srun", "srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "")
_OF_A_STEP = ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_LAUNCH_NODE_IPADDR")  # srun sets them, sbatch does not
_PMIX_RANK = "PMIX_RANK"


def find(variables: Mapping[str, str]) -> Place | None:
    """The place that a launcher gave to the process with these environment variables; None: the process runs alone.

    Raises:
        RendezvousError: a variable is missing or wrong; the message names it.
    """
    if _TORCH.rank in variables:
        return _of_torch(variables)
    place = _of_another(variables)
    world = variables.get("WORLD_SIZE") or "1"
    if place is None and world != "1":
        raise RendezvousError(
            f"WORLD_SIZE={world} is set without RANK: unset it to use one process, or start the ranks with torchrun or "
            "deepspeed"
        )
    if place is not None and world not in ("1", str(place.size)):
        raise RendezvousError(f"WORLD_SIZE={world} is set, but {place.size} processes were started: unset WORLD_SIZE")
    return place


def forget(variables: MutableMapping[str, str]) -> None:
    """Remove the ranks of srun and mpirun, for a process that only inherits them from a parent, such as Ray's."""
    for launcher in (*_MPI, _SRUN):
        variables.pop(launcher.rank, None)
        variables.pop(launcher.local_rank, None)
    variables.pop(_PMIX_RANK, None)


def _of_torch(variables: Mapping[str, str]) -> Place:
    _require(variables, _TORCH, _TORCH.size, _TORCH.local_rank, "MASTER_ADDR", "MASTER_PORT")
    local_size = variables.get("LOCAL_SIZE") or variables.get(_TORCH.local_size, "")  # the first is deepspeed's
    return _place(variables, _TORCH, int(local_size) if local_size.isdecimal() else None)


def _of_another(variables: Mapping[str, str]) -> Place | None:
    """The place given by mpirun or, otherwise, by srun."""
    in_step = _SRUN.rank in variables and any(name in variables for name in _OF_A_STEP)
    for launcher in _MPI:
        by_srun = in_step and launcher is _PMI and launcher.local_rank not in variables  # `srun --mpi=pmi2`
        if launcher.rank in variables and not by_srun:
            return _of_mpi(variables, launcher)
    if in_step:
        return _of_step(variables)
    if variables.get(_SRUN.rank, "0") != "0":  # in the shell of sbatch, which is not a task of a step, it is 0
        _require(variables, _SRUN, _SRUN.size)
    if _PMIX_RANK in variables:
        raise RendezvousError(
            f"{_PMIX_RANK} is set, but no variable gives the number of ranks: start them with mpirun, srun or torchrun"
        )
    return None


def _of_mpi(variables: Mapping[str, str], launcher: _Launcher) -> Place | None:
    if variables.get(launcher.size) == "1":
        return None
    _require(variables, launcher, launcher.size, launcher.local_rank)
    local_size = _number(variables, launcher.local_size) if launcher.local_size in variables else None
    address = "127.0.0.1" if local_size == _number(variables, launcher.size) else ""
    if not (variables.get("MASTER_ADDR") or address):
        raise RendezvousError(
            f"{launcher.name} started {variables[launcher.size]} processes on several nodes, but MASTER_ADDR is not "
            "set: set it to the host of rank 0 (`mpirun -x MASTER_ADDR=HOST …` with Open MPI)"
        )
    return _place(variables, launcher, local_size, address, _port(variables.get("PMIX_NAMESPACE")))


def _of_step(variables: Mapping[str, str]) -> Place | None:
    """The place of a task of srun.

    The number of tasks is that of the step. That of the job, SLURM_NTASKS, is also set in the shells of sbatch and
    salloc, which are single processes. SLURM_LAUNCH_NODE_IPADDR is not used as the master's address, because it may be
    that of the login node.
    """
    srun = _SRUN if _SRUN.size in variables else replace(_SRUN, size="SLURM_NTASKS")
    step = variables.get("SLURM_STEP_ID", "")
    if variables.get(srun.size) == "1" or (step.isdecimal() and int(step) >= _SHELLS):
        return None
    _require(variables, srun, srun.size, srun.local_rank)
    local_size = _tasks_of_this_node(variables)
    one_node = local_size == _number(variables, srun.size) or variables.get("SLURM_STEP_NUM_NODES") == "1"
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST", "")
    address = "127.0.0.1" if one_node else first_host(nodes)
    if not (variables.get("MASTER_ADDR") or address):
        raise RendezvousError(
            f"srun started {variables[srun.size]} tasks, but neither MASTER_ADDR nor SLURM_STEP_NODELIST is set: "
            "set MASTER_ADDR to the host of task 0"
        )
    return _place(variables, srun, local_size, address, _port(f"{variables.get('SLURM_JOB_ID')}.{step}"))


def _tasks_of_this_node(variables: Mapping[str, str]) -> int | None:
    """The tasks of this node, from a list such as `4(x2),3`: four on the first two nodes, three on the third."""
    node, counts = variables.get("SLURM_NODEID", ""), []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", variables.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(tasks)] * int(times or 1)
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else None


def first_host(nodes: str) -> str:
    """The first host of a SLURM list: `gpu-02` of `gpu-[02-04,9],login`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0]) if first else ""


def _port(job: str | None) -> int:
    """A port that every rank of a job derives, and that another job on the same node is unlikely to derive."""
    return _PORT if job is None else _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS


def _require(variables: Mapping[str, str], launcher: _Launcher, *names: str) -> None:
    missing = [name for name in names if not variables.get(name)]
    if missing:
        raise RendezvousError(
            f"{launcher.rank} is set without {', '.join(missing)}: unset it to use one process, or start the ranks "
            f"with {launcher.command}"
        )


def _place(
    variables: Mapping[str, str], launcher: _Launcher, local_size: int | None, address: str = "", port: int = _PORT
) -> Place:
    """The place from the launcher's numbers; MASTER_ADDR and MASTER_PORT, if set, override `address` and `port`."""
    size = _number(variables, launcher.size)
    for name in (launcher.rank, launcher.local_rank):
        if _number(variables, name) >= size:
            raise RendezvousError(
                f"{name}={variables[name]} must be less than {launcher.size}={size}: start the ranks with "
                f"{launcher.command}"
            )
    return Place(
        rank=_number(variables, launcher.rank),
        size=size,
        local_rank=_number(variables, launcher.local_rank),
        local_size=local_size,
        address=variables.get("MASTER_ADDR") or address,
        port=_number(variables, "MASTER_PORT") if variables.get("MASTER_PORT") else port,
    )


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name]
    if not text.isdecimal():
        raise RendezvousError(f"{name}={text} is not a whole number: start the ranks with torchrun or deepspeed")
    return int(text)
