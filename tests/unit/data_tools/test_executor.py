"""The contract of every executor: the results do not depend on where they are computed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from data_tools.build import build
from data_tools.errors import DataToolsError
from data_tools.executor import Executor, InProcess, ProcessPool, RayCluster, open_executor
from data_tools.rejects import Reason, Reject, StrictError
from data_tools.sources.tables import TablesSource

REPOSITORY = Path(__file__).parents[3]


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3 == 0))  # so that later tasks end first
    return number * number


def fail(number: int) -> int:
    raise StrictError(str(Reject("file.tsv", number, Reason.NO_TEXT, "detail")))


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.fixture(scope="module")
def ray() -> Iterator[Executor]:
    """A cluster started by this process, whose workers can import this file."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}")
        with RayCluster("local", 2) as executor:
            yield executor


@pytest.fixture(params=["one process", "two processes", pytest.param("ray", marks=pytest.mark.slow)])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        yield request.getfixturevalue("ray")
    else:
        with ProcessPool(2) if request.param == "two processes" else InProcess() as executor:
            yield executor


def test_results_come_in_order_and_tasks_are_read_a_little_ahead(executor: Executor) -> None:
    read = []

    def tasks() -> Iterator[int]:
        for number in range(12):
            read.append(number)
            yield number

    for number, result in enumerate(executor.map(square, tasks())):
        assert result == number * number
        assert len(read) <= number + 4
    assert len(read) == 12


def test_what_a_task_raises_is_raised(executor: Executor) -> None:
    with pytest.raises(StrictError, match=r"file\.tsv, line 3: no_text: detail"):
        list(executor.map(fail, [3]))


def test_no_tasks(executor: Executor) -> None:
    assert list(executor.map(square, [])) == []


def test_a_dead_worker_is_one_clear_error_and_leaves_nobody() -> None:
    before = set(psutil.Process().children(recursive=True))
    with ProcessPool(2) as pool, pytest.raises(DataToolsError, match="a worker process was killed"):
        list(pool.map(die, range(4)))
    left = [
        child for child in set(psutil.Process().children(recursive=True)) - before if "spawn_main" in _command(child)
    ]
    assert left == []


def test_workers_end_with_a_main_process_that_is_killed(tmp_path: Path) -> None:
    """Workers wait for tasks on a pipe and hold both of its ends, so they do not see it close."""
    code = (
        "import time\nfrom data_tools.executor import ProcessPool\n"
        "pool = ProcessPool(2)\nlist(pool.map(time.sleep, [0.01] * 4))\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    script = tmp_path / "main.py"
    script.write_text(f"if __name__ == '__main__':\n    exec({code!r})\n")
    main = subprocess.Popen([sys.executable, str(script)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert main.stdout is not None
    assert main.stdout.readline() == b"ready\n"
    workers = [child for child in psutil.Process(main.pid).children() if "spawn_main" in _command(child)]
    assert workers
    main.kill()
    main.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_one_worker_needs_no_pool() -> None:
    assert isinstance(open_executor(workers=1), InProcess)


def test_a_number_of_workers_without_sense_is_cut() -> None:
    with open_executor(10**30) as executor:
        assert list(executor.map(abs, [-1, 2])) == [1, 2]


def test_no_cluster_at_the_address() -> None:
    pytest.importorskip("ray")
    with pytest.raises(DataToolsError, match="no Ray cluster at nowhere"):
        open_executor(ray="nowhere")


@pytest.fixture
def raw(write_tables, image_bytes) -> Path:  # type: ignore[no-untyped-def]
    """Several chunks of items, with images good and bad, and rows that are rejected at every stage."""
    items = "".join(f"i{n}\tTitle {n}\ti{n}.png\n" for n in range(50)) + "i1\tAgain\t\ni2\n"
    rows = "".join(f"u{n % 90}\ti{n % 53}\t{n if n % 70 else 'x'}\n" for n in range(2000))
    shown = "".join(f"u{n % 110}\ti{n % 51}\t{n // 9}\t{n % 3}\t{n % 4 or ''}\n" for n in range(2000))
    users = "".join(f"u{n % 80}\t{n}\n" for n in range(100))
    folder = write_tables(
        f"item_id\ttitle\timage\n{items}",
        f"user_id\titem_id\ttimestamp\n{rows}",
        f"user_id\tage\n{users}",
        f"user_id\titem_id\ttimestamp\tclick\tposition\n{shown}",
    )
    for n in range(0, 50, 2):
        (folder / "images" / f"i{n}.png").write_bytes(image_bytes("PNG", size=(8 + n, 9)) if n % 10 else b"no image")
    return folder


def built(raw: Path, output: Path, executor: Executor) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_tools.reading.text_blocks.BLOCK_BYTES", 700)
        patch.setattr("data_tools.pieces.cut_pieces.__defaults__", (100,))
        patch.setattr("data_tools.stage.cut_tasks.__defaults__", (200,))
        index = build(TablesSource(raw), "tables", output, 20_000, image_size=8, executor=executor)
    assert len(index.of_kind("users")) > 1
    assert set(index.counts.rejects) > {"unknown_item", "bad_image", "missing_image", "duplicate_user", "bad_label"}
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_the_same_bytes_wherever_it_is_built(raw: Path, tmp_path: Path) -> None:
    alone = built(raw, tmp_path / "1", InProcess())
    assert alone == built(raw, tmp_path / "2", ProcessPool(2))
    assert alone == built(raw, tmp_path / "4", ProcessPool(4))


@pytest.mark.slow
def test_a_dead_ray_worker_is_one_clear_error(ray: Executor) -> None:
    with pytest.raises(DataToolsError, match="a Ray worker failed"):
        list(ray.map(die, [1]))


@pytest.mark.slow
def test_the_same_bytes_on_a_cluster_of_two_nodes(raw: Path, tmp_path: Path) -> None:
    """The last test of this file, because it needs a process without a cluster of its own."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        on_ray = built(raw, tmp_path / "ray", RayCluster(cluster.address, None))
        assert on_ray == built(raw, tmp_path / "1", InProcess())
    finally:
        cluster.shutdown()


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
