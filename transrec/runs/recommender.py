"""Recommendations from a trained run: the Python API, which the command `recommend` uses too.

Shape letters: N items of the catalogue, T targets of a task, L positions, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.content.opening import open_store
from transrec.data.examples.evidence import of_questions
from transrec.data.examples.feature_rows import FeatureRows
from transrec.data.examples.histories import open_folder
from transrec.data.examples.questions import Histories
from transrec.data.shards import bad_samples
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.shard_folder import ShardFolder
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.evaluation.estimates import Estimate
from transrec.evaluation.evaluator import encode_catalogue, inference
from transrec.evaluation.full_ranking import top_items
from transrec.models.ranking_model import RankingModelConfig
from transrec.protocols import Evidence, Model, Part, Score, Scorer
from transrec.runs.channels import Channel, Channels
from transrec.runs.click_scores import Visit, click_scores, probability
from transrec.runs.evaluate import check_shards, data_of, evaluate
from transrec.runs.evidence import look_up
from transrec.runs.export import read_export

NOBODY = Visit()


class ItemVectors(NamedTuple):
    """The item vectors of a model.

    Without evidence a user's score for an item is the inner product of their vectors, or their cosine if
    `model.similarity` is cosine, but for the objective's temperature; evidence is no part of a vector.
    """

    ids: list[str]
    vectors: Tensor  # (N, D) float32 on the CPU, in the order of `ids`


@dataclass(frozen=True)
class Catalogue:
    """The items of a set of shards, in the order of their indices, which start at 1."""

    folder: ShardFolder
    item_ids: list[str]
    titles: list[str]

    @classmethod
    def read(cls, folder: ShardFolder) -> "Catalogue":
        columns = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id", "title"]).to_pydict()
        return cls(folder, columns["item_id"], columns["title"])

    @cached_property
    def index_of(self) -> dict[str, int]:
        return {item_id: i for i, item_id in enumerate(self.item_ids, start=1)}

    def title(self, item_id: str) -> str:
        return self.titles[self.index_of[item_id] - 1]

    def missing(self, history: Sequence[str]) -> list[str]:
        """The ids of a history that the catalogue lacks."""
        return [item_id for item_id in history if item_id not in self.index_of]

    def check(self, history: Sequence[str], where: str = "") -> None:
        """
        Args:
            where: begins the message.

        Raises:
            ConfigError: an id is not in the catalogue, or the history is empty.
        """
        if isinstance(history, str):  # a sequence of its characters
            raise ConfigError(f"a history is a list of item ids, found the text {history!r}")
        missing = self.missing(history)
        if missing or not history:
            unknown = f"unknown item ids: {', '.join(map(str, missing[:5]))}"
            problem = unknown if missing else "a history needs at least one item"
            such = f"the catalogue has ids such as {', '.join(self.item_ids[:3])}"
            raise ConfigError(f"{where}{': ' if where else ''}{problem}; {such}")

    def indices(self, history: Sequence[str]) -> list[int]:
        """
        Raises:
            ConfigError: as `check`.
        """
        self.check(history)
        return [self.index_of[item_id] for item_id in history]


class Recommender:
    """The trained model of a run with a catalogue, whose items are all encoded once, on first use.

    `transrec.load_run` and `transrec.load_adapters` create recommenders.

    Args:
        channels: the run, or the adapters over one base, that the model is built from.
        channel: the one to use.
        catalogue: shards whose items are recommended, a folder or a URL; None: those that the run was trained on.
        world: the processes that share the work; all of them must make the same calls.
    """

    def __init__(
        self, channels: Channels, channel: Channel, catalogue: Path | str | None = None, world: World | None = None
    ) -> None:
        self._channels, self._channel, self._place = channels, channel, catalogue
        self._world = distributed.join() if world is None else world

    def __repr__(self) -> str:
        return f"Recommender({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The run folder or export, as given."""
        return self._channel.folder

    @property
    def name(self) -> str:
        return self._channel.name

    def open(self) -> None:
        """Open the catalogue now instead of on first use; see `catalogue` for the errors."""
        _ = self.catalogue

    @cached_property
    def targets(self) -> list[str] | None:
        """The targets of the run's task; None: the run recommends items."""
        return read_export(self._channel.export).targets

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items that are recommended.

        Raises:
            ConfigError: no catalogue was given, and the model is an export without its run folder, or its shards have
                moved.
            TransRecError: there are no shards.
        """
        if self._place is None and not self._channel.has_data:
            raise ConfigError(f"{self.folder} is not in its run folder: name shards with --catalogue")
        if self._place is None:
            check_shards(self.folder, self._channel.experiment.data, "--catalogue")
        return Catalogue.read(open_folder(self._channel.experiment.data, self._place))

    def recommend(
        self, history: Sequence[str], top: int = 10, candidates: Sequence[str] | None = None, visit: Visit = NOBODY
    ) -> list[dict[str, Any]]:
        """The best items for a user, who need not be in the data; or the best targets of the run's task.

            >>> transrec.load_run("runs/x").recommend(["100001", "100002"], top=1)
            [{'item_id': '100017', 'title': 'Origem Merlot', 'score': 3.141593}]

        Args:
            history: item ids, oldest first; the model reads the newest `model.max_length` of them.
            top: maximum number of results. Items of the history are excluded.
            candidates: ids of the items to choose from, or to rank; None: the whole catalogue.
            visit: for a ranking model, what it reads besides the history.

        Returns:
            `{"item_id", "title", "score"}` for each item, best first. A score is the model's logit and is comparable
            only within one result; a ranking model has a `probability`, that of a click, in its place. For a task,
            `{"target", "probability"}`, from a softmax over all T targets.

        Raises:
            ConfigError: an id is not in the catalogue, the history is empty where the model needs one, or `top` is
                below 1.
        """
        if top < 1:
            raise ConfigError(f"top {top}: ask for at least 1 result")
        allowed = None if candidates is None else self.catalogue.indices(candidates)
        if self._ranking is not None:
            return self._most_probable(self._ranking, history, top, allowed, visit)
        seen = torch.tensor([self.catalogue.indices(history)])
        inputs = torch.zeros((1, self._channel.experiment.model.max_length), dtype=torch.int64)
        newest = seen[:, -inputs.shape[1] :]
        inputs[:, -newest.shape[1] :] = newest
        with inference(self._model):
            evidence = of_questions(self._evidence, [seen[0].numpy()], len(self.catalogue.item_ids))
            score = self._scorer(Histories(inputs, evidence))
            if self.targets is not None:
                return best_targets(score, self.targets, top)
            return self._best_items(score, seen, top, allowed)

    def item_vectors(self) -> ItemVectors:
        """The ids of the catalogue's items and their vectors (N, D), for example for a nearest-neighbour index.

        >>> ids, vectors = transrec.load_run("runs/x").item_vectors()
        """
        return ItemVectors(list(self.catalogue.item_ids), self._vectors[1:].cpu())

    def evaluate(self, split: Part = "test", data: Path | str | None = None) -> dict[str, Estimate]:
        """The metrics of the run's configuration and the loss, each with an interval over users.

            >>> transrec.load_run("runs/x").evaluate(split="test")["HR@10"]
            Estimate(value=0.19, low=0.1826, high=0.198)

        Args:
            split: "valid" or "test", the held-out part to evaluate on.
            data: shards other than those the run was trained on, a folder or a URL.

        Returns:
            `value`, `low` and `high` by metric; rates are between 0 and 1, the loss is in nats.

        Raises:
            ConfigError: the model embeds the item ids of another catalogue or has other targets, or no user has a
                held-out item.
        """
        result = evaluate(self._channels, self._channel, data_of(self._channel, data), split, self._world)
        return dict(result.estimates)

    @cached_property
    def _scorer(self) -> Scorer:
        return self._model.scorer(self._vectors)

    @cached_property
    def _evidence(self) -> Sequence[Evidence]:
        """Evidence from the users of the catalogue's shards."""
        experiment = self._channel.experiment
        if not experiment.model.looked_up():
            return ()
        data = experiment.data if self._place is None else data_of(self._channel, self._place)
        examples = data.scan(experiment.model.max_length, self._world)
        look_up(experiment.model, examples, self._world)
        return examples.evidence

    @cached_property
    def _model(self) -> Model:
        return self._channels.build(self._channel, self.catalogue.folder.index)

    @cached_property
    def _vectors(self) -> Tensor:
        """(N + 1, D); row 0 is padding."""
        folder = self.catalogue.folder
        wanted = self._channel.model.content()
        store = open_store(folder, wanted, self._channel.experiment.data, self._world)
        bad_samples.warn({}, store.skipped)
        with inference(self._model):
            return encode_catalogue(self._model, store, folder.index.counts.items, self._world)

    @property
    def needs_history(self) -> bool:
        """Whether nothing can be recommended to a user without a history; a ranking model has other features."""
        return self._ranking is None

    @cached_property
    def _ranking(self) -> RankingModelConfig | None:
        """The settings of a ranking model, with its vocabularies; None for a model of another kind."""
        settings = self._channel.model
        return settings if isinstance(settings, RankingModelConfig) else None

    def _most_probable(
        self,
        settings: RankingModelConfig,
        history: Sequence[str],
        top: int,
        allowed: Sequence[int] | None,
        visit: Visit,
    ) -> list[dict[str, Any]]:
        seen = self.catalogue.indices(history) if history else []
        with inference(self._model):
            heads, length = len(settings.objective.heads), settings.max_length
            choices = len(self.catalogue.item_ids) if allowed is None else len(allowed)
            score = click_scores(self._scorer, self._features, seen, visit, choices, length, heads)
            left_out = torch.tensor([seen if allowed is None else []], dtype=torch.int64)
            found = self._best_items(score, left_out, top, allowed)
        return [
            {name: value for name, value in row.items() if name != "score"} | {"probability": probability(row["score"])}
            for row in found
        ]

    @cached_property
    def _features(self) -> FeatureRows:
        assert self._ranking is not None
        return FeatureRows.of(self.catalogue.folder, self._ranking.features, self._ranking.vocabularies)

    def _best_items(
        self, score: Score, seen: Tensor, top: int, allowed: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        num_items, device = len(self.catalogue.item_ids), self._vectors.device
        candidates = torch.full((num_items + 1,), allowed is None, dtype=torch.bool, device=device)
        candidates[list(allowed or [])] = True
        candidates[0] = False
        scores, items = top_items(score, num_items, seen.to(device), candidates, top)
        return [
            {"item_id": self.catalogue.item_ids[i - 1], "title": self.catalogue.titles[i - 1], "score": round(s, 6)}
            for s, i in zip(scores[0].tolist(), items[0].tolist(), strict=True)
            if i > 0
        ]


def best_targets(score: Score, targets: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The `top` best targets of one user, with the probabilities of a softmax over all targets, as in training."""
    probabilities = score(1, len(targets) + 1)[0].softmax(0)
    best = probabilities.topk(min(top, len(targets)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"target": targets[i], "probability": round(p, 6)} for i, p in pairs]


def load_run(run: Path | str, base: Path | str | None = None, catalogue: Path | str | None = None) -> Recommender:
    """Load a trained run to recommend, encode items and evaluate.

        >>> import transrec
        >>> run = transrec.load_run("runs/quickstart")
        >>> run.recommend(["100001", "100002"], top=10)

    Args:
        run: a run folder; with `base`, also an adapter's `export/`, which may have been copied elsewhere.
        base: the run that an adapter was trained on; None: the one in its configuration.
        catalogue: shards whose items are recommended, a folder or a URL; None: those that the run was trained on.

    Raises:
        ConfigError: `run` is not a run folder or, with `base`, not an adapter.
    """
    if base is not None:
        return load_adapters([run], base, catalogue)[0]
    return recommenders(Path(run), [], catalogue)[0]


def load_adapters(
    runs: Sequence[Path | str], base: Path | str | None = None, catalogue: Path | str | None = None
) -> list[Recommender]:
    """Load adapted runs of one base, which is read only once and kept in memory only once.

        >>> films, books = transrec.load_adapters(["runs/films", "runs/books"], base="runs/source")

    Args:
        runs: run folders, or their exports.
        base: the run that they were trained on; None: the one in the configuration of the first.
        catalogue: as in `load_run`, for all of them.

    Raises:
        ConfigError: one of them is not an adapter.
    """
    if isinstance(runs, str | Path):  # a text is a sequence of its characters
        raise ConfigError(f"give a list of runs, as in load_adapters([{str(runs)!r}])")
    if not runs:
        return []
    return recommenders(None if base is None else Path(base), [Path(run) for run in runs], catalogue)


def recommenders(run: Path | None, adapters: Sequence[Path], catalogue: Path | str | None) -> list[Recommender]:
    """One recommender for each channel of `Channels(run, adapters)`."""
    world = distributed.join()
    channels = Channels(run, adapters, world.device)
    return [Recommender(channels, channel, catalogue, world) for channel in channels.members]
