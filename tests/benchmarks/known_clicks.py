"""How far ranking models get towards the best possible AUC: `python tests/benchmarks/known_clicks.py [--picture FILE]
WORLD:LABEL:RUN …`.

The runs were trained on sets of `--source synthetic --impressions`, whose probabilities of a click are recorded. The
others are measured from the first run of each world. Intervals are of 95 %, over users, paired within a world.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from data_tools.sources.known_clicks import PROBABILITY
from transrec.data.shards.schema import CATALOGUE_FILE
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserShards

RESAMPLES = 200
Floats = NDArray[np.float64]


class Row(NamedTuple):
    """A run: its AUC and the share of the way from the first run to the best, each with an interval."""

    world: str
    label: str
    auc: Floats  # value, low, high
    share: Floats
    best: float


def probabilities(shards: Path) -> dict[tuple[str, str], float]:
    """The recorded probability of a click, by user and item."""
    users = UserShards(ShardFolder(shards))
    items = pq.read_table(shards / CATALOGUE_FILE, columns=["item_id"])["item_id"].to_pylist()
    found = {}
    for number in range(len(users)):
        block = users.block(number)
        assert block.shown is not None
        owners = np.repeat(block.user_ids.to_pylist(), np.diff(block.shown.offsets))
        rows = zip(owners, block.shown.items, block.shown.context[PROBABILITY].to_pylist(), strict=True)
        found.update({(user, items[item - 1]): float(p) for user, item, p in rows})
    return found


def rows_of(world: str, runs: dict[str, Path]) -> list[Row]:
    """The runs of a world; the others are measured from the first."""
    first = next(iter(runs.values()))
    known = probabilities(Path(yaml.safe_load((first / "config.yaml").read_text())["data"]["path"]))
    tests = {label: pq.read_table(run / "test_users.parquet") for label, run in runs.items()}
    asked = tests[next(iter(runs))]
    pairs = zip(asked["user_id"].to_pylist(), asked["target"].to_pylist(), strict=True)
    labels, best = asked["label"].to_numpy(), np.array([known[pair] for pair in pairs])
    scores = {"": best} | {label: test["score"].to_numpy() for label, test in tests.items()}
    numbers = np.unique(asked["user_id"].to_numpy(), return_inverse=True)[1]
    rng, count = np.random.default_rng(0), numbers.max() + 1
    draws = [np.ones(count), *(rng.multinomial(count, np.full(count, 1 / count)) for _ in range(RESAMPLES))]
    aucs = {
        label: np.array([roc_auc_score(labels, score, sample_weight=draw[numbers]) for draw in draws])
        for label, score in scores.items()
    }
    start, top = aucs[next(iter(runs))], aucs[""]
    return [
        Row(world, label, _with_interval(aucs[label]), _with_interval((aucs[label] - start) / (top - start)), top[0])
        for label in runs
    ]


def _with_interval(values: Floats) -> Floats:
    return np.array([values[0], *np.quantile(values[1:], [0.025, 0.975])])


def draw(rows: list[Row], file: Path) -> None:
    """A panel for each world: AUC by run, with the best possible as a line."""
    worlds = list(dict.fromkeys(row.world for row in rows))
    figure = Figure(figsize=(2.6 * len(worlds) + 1.2, 3.2), layout="constrained")
    panels = figure.subplots(1, len(worlds), squeeze=False, sharex=True)[0]
    for axes, world in zip(panels, worlds, strict=True):
        chosen = [row for row in rows if row.world == world][::-1]
        values = np.array([row.auc for row in chosen])
        bars = np.abs(values[:, 1:] - values[:, :1]).T
        axes.errorbar(values[:, 0], range(len(chosen)), xerr=bars, fmt="o", color="#0072B2", capsize=2)
        axes.axvline(chosen[0].best, color="#D55E00", linestyle="--")
        axes.set_yticks(range(len(chosen)), [row.label for row in chosen])
        axes.set(title=world, xlabel="AUC", ylim=(-0.6, len(chosen) - 0.4))
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="WORLD:LABEL:RUN")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    worlds: dict[str, dict[str, Path]] = {}
    for text in arguments.runs:
        world, label, run = text.split(":", 2)
        worlds.setdefault(world, {})[label] = Path(run)
    rows = [row for world, runs in worlds.items() for row in rows_of(world, runs)]
    print("| world | | AUC | of the best possible | share of the way |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        auc = "{:.4f} [{:.4f}, {:.4f}]".format(*row.auc)
        share = "{:.0%} [{:.0%}, {:.0%}]".format(*row.share)
        print(f"| {row.world} | {row.label} | {auc} | {row.best:.4f} | {share} |")
    if arguments.picture:
        draw(rows, arguments.picture)


if __name__ == "__main__":
    main()
