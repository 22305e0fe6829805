"""Two nodes, as two network namespaces with a cable between them, train as one by a host file."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ENVIRONMENT, REPOSITORY, ForkedCommands
from run_folder import hashes, losses
from tiny_world import COMPARABLE, Tiny

pytestmark = pytest.mark.slow

NODES = {"transrec-a": "10.213.7.1", "transrec-b": "10.213.7.2"}
PORT = "29577"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def nodes() -> Iterator[dict[str, str]]:
    """Host name -> address."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` command to make network namespaces with")
    first, second = NODES
    try:
        for node in NODES:
            ip("netns", "add", node)
        ip("link", "add", "cable-a", "netns", first, "type", "veth", "peer", "name", "cable-b", "netns", second)
        for (node, address), cable in zip(NODES.items(), ("cable-a", "cable-b"), strict=True):
            ip("-n", node, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", node, "link", "set", cable, "up")
            ip("-n", node, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        remove(NODES)
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.decode().strip()}")
    yield NODES
    remove(NODES)


def remove(nodes: dict[str, str]) -> None:
    for node in nodes:
        subprocess.run(["ip", "netns", "delete", node], capture_output=True)


def start(node: str, hosts: Path, arguments: list[str], out: Path) -> subprocess.Popen[bytes]:
    """The command of docs/clusters.md for every node where there is no ssh."""
    rank = list(NODES).index(node)
    where = ["--hostfile", str(hosts), "--no_ssh", "--node_rank", str(rank)]
    master = ["--master_addr", next(iter(NODES.values())), "--master_port", PORT]
    deepspeed = str(Path(sys.executable).with_name("deepspeed"))
    interface = {"GLOO_SOCKET_IFNAME": f"cable-{node[-1]}"}
    with out.open("w") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", node, deepspeed, *where, *master, "launch/train.py", *arguments],
            cwd=REPOSITORY,
            env=os.environ | ENVIRONMENT | interface,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def test_two_nodes_are_one_run(nodes: dict[str, str], tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{address} slots=1\n" for address in nodes.values()))
    run_dir, alone = tmp_path / "run", tmp_path / "alone"
    arguments = ["--config", str(tiny.config), *COMPARABLE, "zero.stage=2"]
    running = [start(node, hosts, [*arguments, f"run_dir={run_dir}"], tmp_path / f"{node}.log") for node in nodes]
    try:
        codes = [process.wait(180) for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    logs = "\n".join((tmp_path / f"{node}.log").read_text() for node in nodes)
    assert codes == [0, 0], logs
    assert commands.run("train", *arguments, f"run_dir={alone}").code == 0
    assert hashes(run_dir) == hashes(alone)
    assert losses(run_dir) == pytest.approx(losses(alone), rel=1e-6)
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 12
