"""Runs that start together, because a run takes seconds and its imports take most of them."""

import os
import signal
from pathlib import Path

import pytest
import torch
from commands import Finished, LaunchedCommands, Running
from run_folder import records
from tiny_world import COMPARABLE, Tiny

ON_THE_CPU = "TRANSREC_GPU_TESTS_ON_THE_CPU"  # set: run them where there is no GPU, to see that they run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() or ON_THE_CPU in os.environ:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


class Runs:
    """Trainings of the tiny model by name, without anything random; each is on a GPU, or on the CPU for comparison."""

    def __init__(self, folder: Path, tiny: Tiny) -> None:
        self.folder, self._tiny = folder, tiny
        gpu, cpu = folder / "output" / "gpu", folder / "output" / "cpu"
        for output in (gpu, cpu):
            output.mkdir(parents=True)
        self._gpu, self._cpu = LaunchedCommands(gpu), LaunchedCommands(cpu, CUDA_VISIBLE_DEVICES="")
        self._running: dict[str, Running] = {}
        self._finished: dict[str, Finished] = {}

    def start(self, name: str, *overrides: str, cpu: bool = False) -> Running:
        device = self._cpu if cpu else self._gpu
        arguments = ["--config", self._tiny.config, f"run_dir={self.folder / name}", *COMPARABLE, *overrides]
        self._finished.pop(name, None)
        self._running[name] = device.start("train", *arguments)
        return self._running[name]

    def stop_after(self, name: str, step: int) -> Finished:
        """Ask one that runs to stop, once it has written down `step`."""
        running = self._running[name]
        running.wait_until(lambda: len(records(self.folder / name, "step")) >= step)
        running.signal(signal.SIGTERM)
        return running.wait()

    def ended(self, name: str) -> Path:
        """The folder of a run that was started, once it has succeeded."""
        if name not in self._finished:
            self._finished[name] = self._running[name].wait()
        finished = self._finished[name]
        assert finished.code == 0, finished.stderr[-4000:]
        return self.folder / name


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Runs:
    return Runs(tmp_path_factory.mktemp("gpu_runs"), tiny)
