"""Plans against runs: rehearsals at sizes a factor of ten apart, and the check of a plan that uses all of them.

    python tests/benchmarks/plan_rehearsals.py --folder DIR [--users 1000 10000 100000] [--kind text|id]

A set has a tenth as many items as users, and 20 interactions for each user. `text` is a tiny frozen language model with
SASRec and all baselines; `id` is SASRec over a table of item ids, with `most_popular` as its only baseline. Runs that
are already in the folder are not trained again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).parents[1] / "support"))
from tiny_world import build_backbone

MODEL = {"width": 32, "max_length": 10, "user_encoder": {"name": "sasrec", "layers": 1}}
TRAIN = {"steps": 100, "batch_size": 64, "evaluate_every": 50, "checkpoint_every": 50}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--users", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--kind", choices=["text", "id"], default="text")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    sets = [build(folder, users) for users in arguments.users]
    config = folder / f"{arguments.kind}.yaml"
    config.write_text(yaml.safe_dump(configuration(arguments.kind, folder, sets[0])), encoding="utf-8")
    runs = [train(folder, config, shards) for shards in sets]
    full = ["--users", "100e6", "--items", "10e6", "--nodes", "8", "--gpus", "8", "train.batch_size=4096"]
    asked = [argument for run in runs for argument in ("--run", str(run))]
    start("transrec", "plan", "--config", config, *full, *asked, f"data.path={sets[-1]}", "run_dir=unwritten")


def build(folder: Path, users: int) -> Path:
    """The shards of this many users."""
    shards = folder / f"shards-{users}"
    if not (shards / "index.json").exists():
        sizes = ["--users", str(users), "--items", str(users // 10), "--interactions", str(20 * users)]
        start("data_tools", "build", "--source", "synthetic", *sizes, "--output", shards)
    return shards


def configuration(kind: str, folder: Path, shards: Path) -> dict[str, object]:
    """The configuration of all runs of a kind."""
    if kind == "id":
        model = {"item_encoder": {"name": "id_embedding"}, "objective": {"name": "in_batch_softmax"}}
        rest: dict[str, object] = {"evaluation": {"users": 2000, "baselines": ["most_popular"]}}
    else:
        backbone = folder / "backbone"
        if not backbone.exists():
            build_backbone(backbone, shards)
        encoder = {"name": "text", "backbone": str(backbone), "max_tokens": 16, "dropout": 0}
        model = {"item_encoder": encoder, "objective": {"name": "next_item"}}
        rest = {"adaptation": {"name": "frozen_backbone"}, "evaluation": {"users": 2000}}
    return {"model": MODEL | model, "train": TRAIN, **rest}


def train(folder: Path, config: Path, shards: Path) -> Path:
    """The run over a set, from an empty cache."""
    name = f"{config.stem}-{shards.name}"
    if not (folder / name / "summary.json").exists():
        places = [f"data.path={shards}", f"data.cache={folder / f'cache-{name}'}", f"run_dir={folder / name}"]
        start("transrec", "train", "--config", config, *places, "data.workers=0")
    return folder / name


def start(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
