"""Baselines: untrained or simple methods that answer the same evaluation questions as a model.

They are evaluated like the model: every rank answers its share of the questions and scores rankings on its own device.
Counts and fitted parameters are kept in the node's cache, so that the runs of a sweep compute them only once.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), n items of a chunk.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.data.batch import to_device
from transrec.data.examples.evidence import after, by_column
from transrec.data.examples.impressions import ImpressionExamples
from transrec.data.examples.next_item import NextItemExamples
from transrec.data.examples.task import TaskExamples
from transrec.distributed.world import World
from transrec.evaluation.evaluator import EvaluationConfig, Evaluator, UserResults
from transrec.evaluation.logistic_regression import MOST_CLASSES, LogisticRegression, fit
from transrec.evaluation.metrics import metric
from transrec.evaluation.ranking_baselines import (
    RankingBaseline,
    by_item,
    count_clicks,
    fit_regression,
    regression,
    similarity_baseline,
)
from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.evidence.content_similarity import ContentSimilarityConfig
from transrec.evidence.item_to_item import ItemToItemConfig
from transrec.evidence.transitions import TransitionsConfig
from transrec.nn.similarity import similarity_kernel
from transrec.nn.sparse_terms import with_terms
from transrec.protocols import Evidence, Examples, ModelSettings, Part, Score
from transrec.runs.evidence import CountedEvidence, RunSources, attempt, kept_arrays

_BLENDED = ("co_occurrence", "content_similarity")
_SHARES = (0.25, 0.5, 0.75, 0.9)  # weights of the first of `_BLENDED` in a blend

SparseMatrix = Any  # a scipy matrix in CSR format


def baselines(
    config: EvaluationConfig, model: ModelSettings, examples: Examples, part: Part, world: World
) -> dict[str, UserResults]:
    """Results of the baselines that `config` asks for, by name; every rank of `world` must call it.

    Content that is not in the cache yet is encoded by the pretrained backbone of `model`.
    """
    evaluator = Evaluator(config, examples, world)
    if isinstance(examples, NextItemExamples):
        return dict(_item_baselines(evaluator, RunSources(model, examples, world), part))
    if isinstance(examples, TaskExamples):
        return dict(_task_baselines(evaluator, examples, part))
    if isinstance(examples, ImpressionExamples):
        answers = dict(_click_baselines(evaluator, RunSources(model, examples, world)))
        return {name: evaluator.answers(answers[name], part) for name in evaluator.baselines if name in answers}
    return {}


@dataclass(frozen=True)
class Untrained:
    """Scores that are the same for all users, plus scores that depend on a user's history."""

    base: Tensor  # (N + 1,) float32, on the device of the ranking
    scores: Callable[[Sequence[NDArray[Any]]], SparseMatrix] | None = None  # histories -> (B, N + 1)

    def __call__(self, question: Any) -> Score:
        """Scores for the users whose histories are `question.history` (B, H), 0 where padded."""
        users = len(question.history)
        terms = []
        if self.scores is not None:
            histories = [row[row > 0] for row in question.history.numpy()]
            terms = [to_device(by_column(self.scores(histories)), self.base.device)]
        return with_terms(lambda a, b: self.base[a:b].repeat(users, 1), terms)


def _item_baselines(evaluator: Evaluator, known: RunSources, part: Part) -> Iterator[tuple[str, UserResults]]:
    asked = evaluator.baselines
    popularity = torch.from_numpy(known.examples.popularity).float()
    nothing, device = torch.zeros_like(popularity), known.world.device
    lookups: dict[str, Callable[[Sequence[NDArray[Any]]], SparseMatrix]] = {}
    for name, settings in _evidence(known.model).items():
        if name in asked or (name in _BLENDED and "blend" in asked):
            evidence = attempt(settings, known)
            if evidence is not None:
                lookups[name] = partial(_after, evidence, known.catalogue_size)
    for name in asked:
        if name == "most_popular":
            yield name, evaluator.baseline(Untrained(popularity.to(device)), part)
        elif name == "blend" and lookups.keys() >= {*_BLENDED}:
            yield name, evaluator.baseline(_best_blend(evaluator, nothing.to(device), lookups), part)
        elif name in lookups:  # popularity, scaled to below 1, only breaks ties between integer counts
            base = popularity / (popularity.max() + 1) if name == ItemToItemConfig.name else nothing
            yield name, evaluator.baseline(Untrained(base.to(device), lookups[name]), part)


def _evidence(model: ModelSettings) -> dict[str, CountedEvidence]:
    """Every kind of evidence with its default settings, as a baseline for any model."""
    kinds: list[CountedEvidence] = [ItemToItemConfig(), TransitionsConfig(), CoOccurrenceConfig()]
    kinds += [ContentSimilarityConfig(modality=modality) for modality in model.content()][:1]
    return {one.name: one for one in kinds}


def _after(evidence: Evidence, catalogue_size: int, histories: Sequence[NDArray[Any]]) -> SparseMatrix:
    return after(evidence, histories, catalogue_size)


def _best_blend(evaluator: Evaluator, base: Tensor, lookups: Mapping[str, Any]) -> Untrained:
    """The blend with the best validation result on the first metric that is computed from ranks."""
    asked = next((m for m in evaluator.metrics if m.reads == ("rank",)), metric("NDCG@10"))
    config = evaluator.config.model_copy(update={"metrics": [asked.name]})
    ranking = Evaluator(config, evaluator.examples, evaluator.world)
    blends = {share: Untrained(base, blended(lookups[_BLENDED[0]], lookups[_BLENDED[1]], share)) for share in _SHARES}
    values = {share: ranking.baseline(one, "valid").estimates[asked.name].value for share, one in blends.items()}
    return blends[max(values, key=values.__getitem__)]


def blended(one: Any, other: Any, share: float) -> Callable[[Sequence[NDArray[Any]]], SparseMatrix]:
    """`share` times `one` plus `1 - share` times `other`, after dividing each by its largest score for the user."""
    return lambda histories: share * _relative(one(histories)) + (1 - share) * _relative(other(histories))


def _relative(scores: SparseMatrix) -> SparseMatrix:
    most = scores.max(axis=1).toarray().ravel()
    relative = scores.copy()
    relative.data = relative.data / np.repeat(np.where(most > 0, most, 1), np.diff(relative.indptr))
    relative.sort_indices()  # otherwise adding two such matrices takes time that grows with N
    return relative


def _task_baselines(evaluator: Evaluator, examples: TaskExamples, part: Part) -> Iterator[tuple[str, UserResults]]:
    counts, size, asked = examples.labels.counts, examples.targets.size, evaluator.baselines
    if "most_frequent" in asked:
        base = torch.from_numpy(counts).float().to(evaluator.world.device)
        yield "most_frequent", evaluator.baseline(Untrained(base), part)
    few_classes = np.count_nonzero(counts) > 1 and size <= MOST_CLASSES
    if few_classes and "logistic_regression" in asked and find_spec("sklearn"):
        items = evaluator.num_items
        fitted = kept_arrays(
            "logistic_regression", lambda: fit(examples.training_histories(), items), examples, evaluator.world
        )
        yield "logistic_regression", evaluator.baseline(LogisticRegression(fitted, items, size), part)


def _click_baselines(evaluator: Evaluator, known: RunSources) -> Iterator[tuple[str, RankingBaseline]]:
    asked, size, examples = evaluator.baselines, known.catalogue_size, known.examples
    kept = partial(kept_arrays, examples=examples, world=known.world)
    if {"most_popular", "item_rate"} & {*asked}:
        counts = kept("clicks", lambda: count_clicks(examples.training(), size))
        yield from ((name, by_item(logits)) for name, logits in counts.items())
    if "logistic_regression" in asked and find_spec("sklearn"):
        fitted = kept("logistic_regression", lambda: fit_regression(examples.training(), size))
        if fitted:
            yield "logistic_regression", regression(fitted, size)
    for modality in known.model.content():
        if f"{modality}_similarity" in asked:
            features = known.features(ContentSimilarityConfig(modality=modality))
            yield f"{modality}_similarity", similarity_baseline(*features, size, similarity_kernel)
