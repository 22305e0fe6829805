"""Memory of training, and the time to its first batch, by number of interactions.

    python tests/benchmarks/train_memory.py --folder /tmp/train_memory --interactions 1000000 20000000

Builds a synthetic set of each size unless it exists (20 interactions a user, 20,000 items). Then prints, each measured
in processes of its own: resident memory of a scan of the interactions; the time to the first batch of a cold start, and
of a start at 90 % of an epoch; and, with `--train`, the peak memory of training 100 steps, the larger of two ranks.
Training is then stopped, because the tests of the larger sets would take hours.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from data_tools.build import build
from data_tools.sources.synthetic import SyntheticSource
from transrec.data.batch import Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import DataConfig
from transrec.data.train_stream import TrainStream
from transrec.training.records import steps_done

ROOT = Path(__file__).parents[2]
ITEMS, INTERACTIONS_PER_USER = 20_000, 20
MAX_LENGTH, BATCH, STEPS = 20, 256, 100
SPLITS = ("leave_one_out", "temporal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--interactions", type=int, nargs="+", default=[1_000_000, 20_000_000])
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("SPLIT", "PLACE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        split, place = arguments.measure
        print(json.dumps(measure(arguments.folder, split, float(place))))
        return
    sets = {count: shards_of(arguments.folder, count) for count in arguments.interactions}
    for split in SPLITS:
        compare_scans(split, sets)
    if arguments.train:
        compare_training(sets)


def compare_training(sets: dict[int, Path]) -> None:
    peaks = {}
    for count, shards in sets.items():
        peaks[count] = train(shards)
        print(f"training {count:,} interactions: {peaks[count] / 2**20:.1f} MiB", flush=True)
    print_growth("training", peaks)


def compare_scans(split: str, sets: dict[int, Path]) -> None:
    peaks: dict[int, int] = {}
    for count, shards in sets.items():
        cold, resumed = (in_own_process(shards, split, place) for place in (0.0, 0.9))
        peaks[count] = int(cold["scan_bytes"])
        seconds = f"first batch after {cold['seconds']:.2f} s, at 90 % after {resumed['seconds']:.2f} s"
        print(f"{split}, {count:,} interactions: scan {peaks[count] / 2**20:.1f} MiB; {seconds}", flush=True)
    print_growth(split, peaks)


def print_growth(what: str, peaks: dict[int, int]) -> None:
    few, many = min(peaks), max(peaks)
    if many > few:
        print(f"{what}: {(peaks[many] - peaks[few]) / (many - few):.2f} bytes per interaction", flush=True)


def shards_of(folder: Path, interactions: int) -> Path:
    shards = folder / f"shards-{interactions}"
    if not shards.exists():
        build(SyntheticSource(interactions // INTERACTIONS_PER_USER, ITEMS, interactions), "synthetic", shards)
    return shards


def in_own_process(shards: Path, split: str, place: float) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(shards), "--measure", split, str(place)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    return json.loads(finished.stdout.splitlines()[-1])


def measure(shards: Path, split: str, place: float) -> dict[str, float]:
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    began = time.perf_counter()
    interactions = DataConfig(path=shards, split={"name": split}).scan(MAX_LENGTH)  # type: ignore[arg-type]
    scanned = resident("VmHWM") - before
    store = ItemStore(interactions.shards.folder, {}, Path())
    stream = TrainStream(interactions, interactions.collation(store, Sampling(), 0), BATCH, seed=0)
    start = int(place * len(stream))
    next(stream.load(start, start + 1, workers=0))
    return {"scan_bytes": scanned, "seconds": time.perf_counter() - began}


def train(shards: Path) -> int:
    run_dir = shards.with_name(f"run-{shards.name}-{os.getpid()}")
    overrides = [f"data.path={shards}", f"run_dir={run_dir}", f"train.steps={10 * STEPS}", "train.evaluate_every=never"]
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "-q", "--num_accelerators", "2", "launch/train.py"]
    command = [*launcher, "--config", "configs/transrec/id_sasrec.yaml", *overrides]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ) as process:
        while process.poll() is None and steps_done(run_dir) < STEPS:
            time.sleep(0.5)
        ranks = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        peak = max(resident("VmHWM", pid) for pid in ranks)
        process.terminate()
    return peak


def resident(field: str, pid: int | str = "self") -> int:
    """Bytes of resident memory: now (`VmRSS`), or at most (`VmHWM`)."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


if __name__ == "__main__":
    main()
