"""Ways to run the real commands.

A command costs ten seconds of imports and tenths of a second of work. `ForkedCommands` therefore forks it from a
process that has the imports done: still one fresh process per rank, with its own exit code, output and process group
to kill.
`LaunchedCommands` starts it as a user does, with `python` or the `deepspeed` launcher.
"""

import importlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).strip(":"),
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
}


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


def json_lines(finished: Finished) -> list[dict[str, Any]]:
    """What a command that succeeded printed for programs."""
    assert finished.code == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.split("\n") if line.startswith("{")]


def refused(finished: Finished) -> str:
    """The one message of a command that refused."""
    assert finished.code == 1
    assert "Traceback" not in finished.stderr
    (message,) = re.findall(r"^error: .*", finished.stderr, re.MULTILINE | re.DOTALL)
    return message


class Process(Protocol):
    pid: int | None

    def wait(self, timeout: float) -> int | None: ...


class Running:
    """Processes of one command, each the leader of its own process group."""

    def __init__(self, processes: list[Process], out: Path) -> None:
        self.processes, self._out = processes, out

    def wait(self, timeout: float = 240) -> Finished:
        """The exit code is the first that is not 0."""
        until = time.monotonic() + timeout
        codes = [process.wait(max(0.1, until - time.monotonic())) for process in self.processes]
        stdout, stderr = (self._out.with_suffix(suffix).read_text("utf-8") for suffix in (".stdout", ".stderr"))
        if None in codes:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s:\n{stdout[-2000:]}\n{stderr[-2000:]}")
        return Finished(next((code for code in codes if code), 0) or 0, stdout, stderr)

    @property
    def stderr(self) -> str:
        path = self._out.with_suffix(".stderr")
        return path.read_text("utf-8") if path.exists() else ""

    def signal(self, number: int) -> None:
        for process in self.processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def kill(self) -> None:
        """SIGKILL to everything that the command started."""
        for process in self.processes:
            assert process.pid is not None
            for kill in (os.killpg, os.kill):  # the second for one that has not made its group yet
                with suppress(ProcessLookupError):  # a rank ends by itself when it misses the other
                    kill(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait(30)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> None:
        until = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"not so after {timeout} s")
            for process in self.processes:
                code = process.wait(0)
                assert code is None, f"ended with {code} too early:\n{self._out.with_suffix('.stderr').read_text()}"
            time.sleep(0.002)


class Commands(Protocol):
    def start(self, command: str, *arguments: str | Path, ranks: int = 1) -> Running: ...

    def run(self, command: str, *arguments: str | Path, ranks: int = 1) -> Finished: ...


class LaunchedCommands:
    """`python launch/X.py …` or `deepspeed --num_accelerators N launch/X.py …`, with more environment variables."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self._folder, self._count, self._environment = folder, 0, environment

    def start(self, command: str, *arguments: str | Path, ranks: int = 1) -> Running:
        self._count += 1
        out = self._folder / f"launched-{self._count}"
        launcher = [sys.executable]
        if ranks > 1:
            deepspeed = str(Path(sys.executable).with_name("deepspeed"))
            launcher = [deepspeed, "--num_accelerators", str(ranks), "--master_port", str(free_port())]
        with out.with_suffix(".stdout").open("w") as stdout, out.with_suffix(".stderr").open("w") as stderr:
            process = subprocess.Popen(
                [*launcher, f"launch/{command}.py", *map(str, arguments)],
                cwd=REPOSITORY,
                env=os.environ | ENVIRONMENT | self._environment,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        return Running([_Launched(process)], out)

    def run(self, command: str, *arguments: str | Path, ranks: int = 1) -> Finished:
        return self.start(command, *arguments, ranks=ranks).wait()


class _Launched:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.pid = process, process.pid

    def wait(self, timeout: float) -> int | None:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class ForkedCommands:
    """The same `main()` in processes forked after the imports, with the environment the launcher would give them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            ["transrec.commands.train", "transrec.commands.evaluate", "transrec.commands.recommend"]
        )
        before = dict(os.environ)
        os.environ.update(ENVIRONMENT)
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(
        self,
        command: str,
        *arguments: str | Path,
        ranks: int = 1,
        before: Callable[[], None] | None = None,
        variables: Callable[[int, int, int], dict[str, str]] | None = None,
    ) -> Running:
        """
        Args:
            before: a function of a module, what each process does first: patch something, say.
            variables: what the launcher tells each process of its rank, the number of ranks and a free port.
        """
        return self._start(_run_main, command, arguments, ranks, before, variables or of_deepspeed)

    def call(self, function: Callable[..., None], *arguments: str | Path, ranks: int) -> Finished:
        """Call a function of a module in every rank."""
        return self._start(_call, function, arguments, ranks, None, of_deepspeed).wait()

    def _start(
        self,
        run: Callable[..., None],
        what: str | Callable[..., None],
        arguments: tuple[str | Path, ...],
        ranks: int,
        before: Callable[[], None] | None,
        variables: Callable[[int, int, int], dict[str, str]],
    ) -> Running:
        self._count += 1
        out = self._folder / f"forked-{self._count}"
        port, processes = free_port(), []
        for rank in range(ranks):
            environment = dict(ENVIRONMENT)
            argv = list(map(str, arguments))
            if ranks > 1:
                environment |= variables(rank, ranks, port)
                if variables is of_deepspeed:
                    argv.insert(0, f"--local_rank={rank}")
            process = self._context.Process(target=run, args=(what, argv, environment, out, before))
            process.start()
            processes.append(_Forked(process))
        return Running(processes, out)

    def run(self, command: str, *arguments: str | Path, ranks: int = 1) -> Finished:
        return self.start(command, *arguments, ranks=ranks).wait()


def of_deepspeed(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables of DeepSpeed's launcher."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    return meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_SIZE": str(ranks)}


class _Forked:
    def __init__(self, process: Any) -> None:
        self.process, self.pid = process, process.pid

    def wait(self, timeout: float) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode


def _run_main(
    command: str, argv: list[str], environment: dict[str, str], out: Path, before: Callable[[], None] | None
) -> None:
    _become_a_process_of_its_own(environment, out)
    sys.argv = [f"launch/{command}.py", *argv]
    module = importlib.import_module(f"transrec.commands.{command}")
    assert Path(module.__file__ or "").is_relative_to(REPOSITORY), module.__file__
    if before is not None:
        before()
    code = module.main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _call(
    function: Callable[..., None],
    arguments: list[str],
    environment: dict[str, str],
    out: Path,
    before: Callable[[], None] | None,
) -> None:
    _become_a_process_of_its_own(environment, out)
    function(*(argument for argument in arguments if not argument.startswith("--local_rank=")))
    sys.stdout.flush()
    sys.stderr.flush()


def _become_a_process_of_its_own(environment: dict[str, str], out: Path) -> None:
    os.setsid()
    for stream, suffix in ((1, ".stdout"), (2, ".stderr")):
        file = os.open(out.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
    os.chdir(REPOSITORY)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # what a process of its own would use
    torch.set_num_threads(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
