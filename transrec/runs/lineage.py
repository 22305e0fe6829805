"""Lineage of a run: the windows of a training step, and the steps that used a user or an item."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transrec.config import ConfigError
from transrec.data.content.item_store import ItemStore
from transrec.data.lineage import Lineage, Sighting
from transrec.data.shards.remote import parse_place
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA, ShardIndex
from transrec.data.train_stream import TrainStream, digest
from transrec.runs.evaluate import check_shards
from transrec.runs.export import read_export
from transrec.runs.run_folder import load
from transrec.training.records import last_batch
from transrec.weights import CONFIG_FILE


@dataclass(frozen=True)
class SeenWindow:
    """A window of a user's history in a training step."""

    step: int  # from 1
    slot: int  # position in the global batch
    user: str
    start: int  # position of its first item in the user's history
    items: list[str]  # ids, oldest first


@dataclass(frozen=True)
class SeenStep:
    """A training step: its windows, and the ids of all its items, including negatives."""

    step: int
    windows: list[SeenWindow]
    items: list[str]


class RunLineage:
    """Looks up the steps that a run has completed; the order of the data is recomputed from the run's seed.

    Args:
        data: the shards that the run was trained on, if they have moved.

    Raises:
        ConfigError: the folder is not a run, or the shards are missing or not those it was trained on.
    """

    def __init__(self, run_dir: Path, data: Path | str | None = None) -> None:
        experiment = load(run_dir)
        config = experiment.data
        if data is not None:
            config = config.model_copy(update={"path": parse_place(data)})
        check_shards(run_dir, config, "--data")
        examples = config.scan(experiment.model.max_length)
        folder = examples.folder
        store = ItemStore(folder, {}, experiment.data.cache)
        collate = examples.collation(store, experiment.model.sampling, experiment.seed)
        stream = TrainStream(examples, collate, experiment.train.batch_size, experiment.seed)
        steps, recorded = last_batch(run_dir)
        self.lineage = Lineage(stream, steps)
        same_examples = not steps or f"{digest(0, stream.slots(steps - 1)):016x}" == recorded
        if not same_examples or _of_others(run_dir / "export", folder.index):
            raise ConfigError(f"{run_dir} was trained on shards other than {folder}: name its own shards with --data")
        catalogue = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id", "title"]).to_pydict()
        self._item_ids: list[str] = catalogue["item_id"]
        self.titles: dict[str, str] = dict(zip(self._item_ids, catalogue["title"], strict=True))  # by item id

    @property
    def steps(self) -> int:
        """Number of steps that the run has completed."""
        return self.lineage.steps

    def step(self, number: int) -> SeenStep:
        """
        Raises:
            ConfigError: the run has not completed a step with this number.
        """
        if not 1 <= number <= self.steps:
            raise ConfigError(f"this run has no step {number}: choose a step from 1 to {self.steps}")
        step = self.lineage.step(number)
        windows = [
            SeenWindow(number, slot, window.user_id, window.start, self._ids(window.items.tolist()))
            for slot, window in step.windows.items()
        ]
        return SeenStep(number, windows, self._ids(step.items.tolist()))

    def user(self, user_id: str) -> list[SeenWindow]:
        """The user's windows, in step order; none for a user who is not in the training data.

        Raises:
            ConfigError: the shards have no such user.
        """
        try:
            return self._seen(self.lineage.user(user_id))
        except KeyError:
            raise ConfigError(f"user {user_id!r} is not in the shards of this run") from None

    def item(self, item_id: str) -> list[SeenWindow]:
        """The windows that contain the item as input or target, in step order.

        Raises:
            ConfigError: the catalogue has no such item.
        """
        if item_id not in self.titles:
            raise ConfigError(f"item {item_id!r} is not in the catalogue, which has ids such as {self._item_ids[0]}")
        return self._seen(self.lineage.item(self._item_ids.index(item_id) + 1))

    def _seen(self, sightings: Iterable[Sighting]) -> list[SeenWindow]:
        return [SeenWindow(s.step, s.slot, s.user_id, s.start, self._ids(s.items.tolist())) for s in sightings]

    def _ids(self, items: Iterable[int]) -> list[str]:
        return [self._item_ids[item - 1] for item in items]


def _of_others(export: Path, index: ShardIndex) -> bool:
    """Whether a run's export belongs to a catalogue other than that of `index`; False without an export."""
    return (export / CONFIG_FILE).exists() and read_export(export).item_ids_sha256 != index.item_ids_sha256
