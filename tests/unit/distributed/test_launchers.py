"""The environments that launchers make, as they were seen on clusters, and what is missing in them."""

import pytest

from transrec.distributed.launchers import Place, RendezvousError, find, first_host, forget

TORCHRUN = {
    "LOCAL_RANK": "1",
    "RANK": "3",
    "GROUP_RANK": "1",
    "ROLE_RANK": "3",
    "ROLE_NAME": "default",
    "LOCAL_WORLD_SIZE": "2",
    "WORLD_SIZE": "4",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node01",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SHELL_OF_SBATCH = {
    "SLURM_JOB_ID": "200505",
    "SLURM_JOB_NODELIST": "gnode[10,20]",
    "SLURM_NODELIST": "gnode[10,20]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_GTIDS": "0",
    "SLURM_TASK_PID": "16360",
    "SLURMD_NODENAME": "gnode10",
}
TASK_OF_SRUN = SHELL_OF_SBATCH | {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gnode[10,20]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",  # of the login node
    "SLURMD_NODENAME": "gnode20",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "OMPI_UNIVERSE_SIZE": "4",
    "PMIX_RANK": "3",
    "PMIX_NAMESPACE": "prterun-node01-1234@1",
    "MASTER_ADDR": "node01",
}
MVAPICH = {
    "MV2_COMM_WORLD_RANK": "3",
    "MV2_COMM_WORLD_SIZE": "4",
    "MV2_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_SIZE": "2",
    "MASTER_ADDR": "node01",
}
HYDRA = {
    "PMI_RANK": "3",
    "PMI_SIZE": "4",
    "PMI_FD": "9",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
    "MASTER_ADDR": "node01",
}


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in variables.items() if name not in names}


@pytest.mark.parametrize("variables", [TORCHRUN, OPEN_MPI, MVAPICH, HYDRA, TASK_OF_SRUN | {"MASTER_ADDR": "node01"}])
def test_every_launcher_gives_the_same_place(variables: dict[str, str]) -> None:
    place = find(variables | {"MASTER_PORT": "29400"})
    assert place == Place(rank=3, size=4, local_rank=1, local_size=2, address="node01", port=29400)


def test_deepspeed_gives_the_size_of_a_node() -> None:
    place = find(without(TORCHRUN, "LOCAL_WORLD_SIZE") | {"LOCAL_SIZE": "2"})
    assert place is not None
    assert place.local_size == 2


def test_the_ranks_of_a_step_meet_on_its_first_node() -> None:
    place = find(TASK_OF_SRUN)
    assert place is not None
    assert place.address == "gnode10"


def test_the_ranks_of_a_step_on_one_node_need_no_name_of_it() -> None:
    place = find(TASK_OF_SRUN | {"SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_STEP_NUM_NODES": "1"})
    assert place is not None
    assert (place.address, place.local_size) == ("127.0.0.1", 4)


def test_the_ranks_of_mpirun_on_one_node_need_no_address() -> None:
    place = find(without(OPEN_MPI, "MASTER_ADDR") | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    assert place is not None
    assert place.address == "127.0.0.1"


@pytest.mark.parametrize(("node", "tasks"), [("0", 4), ("1", 4), ("2", 3), ("3", None)])
def test_the_tasks_of_a_node_are_read_from_the_list_of_the_step(node: str, tasks: int | None) -> None:
    place = find(TASK_OF_SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": node})
    assert place is not None
    assert place.local_size == tasks


@pytest.mark.parametrize(
    ("variables", "rank", "other"),
    [
        (TASK_OF_SRUN, "SLURM_PROCID", {"SLURM_JOB_ID": "200506"}),
        (TASK_OF_SRUN, "SLURM_PROCID", {"SLURM_STEP_ID": "1"}),
        (OPEN_MPI, "OMPI_COMM_WORLD_RANK", {"PMIX_NAMESPACE": "prterun-node01-1235@1"}),
    ],
)
def test_jobs_on_the_same_nodes_meet_at_ports_of_their_own(
    variables: dict[str, str], rank: str, other: dict[str, str]
) -> None:
    ranks = [find(variables | more) for more in ({}, {rank: "2"}, other)]
    ports = [rank.port for rank in ranks if rank is not None]
    assert ports[0] == ports[1] != ports[2]
    assert all(1024 < port < 32768 for port in ports)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "gnode[10,20]"},  # the shell of salloc
        SHELL_OF_SBATCH,
        SHELL_OF_SBATCH | {"SLURM_NTASKS": "1"},
        TASK_OF_SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # `srun --pty bash`: SLURM_NTASKS may stay
        TASK_OF_SRUN | {"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"},  # salloc with use_interactive_step
        OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        {"WORLD_SIZE": "1"},
    ],
)
def test_one_process_runs_alone(variables: dict[str, str]) -> None:
    assert find(variables) is None


def test_what_srun_started_may_itself_launch_ranks() -> None:
    """`srun torchrun`, and mpirun, which starts its daemons with srun."""
    agent = TASK_OF_SRUN | {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    for inner in (TORCHRUN, OPEN_MPI, HYDRA):
        place = find(agent | inner)
        assert place is not None
        assert (place.rank, place.size, place.local_rank) == (3, 4, 1)


def test_a_task_of_srun_with_pmi_has_the_place_of_the_task() -> None:
    pmi = {"PMI_RANK": "3", "PMI_SIZE": "4", "PMI_FD": "9", "PMIX_RANK": "3"}
    assert find(TASK_OF_SRUN | pmi) == find(TASK_OF_SRUN)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "RANK is set without WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: unset it to use one"),
        (without(TORCHRUN, "LOCAL_RANK"), "RANK is set without LOCAL_RANK"),
        (TORCHRUN | {"RANK": "x"}, "RANK=x is not a whole number"),
        (TORCHRUN | {"MASTER_PORT": "http"}, "MASTER_PORT=http is not a whole number"),
        (TORCHRUN | {"RANK": "4"}, "RANK=4 must be less than WORLD_SIZE=4"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 is set without RANK"),
        (TASK_OF_SRUN | {"WORLD_SIZE": "8"}, "WORLD_SIZE=8 is set, but 4 processes were started"),
        (without(OPEN_MPI, "MASTER_ADDR"), "Open MPI started 4 processes on several nodes, but MASTER_ADDR is not set"),
        (without(OPEN_MPI, "OMPI_COMM_WORLD_SIZE"), "OMPI_COMM_WORLD_RANK is set without OMPI_COMM_WORLD_SIZE"),
        (without(HYDRA, "MPI_LOCALRANKID"), "PMI_RANK is set without MPI_LOCALRANKID"),
        ({"PMIX_RANK": "3"}, "PMIX_RANK is set, but no variable gives the number of ranks"),
        (SHELL_OF_SBATCH | {"SLURM_PROCID": "2"}, "SLURM_PROCID is set without SLURM_STEP_NUM_TASKS"),
        (without(TASK_OF_SRUN, "SLURM_LOCALID"), "SLURM_PROCID is set without SLURM_LOCALID"),
        (
            without(TASK_OF_SRUN, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"),
            "srun started 4 tasks, but neither MASTER_ADDR nor SLURM_STEP_NODELIST is set",
        ),
        (TASK_OF_SRUN | {"SLURM_PROCID": "4"}, "SLURM_PROCID=4 must be less than SLURM_STEP_NUM_TASKS=4"),
    ],
)
def test_half_a_launcher_is_refused_by_name(variables: dict[str, str], message: str) -> None:
    with pytest.raises(RendezvousError) as refused:
        find(variables)
    assert message in str(refused.value)


@pytest.mark.parametrize("variables", [TASK_OF_SRUN, OPEN_MPI, MVAPICH, HYDRA])
def test_a_forgotten_launcher_gives_no_place(variables: dict[str, str]) -> None:
    remaining = dict(variables)
    forget(remaining)
    assert find(remaining) is None


@pytest.mark.parametrize("variables", [TASK_OF_SRUN, OPEN_MPI, MVAPICH, HYDRA, TORCHRUN])
def test_a_place_is_found_again_in_its_own_variables(variables: dict[str, str]) -> None:
    place = find(variables)
    assert place is not None
    again = find(variables | place.variables())
    assert again is not None
    assert (again.rank, again.size, again.address, again.port) == (place.rank, place.size, place.address, place.port)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gnode10", "gnode10"),
        ("gnode[10,20]", "gnode10"),
        ("gpu-[02-04,9],login", "gpu-02"),
        ("tux3,gnu[1-2]", "tux3"),
        ("rack[0-1]-node[01-16]", "rack0-node01"),
        ("n[1-2].cluster,n[5]", "n1.cluster"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
