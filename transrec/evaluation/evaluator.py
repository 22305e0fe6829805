"""Evaluation of a model or baseline on the users of a split: full ranking, exact on any number of ranks.

Shape letters: B users, I targets, L positions, N items, D width.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from transrec.config import Config, ConfigError, MayDiffer
from transrec.data.batch import to_device
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.impressions import ImpressionExamples
from transrec.data.examples.next_item import NextItemExamples
from transrec.data.examples.task import TaskExamples
from transrec.data.examples.user_sample import UserSample
from transrec.distributed.world import World
from transrec.evaluation.estimates import Estimate, Interval
from transrec.evaluation.full_ranking import Repeats
from transrec.evaluation.groups import Group, by_popularity, by_user, within
from transrec.evaluation.measure import measure
from transrec.evaluation.metric import Metric
from transrec.evaluation.metrics import listed, metric
from transrec.evaluation.ranking_baselines import RankingBaseline
from transrec.evaluation.ranking_metrics import AUC, Bin, CalibrationError, calibration_bins
from transrec.evaluation.readings import (
    OF_IMPRESSIONS,
    READINGS,
    READINGS_AT_K,
    Ranking,
    Reading,
    at_cutoffs,
    join_targets,
    of_further_heads,
)
from transrec.phases import did, phase
from transrec.protocols import Examples, Model, Part, Scorer
from transrec.work import Advance


def _known(name: str) -> str:
    metric(name)
    return name


def _unseen(done: int) -> None:
    """Show no progress."""


OfItems = Literal["most_popular", "item_to_item", "transitions", "co_occurrence", "content_similarity", "blend"]
OfTasks = Literal["most_frequent", "logistic_regression"]
OfClicks = Literal["most_popular", "item_rate", "logistic_regression", "text_similarity", "image_similarity"]
MetricName = Annotated[str, AfterValidator(_known)]


class EvaluationConfig(Config):
    """The metrics of validation and test, and how they are computed."""

    metrics: list[MetricName] = Field(
        ["HR@10", "NDCG@10", "MRR@10"],
        min_length=1,
        description=f"metrics of validation and test: {listed()}; `loss` needs a second pass over the catalogue",
    )
    repeats: Repeats = Field(
        "count",
        description="a target that is already in the user's history is ranked (count), or counts as a miss, as in the "
        "released code",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence level of the metrics' intervals")
    users: int | None = Field(
        None, ge=1, description="number of users in validation and test, sampled at random; null: all users"
    )
    validation_users: int | None = Field(
        None, ge=1, description="number of users in validation, if it differs from `users`; null: as many as `users`"
    )
    baselines: Annotated[list[OfItems | OfTasks | OfClicks] | None, MayDiffer()] = Field(
        None,
        description="baselines to measure on the test set, after the results of the run are written; null: all "
        "that exist for the kind of example; []: none",
    )


class Evaluator:
    """Measures answers to questions about held-out targets; every rank of `world` must make the same calls."""

    def __init__(self, config: EvaluationConfig, examples: Examples, world: World) -> None:
        self.config, self.examples, self.world = config, examples, world
        self.kind = KINDS[examples.name]
        self.metrics = [metric(name) for name in config.metrics]
        self.heads = _calibrated(self.metrics, examples)
        self.of_heads = of_further_heads(len(self.heads))
        self.readings = {**self.kind.readings, **at_cutoffs(self.kind.readings_at_k, sorted(_readings(self.metrics)))}
        self.num_items = examples.folder.index.counts.items
        self.context = self.kind.context(config, examples, world)
        self._samples: dict[Part, UserSample | None] = {}
        for asked in self.metrics:
            _check_readings(asked, self.readings)
        for name in config.baselines or ():
            _check_baseline(name, examples.name, self.kind.baselines)

    def check(self) -> None:
        """Check that validation and test have questions; otherwise a run would fail only after hours.

        Raises:
            ConfigError: a part has no question.
        """
        for part in get_args(Part):
            asked = self.world.is_main and any(map(len, self.examples.question_users(part, self.sample(part))))
            if not self.world.gather_ints([int(asked)]).any():
                raise _no_question(part)

    def model(self, model: Model, store: ItemStore, part: Part) -> dict[str, Estimate]:
        """The configured metrics of a model."""
        return self._estimates(self.metrics, self._measure_model(model, store, part, _readings(self.metrics)))

    def users(self, model: Model, store: ItemStore, part: Part) -> "UserResults":
        """The configured metrics of a model and those that are always kept, with the readings behind them."""
        metrics = list(dict.fromkeys([*self.metrics, *map(metric, self.kind.kept_metrics)]))
        columns = self._measure_model(model, store, part, _readings(metrics) | {*self.kind.kept, *self.of_heads})
        return UserResults(columns, self._estimates(metrics, columns), self.sample(part))

    def sample(self, part: Part) -> UserSample | None:
        """The sample of users that is evaluated; None: all users."""
        if part not in self._samples:
            config = self.config
            most = config.users if part == "test" else config.validation_users or config.users
            self._samples[part] = None if most is None else self.examples.sample_users(part, most)
        return self._samples[part]

    @property
    def baselines(self) -> tuple[str, ...]:
        """The names of the baselines to measure, in the order in which they are shown."""
        asked = self.config.baselines
        return tuple(name for name in self.kind.baselines if asked is None or name in asked)

    def baseline(self, baseline: Scorer, part: Part) -> "UserResults":
        """The metrics of a baseline, with the readings behind them; only those that need no logits."""
        readings = self.readings
        metrics = [m for m in self.metrics if not any(readings[name].of_logits for name in m.reads)]
        kept = {name for name in self.kind.kept if not readings[name].of_logits}
        columns = self._measure(part, baseline, _readings(metrics) | kept)
        return UserResults(columns, self._estimates(metrics, columns), self.sample(part))

    def answers(self, baseline: RankingBaseline, part: Part) -> "UserResults":
        """The metrics of a baseline that scores impressions, with the readings behind them."""
        columns = self._measure(part, baseline, _readings(self.metrics) | {*self.kind.kept})
        return UserResults(columns, self._estimates(self.metrics, columns), self.sample(part))

    def groups(self, results: "UserResults") -> dict[str, dict[str, Group]]:
        """The metrics by the popularity of the target item and, for impressions, by whether the user is known; empty
        for the targets of a task."""
        asked = [m for m in self.metrics if m.reads == ("rank",) or m.name == AUC.name]
        if not isinstance(self.examples, NextItemExamples | ImpressionExamples) or not asked:
            return {}
        columns, popularity = results.columns, torch.from_numpy(self.examples.popularity)
        groupings = {"by_popularity": by_popularity(popularity[columns["target"]])}
        if "known" in columns:
            groupings["by_user"] = by_user(columns["known"])
        interval = Interval(self.config.confidence)
        return {name: within(masks, columns, asked, interval) for name, masks in groupings.items()}

    def calibration(self, results: "UserResults") -> dict[str, list[Bin]]:
        """The bins of the calibration error, by head; empty unless it is one of the metrics."""
        found = {}
        for number, head in enumerate(self.heads):
            scores, labels = (results.columns[f"{name}_{number}" if number else name] for name in ("score", "label"))
            observed = ~labels.isnan()
            if observed.any():
                found[head] = calibration_bins(scores[observed], labels[observed])
        return found

    def _estimates(self, metrics: Sequence[Metric], columns: Mapping[str, Tensor]) -> dict[str, Estimate]:
        interval = Interval(self.config.confidence)
        return {m.name: m.estimate([columns[name] for name in m.reads], columns["user"], interval) for m in metrics}

    def _measure_model(self, model: Model, store: ItemStore, part: Part, names: Set[str]) -> dict[str, Tensor]:
        with inference(model):
            with phase("encoding"):
                vectors = encode_catalogue(model, store, self.num_items, self.world)
                did(items=self.num_items)
            return self._measure(part, model.scorer(vectors), names)

    def _measure(self, part: Part, score: Scorer, names: Set[str]) -> dict[str, Tensor]:
        """The readings `names` of every question of `part`, (I,), in the order of the data on every rank."""
        known = {**self.readings, **self.of_heads}
        readings = {name: reading for name, reading in known.items() if name in names}
        questions = self.examples.questions(part, self.world.rank, self.world.size, self.sample(part))
        nobody = self.examples.nobody
        join = self.kind.join
        columns = measure(questions, lambda asked: score(asked or nobody), readings, self.context, self.world, join)
        if not len(columns["user"]):
            raise _no_question(part)
        did(questions=len(columns["user"]))
        return columns


@dataclass(frozen=True)
class UserResults:
    """Readings of a part's questions in the order of `question_users`, and metrics; independent of the ranks."""

    columns: Mapping[str, Tensor]  # reading -> (I,)
    estimates: Mapping[str, Estimate]  # the configured metrics and those always kept
    sample: UserSample | None = None  # the users that were evaluated; None: all


def _ranking(config: EvaluationConfig, examples: Examples, world: World) -> Ranking:
    candidates = torch.zeros(examples.targets.size + 1, dtype=torch.bool)
    candidates[torch.from_numpy(examples.ranked)] = True
    size = examples.targets.size
    popularity = torch.zeros(size + 1)
    if isinstance(examples, NextItemExamples):
        popularity = torch.from_numpy(examples.popularity)
    return Ranking(size, candidates, config.repeats, world.device, popularity)


def _no_question(part: Part) -> ConfigError:
    return ConfigError(f"no user has a {part} target: change data.min_interactions, data.split or data.examples")


def _calibrated(metrics: Sequence[Metric], examples: Examples) -> list[str]:
    """The heads of impressions, if their calibration is to be measured."""
    asked = any(isinstance(each, CalibrationError) for each in metrics)
    return examples.settings.heads if asked and isinstance(examples, ImpressionExamples) else []


def _readings(metrics: Sequence[Metric]) -> Set[str]:
    return {"user"}.union(*(m.reads for m in metrics))


def _check_readings(asked: Metric, readings: Mapping[str, Reading[Any, Any, Any]]) -> None:
    missing = [name for name in asked.reads if name not in readings]
    if missing:
        raise ConfigError(
            f"`evaluation.metrics`: {asked.name} needs the readings {', '.join(missing)}, but these examples provide "
            f"only {', '.join(readings)}: choose another metric"
        )


def _check_baseline(name: str, kind: str, known: Sequence[str]) -> None:
    if name not in known:
        choices = ", ".join(known)
        raise ConfigError(f"`evaluation.baselines`: {name} is not a baseline of {kind}: choose from {choices}")


class inference:
    """Context of evaluation mode without gradients; restores the model's previous mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.was_training = model, model.training

    def __enter__(self) -> None:
        if self.was_training:  # setting a mode visits every module, which takes longer than a pass over one user
            self.model.eval()
        self.grad = torch.no_grad()
        self.grad.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.grad.__exit__(*error)
        if self.was_training:
            self.model.train()


@dataclass(frozen=True)
class Kind:
    """The evaluation of one kind of question."""

    readings: Mapping[str, Reading[Any, Any, Any]]
    context: Callable[[EvaluationConfig, Any, World], Any]  # context that the readings receive
    baselines: tuple[str, ...]  # names, in the order in which they are shown
    kept: tuple[str, ...]  # readings measured on the test set even if no metric needs them
    kept_metrics: tuple[str, ...] = ()  # metrics measured on the test set even if not configured
    # By NAME, the readings NAME@K.
    readings_at_k: Mapping[str, Callable[[int], Reading[Any, Any, Any]]] = field(default_factory=dict)
    named: frozenset[str] = frozenset()  # readings that hold numbers of targets, which have names
    join: Callable[[Sequence[Any], Sequence[Any]], tuple[Any, Any]] | None = (
        None  # joins several batches and their answers
    )


_KEPT, _NAMED = ("target", "rank", "loss"), frozenset({"target", "predicted"})
KINDS: dict[str, Kind] = {
    NextItemExamples.name: Kind(
        READINGS, _ranking, get_args(OfItems), _KEPT, ("loss",), READINGS_AT_K, _NAMED, join_targets
    ),
    TaskExamples.name: Kind(READINGS, _ranking, get_args(OfTasks), _KEPT, ("loss",), {}, _NAMED, join_targets),
    ImpressionExamples.name: Kind(
        OF_IMPRESSIONS,
        lambda config, examples, world: None,
        get_args(OfClicks),
        ("request", "target", "known", "label", "score"),
        named=frozenset({"target"}),
    ),
}


def encode_catalogue(
    model: Model, store: ItemStore, num_items: int, world: World, advance: Advance = _unseen
) -> Tensor:
    """Vectors of all items (N + 1, D) in fp32, row 0 zero; `advance` is called with the number of items just done."""
    return _encoded(model, store, np.arange(1, num_items + 1), world, 1, advance)


def encode_items(
    model: Model, store: ItemStore, items: NDArray[np.int64], world: World, advance: Advance = _unseen
) -> Tensor:
    """Vectors of at least one item (I, D) in fp32; ranks share the work and run the same number of encoder passes."""
    return _encoded(model, store, items, world, 0, advance)


def _encoded(
    model: Model, store: ItemStore, items: NDArray[np.int64], world: World, blank_rows: int, advance: Advance
) -> Tensor:
    """Vectors of items after `blank_rows` rows of zeros; ranks exchange them in pieces, so each holds them once."""
    places = np.arange(len(items))[world.rank :: world.size]
    pieces = [places[start : start + store.items_at_once] for start in range(0, len(places), store.items_at_once)]
    most = -(-len(range(0, len(items), world.size)) // store.items_at_once)  # pieces of rank 0, which has the most
    encoded: Tensor | None = None
    for i in range(most):
        piece = pieces[i] if i < len(pieces) else places[:0]
        content = store.content(items[piece] if len(piece) else np.array([1]))
        passes = world.gather_ints(content.passes).max(0).values.tolist() if content.passes else []
        vectors = model.encode_items(to_device(content.with_passes(passes), world.device)).float()
        rows = world.gather_rows(vectors[: len(piece)])
        if encoded is None:
            encoded = rows.new_zeros((blank_rows + len(items), rows.shape[1]))
        encoded[blank_rows + world.gather_rows(torch.from_numpy(piece).to(world.device))] = rows
        advance(len(rows))
    assert encoded is not None  # of at least one item
    return encoded
