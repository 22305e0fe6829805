"""Evaluate runs.

python launch/evaluate.py --run R [--split valid|test] [--data OTHER_SHARDS]
python launch/evaluate.py [--run SOURCE] --adapter A [B …]     each on its own data, over one base that is loaded once
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from transrec.config import ConfigError
from transrec.data.evaluation_stream import Part
from transrec.data.examples.interactions import DataConfig, Interactions
from transrec.data.shards import bad_samples
from transrec.data.shards.remote import parse_place
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.errors import TransRecError
from transrec.evaluation.evaluator import Evaluator, baselines
from transrec.evaluation.metrics import Estimate
from transrec.evaluation.report import as_json, console, table
from transrec.runs.build import open_store
from transrec.runs.channels import Channel, Channels
from transrec.runs.rebuild import check_targets


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder; with --adapter, the run that the adapters stand on")
    parser.add_argument("--adapter", type=Path, nargs="+", default=[], help="adapted runs, or their export folders")
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--data", metavar="DIR|URL", help="other shards than those a run was trained on")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # put in by the deepspeed launcher
    arguments = parser.parse_args(argv)
    try:
        evaluate(arguments.run, arguments.adapter, arguments.split, arguments.data)
    except TransRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(run: Path | None, adapters: list[Path], part: Part, data: str | None) -> None:
    world = distributed.join()
    channels = Channels(run, adapters, world.device)
    places = [data_of(channel, data) for channel in channels.members]  # what is missing shows before the work begins
    results = [
        Result(channels, channel, config, part, world) for channel, config in zip(channels.members, places, strict=True)
    ]
    distributed.stop(world)
    if world.is_main:
        for measure in dict.fromkeys(repr(result.evaluation) for result in results):  # a table for each set of metrics
            alike = [result for result in results if repr(result.evaluation) == measure]
            console().print(table(*sections(alike, part)))
        for result in results:
            print(json.dumps(result.line))


def data_of(channel: Channel, data: str | None) -> DataConfig:
    own = channel.experiment.data
    if data is None and not channel.has_data:
        raise ConfigError(f"{channel.folder} has left its run and its data: name shards with --data")
    return own if data is None else own.model_copy(update={"path": parse_place(data)})


class Result:
    """What a channel's model makes of the held-out items of its data; every rank must make it."""

    def __init__(self, channels: Channels, channel: Channel, config: DataConfig, part: Part, world: World) -> None:
        experiment = channel.experiment
        self.channel, self.evaluation = channel, experiment.evaluation
        self.interactions = Interactions.scan(config, experiment.model.max_length, world.union)
        shards = self.interactions.shards
        check_targets(channel.export, self.interactions.labels)
        model = channels.build(channel, shards.index)
        store = open_store(channel.model, shards.folder, config, world)
        self.estimates = Evaluator(self.evaluation, self.interactions, world).users(model, store, part).estimates
        place = {"data": str(shards.folder)}
        self.line = {"run": str(channel.folder)} | place | {part: as_json(self.estimates)}
        if world.is_main:
            bad_samples.warn(shards.skipped, store.skipped)


def sections(results: list[Result], part: Part) -> list[Mapping[str, Mapping[str, Estimate]]]:
    """Rows of the table: where users and measures are the same, results stand together below their baselines."""
    found: dict[str, dict[str, Mapping[str, Estimate]]] = {}
    for result in results:
        alike = repr((result.interactions.config, result.evaluation))
        if alike not in found:
            found[alike] = dict(baselines(result.evaluation, result.interactions, part))
        found[alike][result.channel.name] = result.estimates
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main())
