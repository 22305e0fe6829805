"""Recommendations from a trained run: the Python API, which `transrec recommend` also uses.

Shape letters: B users, N items of the catalogue, T targets of a task, D width of item vectors, W width of targets.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.examples.questions import left_padded, newest
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.evaluation.estimates import Estimate
from transrec.evaluation.evaluator import inference
from transrec.models.ranking_model import RankingModelConfig
from transrec.nn.dot_product import InnerProducts
from transrec.protocols import Model, Part
from transrec.runs.answers.click_scores import Visit
from transrec.runs.answers.clicks import Clicks
from transrec.runs.answers.next_items import NextItems, best_items
from transrec.runs.answers.query import NOBODY, Answers, Query
from transrec.runs.answers.task_targets import TaskTargets
from transrec.runs.catalogue import Catalogue, Filters, check_top
from transrec.runs.channels import Channel, Channels
from transrec.runs.encoded_catalogue import EncodedCatalogue, KnownVectors
from transrec.runs.evaluate import data_of, evaluate
from transrec.runs.export import read_export
from transrec.terminal import shortened

FIRST_STAGE_TOP = 100
CANDIDATES_TWICE = "`candidates` cannot be combined with a first stage, which finds them: leave out one of the two"


class ItemVectors(NamedTuple):
    """The item vectors of a model.

    In a model without evidence, a user's score for an item is the inner product of their vectors, or their cosine if
    `model.similarity` is cosine, up to the objective's temperature. Evidence is not part of a vector.
    """

    ids: list[str]
    vectors: Tensor  # (N, D) float32 on the CPU, in the order of `ids`


class Recommender:
    """The trained model of a run, with a catalogue whose items are all encoded once, on first use.

    `transrec.load_run` and `transrec.load_adapters` create recommenders.

    Args:
        channels: the run, or the adapters over one base, that the model is built from.
        channel: the channel to use.
        catalogue: shards whose items are recommended, a folder or a URL; None: those that the run was trained on.
        world: the processes that share the work; all of them must make the same calls.
        known: vectors that this model has already computed, which are reused for items with the same content.
    """

    def __init__(
        self,
        channels: Channels,
        channel: Channel,
        catalogue: Path | str | None = None,
        world: World | None = None,
        known: KnownVectors | None = None,
    ) -> None:
        self._world = distributed.join() if world is None else world
        self._channels, self._channel, self._place = channels, channel, catalogue
        self._encoded = EncodedCatalogue(channels, channel, catalogue, self._world, known)

    def __repr__(self) -> str:
        return f"Recommender({str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The run folder or export, as given."""
        return self._channel.folder

    @property
    def name(self) -> str:
        return self._channel.name

    @property
    def export(self) -> Path:
        """The folder of the exported weights; for an adapter, these do not include its base."""
        return self._channel.export

    @property
    def max_length(self) -> int:
        """The maximum number of items that the model reads from a history; only the newest are read."""
        return self._channel.experiment.model.max_length

    @property
    def embeds_ids(self) -> bool:
        """Whether the model embeds item ids, so that it fits only one catalogue."""
        return self._channel.experiment.model.embeds_ids

    def open(self) -> None:
        """Open the catalogue now instead of on first use; see `catalogue` for the errors."""
        _ = self.catalogue

    def prepare(self) -> None:
        """Load and compute everything that recommendations need in advance, instead of on first use.

        The catalogue may then be moved or replaced; only pictures are still read from it.
        """
        self._encoded.prepare()
        self._answers.prepare()

    @cached_property
    def targets(self) -> list[str] | None:
        """The targets of the run's task; None: the run recommends items."""
        return read_export(self._channel.export).targets

    @property
    def catalogue(self) -> Catalogue:
        """The items that are recommended.

        Raises:
            ConfigError: no catalogue was given, and the model is an export without its run folder, or its shards have
                moved.
            TransRecError: there are no shards.
        """
        return self._encoded.catalogue

    def recommend(
        self,
        history: Sequence[str],
        top: int = 10,
        candidates: Sequence[str] | None = None,
        visit: Visit = NOBODY,
        *,
        exclude: Sequence[str] = (),
        filters: Filters | None = None,
        repeats: bool = False,
        first_stage: "Recommender | None" = None,
        first_stage_top: int = FIRST_STAGE_TOP,
    ) -> list[dict[str, Any]]:
        """The best items for a user, who need not be in the data, or the best targets of the run's task.

            >>> transrec.load_run("runs/x").recommend(["100001", "100002"], top=1)
            [{'item_id': '100017', 'title': 'Origem Merlot', 'score': 3.141593}]

        Args:
            history: item ids, oldest first; the model reads the newest `model.max_length` of them.
            top: maximum number of results.
            candidates: ids of the items to choose from, or to rank, even if they are in the history; None: the whole
                catalogue without the items of the history; []: none.
            visit: for a ranking model, its inputs in addition to the history.
            exclude: ids of items not to recommend; ids that the catalogue lacks are ignored.
            filters: the allowed values for each column of the items, as in `{"brand": ["nordlys"]}`.
            repeats: whether items of the history may be recommended again.
            first_stage: for a ranking model, a run that recommends the next item and finds the candidates. Items that
                it finds but this catalogue lacks are left out.
            first_stage_top: number of items that the first stage finds.

        Returns:
            `{"item_id", "title", "score"}` for each item, best first. A score is the model's logit and is comparable
            only within one result; a ranking model returns the `probability` of a click instead. For a task,
            `{"target", "probability"}`, from a softmax over all T targets.

        Raises:
            ConfigError: an id is not in the catalogue, the history is empty where a model needs one, the items have no
                column to filter by, `top` is below 1, or the first stage does not fit (see `check_first_stage`).
        """
        query = Query(history, top, candidates, visit, exclude, {} if filters is None else filters, repeats)
        return self.recommend_many([query], first_stage, first_stage_top)[0]

    def recommend_many(
        self, queries: Sequence[Query], first_stage: "Recommender | None" = None, first_stage_top: int = FIRST_STAGE_TOP
    ) -> list[list[dict[str, Any]]]:
        """Answer many queries as `recommend` does, in one pass; a ranking model takes some thousand candidates in each.

        Rounding may depend on the other queries of the pass, so the last digits of a score can differ from those of
        `recommend`. A first stage applies the filters and leaves out items before it chooses its best items.

        Raises:
            ConfigError: as for `recommend`.
        """
        if not queries:
            return []
        for query in queries:
            check_top(query.top)
        if first_stage is not None:
            queries = self._with_candidates(queries, first_stage, first_stage_top)
        return self._answers.to(queries)

    def _with_candidates(
        self, queries: Sequence[Query], first_stage: "Recommender", first_stage_top: int
    ) -> list[Query]:
        self.check_first_stage(first_stage, max(query.top for query in queries), first_stage_top)
        for query in queries:
            if query.candidates is not None:
                raise ConfigError(CANDIDATES_TWICE)
            first_stage.catalogue.check(query.history, str(first_stage.folder))
        found = first_stage.recommend_many([replace(query, top=first_stage_top) for query in queries])
        return [
            replace(query, candidates=self.catalogue.known([row["item_id"] for row in rows]))
            for query, rows in zip(queries, found, strict=True)
        ]

    def check_first_stage(self, first_stage: "Recommender", top: int, first_stage_top: int) -> None:
        """
        Raises:
            ConfigError: this is not a ranking model, the first stage does not recommend the next item, or it finds
                fewer items than the `top` that are asked for.
        """
        if not isinstance(first_stage, Recommender):
            raise ConfigError(f"a first stage must be a run from load_run, found {shortened(repr(first_stage))}")
        if not isinstance(self._answers, Clicks):
            raise ConfigError(f"{self.folder} is not a ranking model: only a ranking model has a first stage")
        first_stage._answers.check_first_stage()
        check_top(first_stage_top, "first_stage_top")
        if top > first_stage_top:
            raise ConfigError(
                f"the first stage finds {first_stage_top} items, fewer than the {top} asked for: raise first_stage_top"
            )

    def similar(
        self, item_id: str, top: int = 10, exclude: Sequence[str] = (), filters: Filters | None = None
    ) -> list[dict[str, Any]]:
        """The items whose vectors are closest to that of the given item, by cosine similarity.

        Args:
            top: maximum number of results; the item itself is excluded.
            exclude: ids of other items that are not returned.
            filters: the allowed values for each column of the items.

        Returns:
            `{"item_id", "title", "similarity"}` for each item, best first.

        Raises:
            ConfigError: an id is not in the catalogue, there is no such column, or `top` is below 1.
        """
        narrowed = {} if filters is None else filters
        query = Query([item_id], top, exclude=exclude, filters=narrowed)  # the item itself is left out as well
        check_top(top)
        (item,) = self.catalogue.indices(query.history)
        directions = self._encoded.directions
        score = InnerProducts(directions[[item]], directions)
        excluded, allowed = query.excluded(self.catalogue), query.allowed(self.catalogue)
        (found,) = best_items(self._encoded, score, [excluded], [top], [allowed])
        return [
            {name: value for name, value in row.items() if name != "score"} | {"similarity": row["score"]}
            for row in found
        ]

    def item_vectors(self) -> ItemVectors:
        """The ids of the catalogue's items and their vectors (N, D), for example for a nearest-neighbour index.

        >>> ids, vectors = transrec.load_run("runs/x").item_vectors()
        """
        return ItemVectors(list(self.catalogue.item_ids), self._encoded.vectors[1:].cpu())

    def user_vectors(self, histories: Sequence[Sequence[str]]) -> Tensor:
        """Vectors (B, W), float32 on the CPU, whose inner products with `target_vectors` are the users' scores.

        Evidence is not part of a vector, so the scores equal those of `recommend` only for a model without evidence.

        Args:
            histories: item ids of each user, oldest first.

        Raises:
            ConfigError: an id is not in the catalogue, a history is empty, or the model has no user vectors.
        """
        self.check_vectors()
        if not len(histories):
            raise ConfigError("give at least one history")
        seen = [np.array(self.catalogue.indices(history), np.int32) for history in histories]
        inputs = newest(left_padded(seen), self.max_length).to(self._encoded.vectors.device)
        with inference(self.model):
            return self.model.user_vectors(self._encoded.vectors[inputs], inputs > 0).cpu()

    def target_vectors(self) -> Tensor:
        """Vectors (N, W), float32 on the CPU, of the items as targets; in most models, they equal `item_vectors`.

        Raises:
            ConfigError: the model has no user vectors.
        """
        self.check_vectors()
        with inference(self.model):
            return self.model.target_vectors(self._encoded.vectors)[1:].cpu()

    def check_visit(self, visit: Visit) -> None:
        """
        Raises:
            ConfigError: see `click_scores.check_visit`; raised only for a ranking model, as others read no visit.
        """
        self._answers.check_visit(visit)

    def check_vectors(self) -> None:
        """
        Raises:
            ConfigError: the model's scores are not, even in part, inner products of user and item vectors.
        """
        self._answers.check_vectors()

    @property
    def evidence_names(self) -> list[str]:
        """The kinds of evidence that the model adds to the products of vectors."""
        return [settings.name for settings in self._channel.experiment.model.looked_up()]

    @property
    def content_hashes(self) -> list[str]:
        """(N,) hashes of the content that the shards hold for each item; empty for an unreadable item."""
        return self._encoded.content_hashes

    def known(self) -> KnownVectors | None:
        """The vectors of all items, to reuse with another catalogue; None if the model embeds item ids."""
        return self._encoded.known()

    def with_known(self, known: KnownVectors | None) -> "Recommender":
        """A copy that reads its catalogue again and encodes only the items whose vectors are not in `known`."""
        return Recommender(self._channels, self._channel, self._place, self._world, known)

    @property
    def encoded(self) -> int:
        """The number of items that had to be encoded, excluding those whose vectors were known."""
        return self._encoded.encoded

    def evaluate(
        self, split: Part = "test", data: Path | str | None = None, metrics: Sequence[str] | None = None
    ) -> dict[str, Estimate]:
        """The metrics of the run's configuration, or other `metrics`, and the loss, each with an interval over users.

            >>> transrec.load_run("runs/x").evaluate(split="test")["HR@10"]
            Estimate(value=0.19, low=0.1826, high=0.198)

        Args:
            split: "valid" or "test", the held-out part to evaluate on.
            data: shards other than those the run was trained on, a folder or a URL.
            metrics: names of metrics, such as "HR@5", in place of those of the run's configuration.

        Returns:
            `value`, `low` and `high` by metric; rates are between 0 and 1, the loss is in nats.

        Raises:
            ConfigError: the model embeds the item ids of another catalogue or has other targets, no user has a
                held-out item, or there is no such `split` or metric.
        """
        if split not in get_args(Part):
            raise ConfigError(f"split {split!r}: choose {' or '.join(map(repr, get_args(Part)))}")
        result = evaluate(self._channels, self._channel, data_of(self._channel, data), split, self._world, metrics)
        return dict(result.estimates)

    @property
    def model(self) -> Model:
        """The model as it was trained."""
        return self._encoded.model

    @property
    def needs_history(self) -> bool:
        """Whether users need a history to get recommendations; not for a ranking model, which has other features."""
        return self._answers.needs_history

    @cached_property
    def _answers(self) -> Answers:
        settings = self._channel.model
        if isinstance(settings, RankingModelConfig):  # with its vocabularies
            return Clicks(self._encoded, settings)
        return NextItems(self._encoded) if self.targets is None else TaskTargets(self._encoded, self.targets)


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
    if isinstance(runs, str | Path):  # a string is also a sequence, of its characters
        raise ConfigError(f"give a list of runs, as in load_adapters([{str(runs)!r}])")
    if not runs:
        return []
    return recommenders(None if base is None else Path(base), [Path(run) for run in runs], catalogue)


def recommenders(run: Path | None, adapters: Sequence[Path], catalogue: Path | str | None) -> list[Recommender]:
    """One recommender for each channel of `Channels(run, adapters)`."""
    world = distributed.join()
    channels = Channels(run, adapters, world.device)
    return [Recommender(channels, channel, catalogue, world) for channel in channels.members]
