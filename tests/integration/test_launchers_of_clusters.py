"""Four tasks on two nodes of two, started as srun and mpirun start them, are one run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ENVIRONMENT, REPOSITORY, ForkedCommands, free_port, of_deepspeed
from run_folder import hashes, losses
from tiny_world import COMPARABLE, Tiny

TASKS, OF_A_NODE = 4, 2
Variables = Callable[[int, int, int], dict[str, str]]


def of_srun(rank: int, ranks: int, port: int) -> dict[str, str]:
    nodes = ranks // OF_A_NODE
    return {
        "SLURM_JOB_ID": str(port),  # the ranks derive a port of their own from it
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank % OF_A_NODE),
        "SLURM_NODEID": str(rank // OF_A_NODE),
        "SLURM_NTASKS": str(ranks),
        "SLURM_STEP_NUM_TASKS": str(ranks),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": f"{OF_A_NODE}(x{nodes})",
        "SLURM_STEP_NODELIST": "localhost,node[02]",
        "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.1",  # a login node, which no rank can reach
    }


def of_mpirun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables of Open MPI, with `-x MASTER_ADDR=localhost`."""
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(ranks),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank % OF_A_NODE),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(OF_A_NODE),
        "PMIX_RANK": str(rank),
        "PMIX_NAMESPACE": f"prterun-localhost-{port}@1",
        "MASTER_ADDR": "localhost",
    }


@pytest.mark.parametrize("variables", [of_srun, pytest.param(of_mpirun, marks=pytest.mark.slow)])
def test_the_tasks_of_a_cluster_are_one_run(
    tiny: Tiny, commands: ForkedCommands, tmp_path: Path, variables: Variables
) -> None:
    """With the losses of DeepSpeed's launcher, to the last bit."""
    arguments = ["--config", tiny.config, *COMPARABLE, "train.steps=2", "zero.stage=2"]
    for name, launcher in (("cluster", variables), ("deepspeed", of_deepspeed)):
        running = commands.start("train", *arguments, f"run_dir={tmp_path / name}", ranks=TASKS, variables=launcher)
        finished = running.wait()
        assert finished.code == 0, finished.stderr
        assert finished.stderr.count("training for 2 steps") == 1
    assert losses(tmp_path / "cluster") == losses(tmp_path / "deepspeed")
    assert hashes(tmp_path / "cluster") == hashes(tmp_path / "deepspeed")


@pytest.mark.slow
def test_torchrun_starts_one_run(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    arguments = ["--config", str(tiny.config), *COMPARABLE, "train.steps=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    ended = subprocess.run(
        [*torchrun, "launch/train.py", *arguments, f"run_dir={tmp_path / 'torchrun'}"],
        cwd=REPOSITORY,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert commands.run("train", *arguments, f"run_dir={tmp_path / 'deepspeed'}", ranks=2).code == 0
    assert losses(tmp_path / "torchrun") == losses(tmp_path / "deepspeed")
