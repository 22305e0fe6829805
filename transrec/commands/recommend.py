"""Recommend items to histories, also of users and items never trained on; or answer the task of a run.

python launch/recommend.py --run R --history ID,ID,… [--catalogue SHARDS] [--top 10]
python launch/recommend.py --run R --histories users.jsonl [--catalogue SHARDS] [--top 10] > recommendations.jsonl
python launch/recommend.py [--run SOURCE] --adapter A [B …] …      every adapter answers, over one base
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from transrec.config import ConfigError
from transrec.data.content.opening import open_store
from transrec.data.examples.histories import open_folder
from transrec.data.examples.questions import Histories
from transrec.data.shards import bad_samples
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.shard_folder import ShardFolder
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.errors import TransRecError
from transrec.evaluation.evaluator import encode_catalogue, inference
from transrec.evaluation.full_ranking import Score, top_items
from transrec.evaluation.report import console
from transrec.runs.channels import Channel, Channels
from transrec.runs.export import read_export_config


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        world = distributed.join()
        channels = Channels(arguments.run, arguments.adapter, world.device)
        places = [catalogue_of(channel, arguments.catalogue) for channel in channels.members]
        for channel, place in zip(channels.members, places, strict=True):
            recommender = Recommender(channels, channel, place, world)
            if arguments.history is not None:
                show(recommender, arguments.history.split(","), arguments.top)
                continue
            named = {"adapter": str(channel.folder)} if arguments.adapter else {}
            for user, history in read_histories(arguments.histories):
                found = recommender.recommend(history, arguments.top)
                print(json.dumps({"user": user, **named, "recommendations": found}, ensure_ascii=False))
    except TransRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder; with --adapter, the run that the adapters stand on")
    parser.add_argument("--adapter", type=Path, nargs="+", default=[], help="adapted runs, or their export folders")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--history", metavar="ID,ID,…", help="item ids, oldest first; shows a table")
    given.add_argument("--histories", type=Path, help='JSON lines {"user": …, "history": [ids]}; prints JSON lines')
    parser.add_argument("--catalogue", metavar="DIR|URL", help="shards whose items to recommend (default: the run's)")
    parser.add_argument("--top", type=int, default=10)
    return parser.parse_args(argv)


def catalogue_of(channel: Channel, catalogue: str | None) -> ShardFolder:
    if catalogue is None and not channel.has_data:
        raise ConfigError(f"{channel.folder} has left its run and its data: name shards with --catalogue")
    return open_folder(channel.experiment.data, catalogue)


class Recommender:
    """A channel's model over a catalogue, every item of which is encoded once."""

    def __init__(self, channels: Channels, channel: Channel, folder: ShardFolder, world: World) -> None:
        self.name, index = channel.name, folder.index
        self.max_length, self.num_items = channel.experiment.model.max_length, index.counts.items
        self.targets: list[str] | None = read_export_config(channel.export)["targets"]
        self.model = channels.build(channel, index)
        columns = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id", "title"]).to_pydict()
        self.item_ids, self.titles = columns["item_id"], columns["title"]
        self.index_of = {item_id: i for i, item_id in enumerate(self.item_ids, start=1)}
        store = open_store(folder, channel.model.content(), channel.experiment.data, world)
        bad_samples.warn({}, store.skipped)
        with inference(self.model):
            self.vectors = encode_catalogue(self.model, store, self.num_items, world)

    def recommend(self, history: list[str], top: int) -> list[dict[str, Any]]:
        """The `top` items for a user with these item ids, oldest first, without these; or the best targets of the task.

        Raises:
            ConfigError: an id that the catalogue lacks, or an empty history.
        """
        unknown = [item_id for item_id in history if item_id not in self.index_of]
        if unknown or not history:
            problem = f"unknown item ids: {', '.join(unknown[:5])}" if unknown else "a history needs at least one item"
            raise ConfigError(f"{problem}; the catalogue has ids such as {', '.join(self.item_ids[:3])}")
        seen = torch.tensor([[self.index_of[item_id] for item_id in history]])
        inputs = torch.zeros((1, self.max_length), dtype=torch.int64)
        newest = seen[:, -self.max_length :]
        inputs[:, -newest.shape[1] :] = newest
        candidates = torch.ones(self.num_items + 1, dtype=torch.bool)
        candidates[0] = False
        device = self.vectors.device
        with inference(self.model):
            score = self.model.scorer(self.vectors)(Histories(inputs))
            if self.targets is not None:
                return answers(score, self.targets, top)
            scores, items = top_items(score, self.num_items, seen.to(device), candidates.to(device), top)
        return [
            {"item_id": self.item_ids[i - 1], "title": self.titles[i - 1], "score": round(s, 6)}
            for s, i in zip(scores[0].tolist(), items[0].tolist(), strict=True)
            if i > 0
        ]


def answers(score: Score, targets: list[str], top: int) -> list[dict[str, Any]]:
    """The `top` best targets of one user; their probabilities are a softmax over all, as classification learns them."""
    probabilities = score(1, len(targets) + 1)[0].softmax(0)
    best = probabilities.topk(min(top, len(targets)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"target": targets[i], "probability": round(p, 6)} for i, p in pairs]


def read_histories(path: Path) -> Iterator[tuple[Any, list[str]]]:
    """
    Raises:
        ConfigError: a line that is not an object with a list `history`, named by its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            yield record.get("user", number), [str(item_id) for item_id in record["history"]]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ConfigError(f'{path}, line {number}: expected {{"user": …, "history": [item ids]}}') from None


def show(recommender: Recommender, history: list[str], top: int) -> None:
    output = console()
    recommended = recommender.recommend(history, top)
    output.print("History, oldest first:", style="bold")
    for item_id in history:
        output.print(f"  {recommender.titles[recommender.index_of[item_id] - 1]}", highlight=False, markup=False)
    table = Table("", *(recommended[0] if recommended else ()), title=recommender.name)
    for place, found in enumerate(recommended, start=1):
        *names, number = found.values()
        table.add_row(str(place), *names, f"{number:.4f}")
    output.print(table)


if __name__ == "__main__":
    sys.exit(main())
