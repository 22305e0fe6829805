"""A recommender (or a baseline) against the users of a split: full ranking, exact on any number of ranks.

Shape letters: B users, I targets, L positions, N items, D width.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from transrec.config import Config, ConfigError
from transrec.data.batch import to_device
from transrec.data.content.item_store import ItemStore
from transrec.data.evaluation_stream import (
    EvaluationBatch,
    Part,
    evaluation_batches,
    training_histories,
    training_sequences,
)
from transrec.data.examples.interactions import Interactions
from transrec.data.examples.labels import Labels
from transrec.distributed.world import World
from transrec.evaluation.baselines import Baseline, ItemToItem, MostPopular
from transrec.evaluation.estimates import Estimate, Interval
from transrec.evaluation.full_ranking import Repeats, Score, dot_product_scores
from transrec.evaluation.logistic_regression import MOST_CLASSES, LogisticRegression
from transrec.evaluation.measure import measure
from transrec.evaluation.metrics import Metric, metric
from transrec.evaluation.readings import READINGS, Ranking


def _known(name: str) -> str:
    metric(name)
    return name


MetricName = Annotated[str, AfterValidator(_known)]


class EvaluationConfig(Config):
    metrics: list[MetricName] = Field(
        ["HR@10", "NDCG@10", "MRR@10"],
        min_length=1,
        description="what validations and tests measure; `loss` takes them a second pass over the catalogue",
    )
    repeats: Repeats = Field(
        "count", description="a target the user already had: rank it, or count a miss as the released code does"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals of metrics")


class Evaluator:
    """Measures answers about held-out targets; every rank of `world` must make the same calls."""

    def __init__(self, config: EvaluationConfig, interactions: Interactions, world: World) -> None:
        self.config, self.interactions, self.world = config, interactions, world
        self.metrics = [metric(name) for name in config.metrics]
        self.num_items = interactions.shards.index.counts.items
        self.ranking = _ranking(config, interactions, world)
        for asked in self.metrics:
            _check_readings(asked)

    def model(self, model: nn.Module, store: ItemStore, part: Part) -> dict[str, Estimate]:
        """Metrics of a recommender with `encode_items`, `encode_users` and `encode_targets`."""
        return self._estimates(self.metrics, self._measure_model(model, store, part, _readings(self.metrics)))

    def users(self, model: nn.Module, store: ItemStore, part: Part) -> "UserResults":
        """Metrics and the loss of a recommender, with what they were made from."""
        metrics = list(dict.fromkeys([*self.metrics, metric("loss")]))
        columns = self._measure_model(model, store, part, _readings(metrics) | KEPT)
        return UserResults(columns, self._estimates(metrics, columns))

    def baseline(self, baseline: Baseline, part: Part) -> dict[str, Estimate]:
        """Metrics of a baseline, without those that need logits."""
        metrics = [m for m in self.metrics if not any(READINGS[name].of_logits for name in m.reads)]
        columns = self._measure(part, lambda batch: baseline.for_users(batch.history), _readings(metrics))
        return self._estimates(metrics, columns)

    def _estimates(self, metrics: Sequence[Metric], columns: Mapping[str, Tensor]) -> dict[str, Estimate]:
        interval = Interval(self.config.confidence)
        return {m.name: m.estimate([columns[name] for name in m.reads], columns["user"], interval) for m in metrics}

    def _measure_model(self, model: nn.Module, store: ItemStore, part: Part, names: Set[str]) -> dict[str, Tensor]:
        with inference(model):
            vectors = encode_catalogue(model, store, self.num_items, self.world)
            return self._measure(part, lambda batch: user_scores(model, vectors, batch.inputs), names)

    def _measure(self, part: Part, score: Callable[[EvaluationBatch], Score], names: Set[str]) -> dict[str, Tensor]:
        """The readings `names` of every target of `part`, (I,), in the order of the data on every rank."""
        readings = {name: reading for name, reading in READINGS.items() if name in names}
        batches = evaluation_batches(self.interactions, part, self.world.rank, self.world.size)
        nobody = _nobody(self.interactions.max_length)
        columns = measure(batches, lambda batch: score(batch or nobody), readings, self.ranking, self.world)
        if not len(columns["user"]):
            raise ConfigError(f"no user has a {part} target: see data.min_interactions, data.split and data.task")
        return columns


KEPT = frozenset({"target", "rank", "loss"})  # what `test_users.parquet` holds of every target


@dataclass(frozen=True)
class UserResults:
    """Readings of the targets of a part, in the order of `evaluated_users`, and metrics, whatever the ranks were."""

    columns: Mapping[str, Tensor]  # reading -> (I,): those of `KEPT`, and what the metrics read
    estimates: Mapping[str, Estimate]  # of the configured metrics and of "loss"


def _ranking(config: EvaluationConfig, interactions: Interactions, world: World) -> Ranking:
    """Items are ranked among the candidates, targets of a task among all of them."""
    labels = interactions.labels
    size = interactions.shards.index.counts.items if labels is None else len(labels)
    candidates = torch.full((size + 1,), labels is not None)
    candidates[0] = False
    if labels is None:
        candidates[torch.from_numpy(interactions.candidates)] = True
    return Ranking(size, candidates, config.repeats, world.device)


def _readings(metrics: Sequence[Metric]) -> Set[str]:
    return {"user"}.union(*(m.reads for m in metrics))


def _check_readings(asked: Metric) -> None:
    missing = [name for name in asked.reads if name not in READINGS]
    if missing:
        raise ConfigError(
            f"`evaluation.metrics`: {asked.name} reads {', '.join(missing)} of the answers, "
            f"and what is asked here gives {', '.join(READINGS)}"
        )


class inference:
    """Evaluation mode without gradients; restores the mode the model was in."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.was_training = model, model.training

    def __enter__(self) -> None:
        self.model.eval()
        self.grad = torch.no_grad()
        self.grad.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.grad.__exit__(*error)
        self.model.train(self.was_training)


def baselines(config: EvaluationConfig, interactions: Interactions, part: Part) -> dict[str, dict[str, Estimate]]:
    """Metrics of the baselines that need no training but counting; not collective: any one rank may call it."""
    alone = Evaluator(config, interactions, World())
    if interactions.labels is not None:
        return _task_baselines(alone, interactions, interactions.labels, part)
    item_to_item = ItemToItem.fit(training_sequences(interactions), alone.num_items)
    return {
        "most_popular": alone.baseline(MostPopular(item_to_item.counts), part),
        "item_to_item": alone.baseline(item_to_item, part),
    }


def _task_baselines(
    alone: Evaluator, interactions: Interactions, labels: Labels, part: Part
) -> dict[str, dict[str, Estimate]]:
    found = {"most_frequent": alone.baseline(MostPopular(torch.from_numpy(labels.counts)), part)}
    if np.count_nonzero(labels.counts) > 1 and len(labels) <= MOST_CLASSES and find_spec("sklearn"):
        fitted = LogisticRegression.fit(training_histories(interactions, labels), alone.num_items, alone.ranking.size)
        found["logistic_regression"] = alone.baseline(fitted, part)
    return found


def encode_catalogue(model: Any, store: ItemStore, num_items: int, world: World) -> Tensor:
    """Vectors of all items (N + 1, D) in fp32, row 0 zero; ranks share the work, in equally many encoder passes."""
    own = np.arange(1, num_items + 1)[world.rank :: world.size]
    pieces = [own[start : start + store.items_at_once] for start in range(0, len(own), store.items_at_once)]
    most = -(-len(range(0, num_items, world.size)) // store.items_at_once)  # pieces of rank 0, which has the most
    rows: list[Tensor] = []
    for i in range(most):
        piece = pieces[i] if i < len(pieces) else np.array([1])
        content = store.content(piece)
        passes = world.gather_ints(content.passes).max(0).values.tolist() if content.passes else []
        vectors = model.encode_items(to_device(content.with_passes(passes), world.device)).float()
        rows.append(vectors if i < len(pieces) else vectors[:0])
    all_rows = world.gather_rows(torch.cat(rows))
    all_indices = world.gather_rows(torch.from_numpy(own).to(world.device))
    catalogue = all_rows.new_zeros((num_items + 1, all_rows.shape[1]))
    catalogue[all_indices] = all_rows
    return catalogue


def user_scores(model: Any, vectors: Tensor, inputs: Tensor) -> Score:
    """Scores of the catalogue, or of the targets of the model's task, for users with the newest items `inputs` (B, L).

    They are what the objective takes for logits.

    `vectors` (N + 1, D) are those of the catalogue, `inputs` left-padded indices into it.
    """
    inputs = inputs.to(vectors.device)
    histories = vectors[inputs].to(next(model.parameters()).dtype)  # weights are 16 bits wide after training in fp16
    users = model.encode_users(histories, inputs > 0).float() / model.temperature
    return dot_product_scores(users, model.encode_targets(vectors))


def _nobody(max_length: int) -> EvaluationBatch:
    inputs = torch.zeros((1, max_length), dtype=torch.int64)
    inputs[:, -1] = 1
    one = torch.ones(1, dtype=torch.int64)
    return EvaluationBatch([], one, inputs, inputs, one, inputs)
