"""A recommender (or a baseline) against the users of a split: full ranking, exact on any number of ranks.

Shape letters: B users, L positions, N items, D width.
"""

from collections.abc import Callable, Mapping
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
from transrec.data.examples.next_item import NextItemExamples
from transrec.data.examples.questions import Question
from transrec.data.examples.task import TaskExamples
from transrec.distributed.world import World
from transrec.evaluation.baselines import ItemToItem, MostPopular
from transrec.evaluation.full_ranking import Repeats, rank_targets, target_losses, top_items
from transrec.evaluation.logistic_regression import MOST_CLASSES, LogisticRegression
from transrec.evaluation.macro_f1 import MACRO_F1, macro_f1
from transrec.evaluation.metrics import Estimate, evaluate_losses, evaluate_ranks, parse
from transrec.evaluation.sampled_ranking import SAMPLED, restricted, sampled_candidates
from transrec.protocols import Examples, Model, Part, Score


def _known(metric: str) -> str:
    if metric != MACRO_F1:
        parse(metric.removeprefix(SAMPLED))
    return metric


Metric = Annotated[str, AfterValidator(_known)]


class EvaluationConfig(Config):
    metrics: list[Metric] = Field(["HR@10", "NDCG@10", "MRR@10"], min_length=1)
    repeats: Repeats = Field(
        "count", description="a target the user already had: rank it, or count a miss as the released code does"
    )
    confidence: float = Field(0.95, gt=0, lt=1)


class Evaluator:
    """Ranks held-out items; every rank of `world` must make the same calls."""

    def __init__(self, config: EvaluationConfig, examples: Examples, world: World) -> None:
        self.config, self.examples, self.world = config, examples, world
        self.num_items = examples.folder.index.counts.items
        self.num_targets = examples.targets.size
        self.candidates = torch.zeros(self.num_targets + 1, dtype=torch.bool)
        self.candidates[torch.from_numpy(examples.ranked)] = True

    def model(self, model: Model, store: ItemStore, part: Part) -> dict[str, Estimate]:
        """Metrics of a recommender with `encode_items`, `encode_users` and `encode_targets`."""
        return self._metrics(*self._measure_model(model, store, part, *self._measures))

    def users(self, model: Model, store: ItemStore, part: Part) -> "UserResults":
        """Rank and loss of a recommender's every user; the losses take a second pass over the catalogue."""
        *measured, losses = self._measure_model(model, store, part, *self._measures, self._losses)
        estimates = self._metrics(*measured) | {"loss": evaluate_losses(losses, self.config.confidence)}
        ranks, _, predicted, targets, _ = (values.long() for values in measured)
        return UserResults(ranks, losses.float(), targets, predicted, estimates)

    def baseline(self, baseline: Any, part: Part) -> dict[str, Estimate]:
        """Metrics of anything with `for_users(history)`."""
        return self._metrics(*self._measure(part, lambda batch: baseline.for_users(batch.history), *self._measures))

    @property
    def _measures(self) -> tuple["Measure", ...]:
        """What `_metrics` is made from."""
        return (
            self._ranks,
            self._sampled_ranks,
            self._predicted,
            lambda batch, _: batch.targets,
            lambda batch, _: batch.users,
        )

    def _metrics(self, *measured: Tensor) -> dict[str, Estimate]:
        ranks, sampled, predicted, targets, users = (values.long() for values in measured)
        confidence, estimates = self.config.confidence, dict[str, Estimate]()
        for metric in self.config.metrics:
            if metric == MACRO_F1:
                estimates[metric] = macro_f1(targets, predicted, confidence)
            else:
                name, of = metric.removeprefix(SAMPLED), sampled if metric.startswith(SAMPLED) else ranks
                estimates[metric] = evaluate_ranks(of, [name], confidence, users=users)[name]
        return estimates

    def _measure_model(self, model: Model, store: ItemStore, part: Part, *measures: "Measure") -> list[Tensor]:
        with inference(model):
            vectors = encode_catalogue(model, store, self.num_items, self.world)
            return self._measure(part, model.scorer(vectors), *measures)

    def _measure(self, part: Part, score: Callable[[Question], Score], *measures: "Measure") -> list[Tensor]:
        """A value of each measure for every user of `part`, (U,) float64, in the order of the data on every rank."""
        rows = [torch.zeros((0, 1 + len(measures)), dtype=torch.float64)]
        batches = self.examples.questions(part, self.world.rank, self.world.size)
        for turn, batch in enumerate(batches):
            # A rank without users in this turn still runs the encoder: under ZeRO-3 all ranks must.
            scores = score(batch or self.examples.nobody)
            if batch is not None:
                values = [measure(batch, scores).double() for measure in measures]
                rows.append(
                    torch.stack([torch.full_like(values[0], turn * self.world.size + self.world.rank), *values], 1)
                )
        everyone = self.world.gather_rows(torch.cat(rows).to(self.world.device)).cpu()
        if not len(everyone):
            raise ConfigError(f"no user has a {part} target: see data.min_interactions, data.split and data.examples")
        block, *columns = everyone.unbind(1)
        in_order = torch.argsort(block, stable=True)
        return [column[in_order] for column in columns]

    def _ranks(self, batch: Question, score: Score) -> Tensor:
        return rank_targets(score, self.num_targets, *self._on_device(batch), self.config.repeats).cpu()

    def _sampled_ranks(self, batch: Question, score: Score) -> Tensor:
        """0 where no metric asks for them."""
        if not any(metric.startswith(SAMPLED) for metric in self.config.metrics):
            return torch.zeros_like(batch.targets)
        compared = sampled_candidates(batch.users, batch.targets, batch.left_out, self.candidates)
        return self._ranks(batch, restricted(score, compared.to(self.world.device)))

    def _predicted(self, batch: Question, score: Score) -> Tensor:
        """The best target of each user; 0 where no metric asks for it."""
        if MACRO_F1 not in self.config.metrics:
            return torch.zeros_like(batch.targets)
        return top_items(score, self.num_targets, None, self.candidates.to(self.world.device), 1)[1][:, 0].cpu()

    def _losses(self, batch: Question, score: Score) -> Tensor:
        return target_losses(score, self.num_targets, *self._on_device(batch)).cpu()

    def _on_device(self, batch: Question) -> tuple[Tensor, Tensor, Tensor]:
        device = self.world.device
        return batch.targets.to(device), batch.left_out.to(device), self.candidates.to(device)


Measure = Callable[[Question, Score], Tensor]  # (B,) of a batch


@dataclass(frozen=True)
class UserResults:
    """What full ranking says of the users of a part, in the order of `evaluated_users`, whatever the ranks."""

    ranks: Tensor  # (U,) int64
    losses: Tensor  # (U,) float32, see `target_losses`
    targets: Tensor  # (U,) int64
    predicted: Tensor  # (U,) int64, the best one; 0 where no metric asks for it
    estimates: Mapping[str, Estimate]  # of the configured metrics and of "loss"


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


def baselines(config: EvaluationConfig, examples: Examples, part: Part) -> dict[str, dict[str, Estimate]]:
    """Metrics of the baselines that need no training but counting; not collective: any one rank may call it."""
    return _BASELINES[examples.name](Evaluator(config, examples, World()), examples, part)


def _item_baselines(alone: Evaluator, examples: NextItemExamples, part: Part) -> dict[str, dict[str, Estimate]]:
    item_to_item = ItemToItem.fit(examples.training_sequences(), alone.num_items)
    return {
        "most_popular": alone.baseline(MostPopular(item_to_item.counts), part),
        "item_to_item": alone.baseline(item_to_item, part),
    }


def _task_baselines(alone: Evaluator, examples: TaskExamples, part: Part) -> dict[str, dict[str, Estimate]]:
    counts = examples.labels.counts
    found = {"most_frequent": alone.baseline(MostPopular(torch.from_numpy(counts)), part)}
    if np.count_nonzero(counts) > 1 and alone.num_targets <= MOST_CLASSES and find_spec("sklearn"):
        fitted = LogisticRegression.fit(examples.training_histories(), alone.num_items, alone.num_targets)
        found["logistic_regression"] = alone.baseline(fitted, part)
    return found


_BASELINES: dict[str, Any] = {NextItemExamples.name: _item_baselines, TaskExamples.name: _task_baselines}


def encode_catalogue(model: Model, store: ItemStore, num_items: int, world: World) -> Tensor:
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
