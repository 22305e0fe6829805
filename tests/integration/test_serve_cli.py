"""`launch/serve.py` as a process: it answers, reads its catalogue again on SIGHUP, and stops when it is told to."""

import re
import signal
import socket
from pathlib import Path

import httpx2
import pytest
from commands import ForkedCommands, refused
from portable_runs import untrained
from tiny_world import Tiny

for module in ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client"):
    pytest.importorskip(module)


def test_it_answers_until_it_is_stopped(commands: ForkedCommands, tiny: Tiny, tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", tiny)
    running = commands.start("serve", "--run", tmp_path / "run", "--port", "0", "--most", "5")
    out = running._out.with_suffix(".stdout")
    running.wait_until(lambda: out.exists() and "answering at" in out.read_text())
    (address,) = re.findall(r"answering at (http://127\.0\.0\.1:\d+); stop with Ctrl-C", out.read_text())
    body = {"history": ["item-3", "item-17"], "k": 5}
    found = httpx2.post(f"{address}/recommend", json=body, timeout=60).json()["recommendations"]
    assert [row["item_id"] for row in found] == [row["item_id"] for row in run.recommend(["item-3", "item-17"], 5)]
    running.signal(signal.SIGHUP)
    running.wait_until(
        lambda: 'transrec_reloads_total{result="unchanged"} 1.0' in httpx2.get(f"{address}/metrics").text
    )
    running.signal(signal.SIGTERM)
    running.wait(60)
    assert "Traceback" not in running.stderr


def test_an_address_in_use_and_one_that_others_reach_are_refused(
    commands: ForkedCommands, tiny: Tiny, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        untrained(tmp_path / "run", tiny)
        message = refused(commands.run("serve", "--run", tmp_path / "run", "--port", str(port)))
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use" in message
    assert "choose another --port" in message
    message = refused(commands.run("serve", "--run", tmp_path / "run", "--host", "0.0.0.0"))
    assert "set TRANSREC_TOKEN to a secret" in message


def without_fastapi() -> None:
    import sys

    sys.modules["fastapi"] = None  # type: ignore[assignment]


def test_a_missing_extra_is_named(commands: ForkedCommands, tmp_path: Path) -> None:
    message = refused(commands.start("serve", "--run", tmp_path, before=without_fastapi).wait())
    assert message.strip() == "error: transrec serve needs fastapi: run pip install 'transrec[serve]'"
