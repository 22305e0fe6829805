"""Ask a run what it saw: `python launch/lineage.py --run R --step N | --item ID | --user ID`.

A step tells its users, their items and the negatives; a user or an item the steps it was in. The answer follows from
the order of the run, which is a function of its seed, so nothing had to be recorded. Steps count from 1.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from transrec.config import ConfigError
from transrec.data.content.item_store import ItemStore
from transrec.data.lineage import Lineage, Sighting
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.train_stream import TrainStream
from transrec.errors import TransRecError
from transrec.evaluation.report import console
from transrec.runs.run_folder import load
from transrec.training.tracking import steps_done

MOST_ROWS = 50


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--step", type=int, help="which users and items made this step?")
    question.add_argument("--item", help="which steps had this item in a history?")
    question.add_argument("--user", help="which steps trained on this user?")
    arguments = parser.parse_args(argv)
    try:
        run = Answers(arguments.run)
        if arguments.step is not None:
            table, answer = run.step(arguments.step)
        else:
            table, answer = run.user(arguments.user) if arguments.user is not None else run.item(arguments.item)
    except TransRecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console().print(table)
    print(json.dumps({"run": str(arguments.run), **answer}, ensure_ascii=False))
    return 0


class Answers:
    """A table to read, and all of it as an object."""

    def __init__(self, run_dir: Path) -> None:
        experiment = load(run_dir)
        examples = experiment.data.scan(experiment.model.max_length)
        folder = examples.folder
        store = ItemStore(folder, {}, experiment.data.cache)
        collate = examples.collation(store, experiment.model.sampling, experiment.seed)
        stream = TrainStream(examples, collate, experiment.train.batch_size, experiment.seed)
        self.lineage = Lineage(stream, steps_done(run_dir))
        catalogue = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id", "title"]).to_pydict()
        self.item_ids, self.titles = catalogue["item_id"], catalogue["title"]

    def step(self, number: int) -> tuple[Table, dict[str, Any]]:
        if not 1 <= number <= self.lineage.steps:
            raise ConfigError(f"step {number}: this run has steps 1 to {self.lineage.steps}")
        step = self.lineage.step(number)
        table = Table("slot", "user", "from", "items", title=f"step {number}: {len(step.windows)} windows")
        for slot, window in list(step.windows.items())[:MOST_ROWS]:
            table.add_row(str(slot), window.user_id, str(window.start), self._titles(window.items))
        windows = [
            {"slot": slot, "user": window.user_id, "start": window.start, "items": self._ids(window.items)}
            for slot, window in step.windows.items()
        ]
        return table, {"step": number, "windows": windows, "items": self._ids(step.items)}

    def user(self, user_id: str) -> tuple[Table, dict[str, Any]]:
        try:
            sightings = self.lineage.user(user_id)
        except KeyError:
            raise ConfigError(f"user {user_id!r} is not in the shards of this run") from None
        return self._table(f"user {user_id}", sightings), {"user": user_id, "windows": self._objects(sightings)}

    def item(self, item_id: str) -> tuple[Table, dict[str, Any]]:
        if item_id not in self.item_ids:
            raise ConfigError(f"item {item_id!r} is not in the catalogue; it has ids such as {self.item_ids[0]}")
        index = self.item_ids.index(item_id) + 1
        sightings = self.lineage.item(index)
        title = f"item {item_id}, {self.titles[index - 1]}"
        return self._table(title, sightings), {"item": item_id, "windows": self._objects(sightings)}

    def _table(self, title: str, sightings: list[Sighting]) -> Table:
        steps = len({sighting.step for sighting in sightings})
        table = Table(
            "step", "slot", "user", "from", "items", title=f"{title}: in {steps} of {self.lineage.steps} steps"
        )
        for s in sightings[:MOST_ROWS]:
            table.add_row(str(s.step), str(s.slot), s.user_id, str(s.start), self._titles(s.items))
        return table

    def _objects(self, sightings: list[Sighting]) -> list[dict[str, Any]]:
        return [{"step": s.step, "slot": s.slot, "user": s.user_id, "start": s.start} for s in sightings]

    def _ids(self, items: Any) -> list[str]:
        return [self.item_ids[item - 1] for item in items.tolist()]

    def _titles(self, items: Any) -> str:
        shown = "; ".join(self.titles[item - 1] for item in items.tolist()[-4:])
        return f"… {shown}" if len(items) > 4 else shown


if __name__ == "__main__":
    sys.exit(main())
