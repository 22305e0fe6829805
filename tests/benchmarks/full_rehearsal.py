"""A run with many items, from build to summary on one machine: time of each phase, and peak memory of each rank.

    python tests/benchmarks/full_rehearsal.py --folder DIR [--items 1000000] [--interactions 10000000] [--ranks 2]

The data are synthetic, with 20 interactions for each user. The model is that of `recommended.yaml` over a tiny frozen
language model, with the objective for large catalogues, and evidence and baselines from counts. The memory of a rank
includes its loaders (PSS, so that shared pages count once) and is sampled twice a second.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1] / "support"))
from tiny_world import build_backbone

INTERACTIONS_OF_A_USER = 20
SETTINGS = [
    "model.width=32",
    "model.item_encoder.max_tokens=16",
    "model.objective={name: sampled_softmax, candidates: 0.01, temperature: 0.07, learn_temperature: true}",
    "model.evidence=[{name: co_occurrence}, {name: transitions}]",
    "evaluation.users=2000",
    # Without content similarity: the model knows few of the synthetic words, so most features are nearly the same.
    "evaluation.baselines=[most_popular,item_to_item,transitions,co_occurrence]",
    "data.workers=0",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    build(folder / "words", 1000, 10_000)
    build_backbone(folder / "backbone", folder / "words")  # each item has a word of its own: too many for one model
    start = time.monotonic()
    peak = build(folder / "shards", given.items, given.interactions)
    print(f"build: {time.monotonic() - start:.0f} s, peak {peak / 2**20:.0f} MiB", flush=True)
    places = [f"data.path={folder / 'shards'}", f"data.cache={folder / 'cache'}", f"run_dir={folder / 'run'}"]
    asked = [*places, f"model.item_encoder.backbone={folder / 'backbone'}", f"train.steps={given.steps}", *SETTINGS]
    launcher = [Path(sys.executable).with_name("deepspeed"), "-q", "--num_gpus", given.ranks]  # processes, without GPUs
    peaks = watched([*launcher, "launch/train.py", "--config", "configs/transrec/recommended.yaml", *asked])
    print(f"from build to summary: {time.monotonic() - start:.0f} s")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    for phase, spent in sorted(summary["phases"].items(), key=lambda entry: -entry[1]["seconds"]):
        print(f"{phase:>32} {spent['seconds']:8.1f} s {spent['processor_seconds']:8.1f} s of processor time")
    for rank, peak in sorted(peaks.items()):
        print(f"rank {rank}: peak {peak / 2**20:.0f} MiB")


def build(shards: Path, items: int, interactions: int) -> int:
    """Build synthetic shards; the peak memory in bytes."""
    sizes = ["--users", interactions // INTERACTIONS_OF_A_USER, "--items", items, "--interactions", interactions]
    command = [sys.executable, "-m", "data_tools", "build", "--source", "synthetic", *sizes, "--output", shards]
    return max(watched(command).values())


def watched(command: list[object]) -> dict[str, int]:
    """Run a command; the peak memory of each of its processes with a rank, or of all if none has one."""
    process = subprocess.Popen([str(part) for part in command])
    peaks: dict[str, int] = defaultdict(int)
    while process.poll() is None:
        for rank, held in now(process.pid).items():
            peaks[rank] = max(peaks[rank], held)
        time.sleep(0.5)
    assert process.returncode == 0
    return {rank: peak for rank, peak in peaks.items() if rank} or dict(peaks)


def now(pid: int) -> dict[str, int]:
    """Bytes that the processes of each local rank hold now."""
    found: dict[str, int] = defaultdict(int)
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for one in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.Error):
                rank = re.search(r"--local_rank=(\d+)", " ".join(one.cmdline()))
                found[rank[1] if rank else ""] += one.memory_full_info().pss
    return found


if __name__ == "__main__":
    main()
