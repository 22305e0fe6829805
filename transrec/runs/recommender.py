"""Recommendations from a trained run: the Python API, which `transrec recommend` also uses.

Shape letters: N items of the catalogue, T targets of a task, L positions, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.content.opening import open_store
from transrec.data.examples.evidence import of_questions
from transrec.data.examples.feature_rows import FeatureRows
from transrec.data.examples.histories import open_folder
from transrec.data.examples.questions import Histories, left_padded, newest
from transrec.data.progress import progress
from transrec.data.shards import bad_samples
from transrec.data.shards.item_shards import content_hashes
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.evaluation.estimates import Estimate
from transrec.evaluation.evaluator import encode_catalogue, encode_items, inference
from transrec.evaluation.full_ranking import top_items
from transrec.models.ranking_model import RankingModelConfig
from transrec.nn.dot_product import InnerProducts
from transrec.protocols import Model, Part, Score, Scorer
from transrec.runs.catalogue import Catalogue, Filters, check_top
from transrec.runs.channels import Channel, Channels
from transrec.runs.answers.click_scores import Request, Visit, check_visit, click_scores, probability
from transrec.runs.evaluate import check_shards, data_of, evaluate
from transrec.runs.evidence import look_up
from transrec.runs.export import read_export
from transrec.terminal import shortened
from transrec.training.prefix_cache import found_prefixes

NOBODY = Visit()
FIRST_STAGE_TOP = 100
CANDIDATES_TWICE = "`candidates` and a first stage, which finds candidates, exclude each other"


class ItemVectors(NamedTuple):
    """The item vectors of a model.

    In a model without evidence, a user's score for an item is the inner product of their vectors, or their cosine if
    `model.similarity` is cosine, up to the objective's temperature. Evidence is not part of a vector.
    """

    ids: list[str]
    vectors: Tensor  # (N, D) float32 on the CPU, in the order of `ids`


@dataclass(frozen=True)
class Query:
    """A request for the best items for a user; see `Recommender.recommend`."""

    history: Sequence[str]
    top: int = 10
    candidates: Sequence[str] | None = None
    visit: Visit = NOBODY
    left_out: Sequence[str] = ()  # ids of items that are not recommended, besides those of the history
    filters: Filters = field(default_factory=dict)


@dataclass(frozen=True)
class KnownVectors:
    """Item vectors that a model has already computed; `rows` gives the row of each content hash."""

    rows: dict[str, int]
    vectors: Tensor  # (M, D)


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
        self._channels, self._channel, self._place, self._known = channels, channel, catalogue, known
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

    @property
    def export(self) -> Path:
        """The folder of the exported weights; for an adapter, these do not include its base."""
        return self._channel.export

    @property
    def max_length(self) -> int:
        """The maximum number of items that the model reads from a history, the newest ones."""
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
        catalogue = self.catalogue
        catalogue.folder.pin()
        _ = catalogue.index_of, self._scorer, self._examples, self._directions, self.targets
        if not self.embeds_ids:
            _ = self.content_hashes
        catalogue.prepare()
        if self._ranking is not None:
            _ = self._features

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
        self,
        history: Sequence[str],
        top: int = 10,
        candidates: Sequence[str] | None = None,
        visit: Visit = NOBODY,
        *,
        first_stage: "Recommender | None" = None,
        first_stage_top: int = FIRST_STAGE_TOP,
    ) -> list[dict[str, Any]]:
        """The best items for a user, who need not be in the data, or the best targets of the run's task.

            >>> transrec.load_run("runs/x").recommend(["100001", "100002"], top=1)
            [{'item_id': '100017', 'title': 'Origem Merlot', 'score': 3.141593}]

        Args:
            history: item ids, oldest first; the model reads the newest `model.max_length` of them.
            top: maximum number of results. Items of the history are excluded, unless they are `candidates` of a
                ranking model.
            candidates: ids of the items to choose from, or to rank; None: the whole catalogue; []: none.
            visit: for a ranking model, its inputs besides the history.
            first_stage: for a ranking model, a run that recommends the next item and finds the candidates. Items that
                it finds but this catalogue lacks are left out.
            first_stage_top: number of items that it finds.

        Returns:
            `{"item_id", "title", "score"}` for each item, best first. A score is the model's logit and is comparable
            only within one result; a ranking model returns the `probability` of a click instead. For a task,
            `{"target", "probability"}`, from a softmax over all T targets.

        Raises:
            ConfigError: an id is not in the catalogue, the history is empty where a model needs one, `top` is
                below 1, or the first stage does not fit (see `check_first_stage`).
        """
        query = Query(history, top, candidates, visit)
        return self.recommend_many([query], first_stage, first_stage_top)[0]

    def recommend_many(
        self, queries: Sequence[Query], first_stage: "Recommender | None" = None, first_stage_top: int = FIRST_STAGE_TOP
    ) -> list[list[dict[str, Any]]]:
        """Answer many queries as `recommend` does, in one pass; a ranking model reads some thousand candidates in each.

        Rounding may depend on the other queries of the pass, so the last digits of a score can differ from those of
        `recommend`. A first stage applies the filters and leaves out items before it counts.

        Raises:
            ConfigError: as for `recommend`, or the items have no column of that name to filter by.
        """
        if not queries:
            return []
        for query in queries:
            check_top(query.top)
        if first_stage is not None:
            queries = self._with_candidates(queries, first_stage, first_stage_top)
        if self._ranking is not None:
            return self._most_probable(self._ranking, queries)
        seen = [np.array(self.catalogue.indices(query.history), np.int32) for query in queries]
        allowed = [self._allowed(query) for query in queries]
        left_out = [np.append(items, self._left_out(query)) for items, query in zip(seen, queries, strict=True)]
        inputs = newest(left_padded(seen), self.max_length)
        with inference(self.model):
            known = self._examples
            evidence = () if known is None else of_questions(known.evidence, seen, known.popularity)
            score = self._scorer(Histories(inputs, evidence))
            tops = [query.top for query in queries]
            if self.targets is not None:
                return best_targets(score, self.targets, tops)
            return self._best_items(score, left_padded(left_out), tops, allowed)

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
            raise ConfigError(f"a first stage is a run from load_run, found {shortened(repr(first_stage))}")
        if self._ranking is None:
            raise ConfigError(f"{self.folder} is not a ranking model: only a ranking model has a first stage")
        unfit = "so it cannot be a first stage: name a run that recommends the next item"
        if first_stage._ranking is not None:
            raise ConfigError(f"{first_stage.folder} is a ranking model, {unfit}")
        if first_stage.targets is not None:
            raise ConfigError(f"{first_stage.folder} predicts the targets of a task, {unfit}")
        check_top(first_stage_top, "first_stage_top")
        if top > first_stage_top:
            raise ConfigError(
                f"the first stage finds {first_stage_top} items, fewer than the {top} asked for: raise first_stage_top"
            )

    def similar(
        self, item_id: str, top: int = 10, left_out: Sequence[str] = (), filters: Filters | None = None
    ) -> list[dict[str, Any]]:
        """The items whose vectors are closest to that of the given item, by cosine similarity.

        Args:
            top: maximum number of results; the item itself is excluded.
            left_out: ids of other items to exclude.
            filters: the allowed values for each column of the items.

        Returns:
            `{"item_id", "title", "similarity"}` for each item, best first.

        Raises:
            ConfigError: an id is not in the catalogue, there is no such column, or `top` is below 1.
        """
        query = Query([item_id], top, left_out=left_out, filters=filters or {})
        check_top(top)
        (item,) = self.catalogue.indices(query.history)
        score = InnerProducts(self._directions[[item]], self._directions)
        excluded = torch.tensor([[item, *self._left_out(query)]])
        (found,) = self._best_items(score, excluded, [top], [self._allowed(query)])
        return [
            {name: value for name, value in row.items() if name != "score"} | {"similarity": row["score"]}
            for row in found
        ]

    def _allowed(self, query: Query) -> Tensor | None:
        """(N + 1,) the items to choose from; None: all."""
        if query.candidates is None and not query.filters:
            return None
        allowed = torch.from_numpy(self.catalogue.where(query.filters))
        if query.candidates is None:
            return allowed
        chosen = torch.zeros_like(allowed)
        if query.candidates:
            chosen[self.catalogue.indices(query.candidates)] = True
        return allowed & chosen

    def _left_out(self, query: Query) -> list[int]:
        """The items of `left_out` that the catalogue has; the others are not recommended anyway."""
        index_of = self.catalogue.index_of
        return [index_of[item_id] for item_id in query.left_out if item_id in index_of]

    def item_vectors(self) -> ItemVectors:
        """The ids of the catalogue's items and their vectors (N, D), for example for a nearest-neighbour index.

        >>> ids, vectors = transrec.load_run("runs/x").item_vectors()
        """
        return ItemVectors(list(self.catalogue.item_ids), self._vectors[1:].cpu())

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
        inputs = newest(left_padded(seen), self.max_length).to(self._vectors.device)
        with inference(self.model):
            return self.model.user_vectors(self._vectors[inputs], inputs > 0).cpu()

    def target_vectors(self) -> Tensor:
        """Vectors (N, W), float32 on the CPU, of the items as targets; in most models, they equal `item_vectors`.

        Raises:
            ConfigError: the model has no user vectors.
        """
        self.check_vectors()
        with inference(self.model):
            return self.model.target_vectors(self._vectors)[1:].cpu()

    def check_visit(self, visit: Visit) -> None:
        """
        Raises:
            ConfigError: see `click_scores.check_visit`; raised only for a ranking model, as others read no visit.
        """
        if self._ranking is not None:
            check_visit(visit, self._ranking.features)

    def check_vectors(self) -> None:
        """
        Raises:
            ConfigError: the model's scores are not, even in part, inner products of user and item vectors.
        """
        if self._ranking is not None:
            raise ConfigError(
                f"{self.folder} is a ranking model, which reads a history anew for each candidate and has no user "
                "vectors: find candidates with another run, and rank them with `transrec recommend --first-stage`"
            )
        if self.targets is not None:
            raise ConfigError(f"{self.folder} predicts the targets of a task, not items: it has no vectors to search")

    @property
    def evidence_names(self) -> list[str]:
        """The kinds of evidence that the model adds to the products of vectors."""
        return [settings.name for settings in self._channel.experiment.model.looked_up()]

    @cached_property
    def content_hashes(self) -> list[str]:
        """(N,) hashes of the content that the shards hold for each item; empty for an unreadable item."""
        return content_hashes(self.catalogue.folder)

    def known(self) -> KnownVectors | None:
        """The vectors of all items, to reuse with another catalogue; None if the model embeds item ids."""
        if self.embeds_ids:
            return None
        rows = {digest: row for row, digest in enumerate(self.content_hashes, start=1) if digest}
        return KnownVectors(rows, self._vectors)

    def with_known(self, known: KnownVectors | None) -> "Recommender":
        """A copy that reads its catalogue again and encodes only the items whose vectors are not in `known`."""
        return Recommender(self._channels, self._channel, self._place, self._world, known)

    @property
    def encoded(self) -> int:
        """The number of items that had to be encoded, excluding those whose vectors were known."""
        _ = self._vectors
        return self._encoded

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
            ConfigError: the model embeds the item ids of another catalogue or has other targets, no user has a
                held-out item, or there is no such `split`.
        """
        if split not in get_args(Part):
            raise ConfigError(f"split {split!r}: choose {' or '.join(map(repr, get_args(Part)))}")
        result = evaluate(self._channels, self._channel, data_of(self._channel, data), split, self._world)
        return dict(result.estimates)

    @cached_property
    def _scorer(self) -> Scorer:
        return self.model.scorer(self._vectors)

    @cached_property
    def _examples(self) -> Any | None:
        """The users of the catalogue's shards, with the evidence of the model; None for a model without evidence."""
        experiment = self._channel.experiment
        if not experiment.model.looked_up():
            return None
        data = experiment.data if self._place is None else data_of(self._channel, self._place)
        examples = data.scan(experiment.model.max_length, self._world)
        look_up(experiment.model, examples, self._world)
        return examples

    @cached_property
    def model(self) -> Model:
        """The model as it was trained."""
        return self._channels.build(self._channel, self.catalogue.folder.index).eval()

    @cached_property
    def _vectors(self) -> Tensor:
        """(N + 1, D); row 0 is padding."""
        folder = self.catalogue.folder
        wanted = self._channel.model.content()
        store = open_store(folder, wanted, self._channel.experiment.data, self._world)
        bad_samples.warn({}, store.skipped)
        known = None if self.embeds_ids else self._known
        rows = np.zeros(1 + folder.index.counts.items, np.int64)
        if known is not None:
            rows[1:] = [known.rows.get(digest, 0) for digest in self.content_hashes]
        new = 1 + np.flatnonzero(rows[1:] == 0)
        self._encoded = len(new)
        experiment = self._channel.experiment
        kept = found_prefixes(experiment.prefix_cache, self.model, store, experiment.data.cache, self._world.device)
        with inference(self.model), kept, progress("encoding items", len(new)) as advance:
            if known is None:
                return encode_catalogue(self.model, store, len(new), self._world, advance)
            vectors = known.vectors.to(self._world.device)[torch.from_numpy(rows)]
            vectors[0] = 0
            if len(new):
                vectors[torch.from_numpy(new)] = encode_items(self.model, store, new, self._world, advance)
            return vectors

    @cached_property
    def _directions(self) -> Tensor:
        """(N + 1, D) item vectors of length 1."""
        return torch.nn.functional.normalize(self._vectors, dim=-1)

    @property
    def needs_history(self) -> bool:
        """Whether users need a history to get recommendations; not for a ranking model, which has other features."""
        return self._ranking is None

    @cached_property
    def _ranking(self) -> RankingModelConfig | None:
        """The settings of a ranking model, with its vocabularies; None for a model of another kind."""
        settings = self._channel.model
        return settings if isinstance(settings, RankingModelConfig) else None

    def _most_probable(self, settings: RankingModelConfig, queries: Sequence[Query]) -> list[list[dict[str, Any]]]:
        requests = (self._request(query) for query in queries)
        with inference(self.model):
            heads = len(settings.objective.heads)
            scored = click_scores(self._scorer, self._features, requests, settings.max_length, heads)
            return [
                self._best_shown(request, logits, query.top)
                for query, (request, logits) in zip(queries, scored, strict=True)
            ]

    def _request(self, query: Query) -> Request:
        seen = self.catalogue.indices(query.history) if query.history else []
        if query.candidates is not None and not query.filters:  # without a pass over the catalogue
            items = np.unique(np.array(self.catalogue.indices(query.candidates) if query.candidates else [], np.int64))
        else:
            allowed = self._allowed(query)
            every = np.arange(1, len(self.catalogue.item_ids) + 1)
            items = every if allowed is None else np.flatnonzero(allowed.numpy())
        left_out = self._left_out(query) + (seen if query.candidates is None else [])
        return Request(seen, query.visit, items[~np.isin(items, left_out)], shown=len(items))

    def _best_shown(self, request: Request, logits: Tensor, top: int) -> list[dict[str, Any]]:
        """The items of a request with the highest logits (n,)."""
        count = len(request.items)
        if not count:
            return []
        every = torch.ones(count + 1, dtype=torch.bool)
        every[0] = False
        scores, places = top_items(lambda a, b: logits[None, a - 1 : b - 1], count, None, every, min(top, count))
        found = request.items[places[0].numpy() - 1].tolist()
        return [
            self._row(item) | {"probability": probability(score)}
            for item, score in zip(found, scores[0].tolist(), strict=True)
        ]

    def _row(self, item: int) -> dict[str, Any]:
        return {"item_id": self.catalogue.item_ids[item - 1], "title": self.catalogue.titles[item - 1]}

    @cached_property
    def _features(self) -> FeatureRows:
        assert self._ranking is not None
        return FeatureRows.of(self.catalogue.folder, self._ranking.features, self._ranking.vocabularies)

    def _best_items(
        self, score: Score, left_out: Tensor, tops: Sequence[int], allowed: Sequence[Tensor | None]
    ) -> list[list[dict[str, Any]]]:
        """Rows of the best items for each of B users.

        Args:
            left_out: (B, X) item indices, 0 where padded.
            allowed: (N + 1,) for each user; None: all items.
        """
        num_items, device = len(self.catalogue.item_ids), self._vectors.device
        every = torch.ones(num_items + 1, dtype=torch.bool)
        every[0] = False
        limited = any(one is not None for one in allowed)
        candidates = torch.stack([every if one is None else one for one in allowed]) if limited else every
        scores, items = top_items(
            score, num_items, left_out.to(device), candidates.to(device), min(max(tops), num_items)
        )
        return [
            [self._row(i) | {"score": round(s, 6)} for s, i in zip(row[:top], indices[:top], strict=True) if i > 0]
            for row, indices, top in zip(scores.tolist(), items.tolist(), tops, strict=True)
        ]


def best_targets(score: Score, targets: Sequence[str], tops: Sequence[int]) -> list[list[dict[str, Any]]]:
    """The best targets of each user, with the probabilities of a softmax over all targets, as in training."""
    found = []
    for row, top in zip(score(1, len(targets) + 1).softmax(1), tops, strict=True):
        best = row.topk(min(top, len(targets)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        found.append([{"target": targets[i], "probability": round(p, 6)} for i, p in pairs])
    return found


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
    if isinstance(runs, str | Path):  # a string is also a sequence: of its characters
        raise ConfigError(f"give a list of runs, as in load_adapters([{str(runs)!r}])")
    if not runs:
        return []
    return recommenders(None if base is None else Path(base), [Path(run) for run in runs], catalogue)


def recommenders(run: Path | None, adapters: Sequence[Path], catalogue: Path | str | None) -> list[Recommender]:
    """One recommender for each channel of `Channels(run, adapters)`."""
    world = distributed.join()
    channels = Channels(run, adapters, world.device)
    return [Recommender(channels, channel, catalogue, world) for channel in channels.members]
