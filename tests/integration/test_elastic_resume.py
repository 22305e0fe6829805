"""A run that was killed goes on with other ranks, loader workers and another ZeRO stage, as if nothing had happened."""

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import ForkedCommands
from run_folder import hashes, losses, records
from tiny_world import COMPARABLE, Tiny

from transrec.distributed.extension_locks import clear_stale_lock

STEPS = 16
BATCH = 12  # for 1, 2, 3 and 4 ranks
TOLERANCE = 1e-6
# Other topologies add in other orders, and Adam turns the rounding of the smallest gradients into whole updates: at
# rates this low that stays below the tolerance, and moments that are lost are thousands of times above it.
RATES = "optimizer.lr={backbone: 2.0e-5, head: 1.0e-4, adapter: 1.0e-4}"


@dataclass(frozen=True)
class Topology:
    ranks: int
    workers: int
    stage: int

    def __str__(self) -> str:
        return f"{self.ranks}x{self.workers}-zero{self.stage}"


def draw_pairs(count: int) -> Iterator[tuple[Topology, Topology]]:
    """Pairs that differ in ranks and stage; the same ones every time."""
    rng = random.Random(0)

    def draw() -> Topology:
        return Topology(rng.randint(1, 4), rng.randint(0, 3), rng.choice([0, 2, 3]))

    while count:
        one, other = draw(), draw()
        if one.ranks != other.ranks and one.stage != other.stage:
            yield one, other
            count -= 1


def arguments(tiny: Tiny, run_dir: Path, topology: Topology, *more: str) -> list[str | Path]:
    basics = [f"train.steps={STEPS}", f"train.batch_size={BATCH}", "train.checkpoint_every=3", RATES, *COMPARABLE]
    own = [f"data.workers={topology.workers}", f"zero.stage={topology.stage}"]
    return ["--config", tiny.config, f"run_dir={run_dir}", *basics, *own, *more]


def kill_after(commands: ForkedCommands, step: int, tiny: Tiny, run_dir: Path, topology: Topology, *more: str) -> None:
    running = commands.start("train", *arguments(tiny, run_dir, topology, *more), ranks=topology.ranks)
    running.wait_until(lambda: "training for" in running.stderr or "resuming after" in running.stderr)
    running.wait_until(lambda: len(records(run_dir, "step")) >= step)
    running.kill()
    assert not (run_dir / "summary.json").exists(), "the run was over before it could be killed"


def finish(commands: ForkedCommands, tiny: Tiny, run_dir: Path, topology: Topology, *more: str) -> None:
    finished = commands.run("train", *arguments(tiny, run_dir, topology, *more), ranks=topology.ranks)
    assert finished.code == 0, finished.stderr


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("reference") / "run"
    finish(commands, tiny, run_dir, Topology(1, 0, 0))
    return run_dir


def assert_same_run(run_dir: Path, reference: Path) -> None:
    assert len(losses(run_dir)) == STEPS
    assert hashes(run_dir) == hashes(reference)
    np.testing.assert_allclose(losses(run_dir), losses(reference), rtol=TOLERANCE)


PAIRS = [
    pytest.param(Topology(2, 1, 3), Topology(1, 0, 0), id="fast"),
    *(pytest.param(*pair, id=f"{pair[0]}-to-{pair[1]}", marks=pytest.mark.slow) for pair in draw_pairs(20)),
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_killed_and_restarted_on_another_topology(
    tiny: Tiny, commands: ForkedCommands, reference: Path, run_dir: Path, before: Topology, after: Topology
) -> None:
    kill_after(commands, random.randint(4, STEPS - 5), tiny, run_dir, before)
    finish(commands, tiny, run_dir, after)
    assert_same_run(run_dir, reference)
    starts = [(record["ranks"], record["stage"]) for record in records(run_dir, "start")]
    assert starts == [(before.ranks, before.stage), (after.ranks, after.stage)]
    written = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (written["zero"]["stage"], written["data"]["workers"]) == (after.stage, after.workers)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_three_restarts_in_a_row(
    tiny: Tiny, commands: ForkedCommands, reference: Path, run_dir: Path, seed: int
) -> None:
    rng = random.Random(seed)
    topologies = [Topology(rng.randint(1, 4), rng.randint(0, 3), stage) for stage in rng.sample([0, 1, 2, 3], 4)]
    for step, topology in zip((4, 7, 10), topologies, strict=False):
        kill_after(commands, step, tiny, run_dir, topology)
    finish(commands, tiny, run_dir, topologies[-1])
    assert_same_run(run_dir, reference)


@pytest.fixture(scope="module")
def compiled() -> None:
    """DeepSpeed compiles its Adam for the CPU at first use, which may take longer than the tests wait for a step."""
    clear_stale_lock("cpu_adam")
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=900)


COMPILE = "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()"


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_offloaded_optimizer_takes_over_and_hands_back(
    tiny: Tiny, commands: ForkedCommands, reference: Path, run_dir: Path, stage: int
) -> None:
    """DeepSpeed's own Adam counts its steps in another way, and its weights are copies in host memory."""
    offload = "zero.offload_optimizer=true"
    kill_after(commands, 4, tiny, run_dir, Topology(1, 0, 0))
    kill_after(commands, 8, tiny, run_dir, Topology(2, 0, stage), offload)
    finish(commands, tiny, run_dir, Topology(1, 0, 0))
    assert_same_run(run_dir, reference)
