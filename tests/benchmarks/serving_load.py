"""Measures a service under the load of other processes: `python tests/benchmarks/serving_load.py RUN [ADAPTER …]`.

Needs `wrk`. Prints JSON: requests/s under full load; median and 99th percentile of the time to an answer at half that
rate; failures among many requests while the catalogue is reloaded; and, with adapters, requests/s and memory of one
process for all of them against one process for each.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from transrec import load_run
from transrec.terminal import shortened

REPOSITORY = Path(__file__).parents[2]
CLIENTS, SECONDS = 16, 15
LUA = """
local bodies, place, wait, threads = {}, 0, 0, {}
failed = 0
function setup(thread) table.insert(threads, thread) end
function init(args)
  for line in io.lines(args[1]) do bodies[#bodies + 1] = line end
  wait = tonumber(args[2])
  wrk.headers["Content-Type"] = "application/json"
end
function delay() return wait end
function request()
  place = place % #bodies + 1
  return wrk.format("POST", "/recommend", nil, bodies[place])
end
function response(status) if status ~= 200 then failed = failed + 1 end end
function done(summary, latency)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  for _, thread in ipairs(threads) do bad = bad + thread:get("failed") end
  print(string.format('RESULT {"requests": %d, "per_second": %.1f, "p50_ms": %.2f, "p99_ms": %.2f, "failed": %d}',
    summary.requests, summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, bad))
end
"""


@dataclass(frozen=True)
class Server:
    """A service in its own process."""

    address: str
    pid: int

    @property
    def mebibytes(self) -> float:
        """Memory, with its share of what it shares with other processes."""
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{self.pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("adapters", type=Path, nargs="*")
    parser.add_argument("--requests", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = Load(Path(folder))
        catalogue = Path(folder) / "catalogue"
        shutil.copytree(str(load_run(arguments.run).catalogue.folder.place), catalogue)
        with serving("--run", arguments.run, "--catalogue", catalogue) as server:
            bodies = load.bodies([arguments.run], named=False)
            print(json.dumps(load.one(server, bodies, arguments.requests, catalogue)), flush=True)
        if arguments.adapters:
            print(json.dumps(of_channels(load, arguments.run, arguments.adapters)))


class Load:
    """Requests for users with random histories."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "load.lua").write_text(LUA)

    def bodies(self, runs: Sequence[Path], named: bool) -> Path:
        """A file with a thousand requests, which name the channels of `runs` in turn if `named`."""
        chosen = random.Random(0)
        ids = [load_run(run).catalogue.item_ids for run in runs]
        path = self._folder / f"{len(list(self._folder.iterdir()))}.jsonl"
        with path.open("w") as file:
            for number in range(1000):
                place = number % len(runs)
                body: dict[str, Any] = {"history": chosen.sample(ids[place], chosen.randint(1, 20)), "k": 10}
                file.write(json.dumps(body | ({"channel": runs[place].name} if named else {})) + "\n")
        return path

    def start(self, server: Server, bodies: Path, seconds: float, clients: int = CLIENTS, wait: float = 0) -> Any:
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", "load.lua"]
        arguments = [server.address, "--", bodies.name, str(round(wait))]
        return subprocess.Popen([*command, *arguments], cwd=self._folder, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        return result(self.start(*arguments, **more))

    def one(self, server: Server, bodies: Path, count: int, catalogue: Path) -> dict[str, Any]:
        self.run(server, bodies, 3)  # warm
        full = self.run(server, bodies, SECONDS)
        alone = self.run(server, bodies, SECONDS, clients=1)
        half = self.run(server, bodies, 2 * SECONDS, wait=1000 * CLIENTS / (full["per_second"] / 2))
        many = self.with_reloads(server, bodies, count, catalogue)
        return {"full": full, "one client": alone, "half": half, "many": many}

    def with_reloads(self, server: Server, bodies: Path, count: int, catalogue: Path) -> dict[str, Any]:
        """At least `count` requests, while the index of the catalogue changes and is read again every few seconds."""
        found = {"requests": 0, "failed": 0, "generation": 0}
        while found["requests"] < count:
            process = self.start(server, bodies, 60)
            while process.poll() is None:
                with (catalogue / "index.json").open("a") as index:
                    index.write("\n")
                reloaded = httpx2.post(f"{server.address}/reload", timeout=600).raise_for_status().json()
                found["generation"] = reloaded["generation"]
                time.sleep(5)
            for name, number in result(process).items():
                if name in ("requests", "failed"):
                    found[name] += number
        return found


def result(process: Any) -> dict[str, Any]:
    printed, _ = process.communicate()
    found: dict[str, Any] = json.loads(re.search("^RESULT (.*)$", printed, re.MULTILINE)[1])  # type: ignore[index]
    return found


def of_channels(load: Load, base: Path, adapters: Sequence[Path]) -> dict[str, Any]:
    with serving("--run", base, "--adapter", *adapters) as server:
        bodies = load.bodies(adapters, named=True)
        load.run(server, bodies, 3)
        together = {"per_second": load.run(server, bodies, SECONDS)["per_second"], "mebibytes": server.mebibytes}
    with ExitStack() as stack:
        servers = [stack.enter_context(serving("--run", base, "--adapter", adapter)) for adapter in adapters]
        own = [load.bodies([adapter], named=True) for adapter in adapters]
        clients = max(1, CLIENTS // len(servers))
        for seconds in (3, SECONDS):
            running = [load.start(server, one, seconds, clients) for server, one in zip(servers, own, strict=True)]
            rates = [result(process)["per_second"] for process in running]
        apart = {"per_second": sum(rates), "mebibytes": sum(server.mebibytes for server in servers)}
    return {"channels": len(adapters), "one process": together, "a process each": apart}


@contextmanager
def serving(*arguments: str | Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "transrec", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://\S+?(?=;|\s|$)", line)
        assert address is not None, shortened(line)
        yield Server(address[0].rstrip("/"), process.pid)
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    main()
