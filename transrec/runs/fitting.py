"""Fits the weights of a trained model's evidence to the targets of its validation."""

import sys
from collections.abc import Mapping, Set
from itertools import compress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from transrec import weights
from transrec.data.examples.next_item import NextItemExamples
from transrec.distributed.world import World
from transrec.evaluation.evaluator import encode_catalogue, inference
from transrec.evidence.fitting import QUESTIONS, Catalogue, Fitted, HeldOut, fit, needed, sample
from transrec.evidence.terms import EvidenceTerm
from transrec.experiment import Experiment
from transrec.models.sequential_recommender import SequentialRecommender
from transrec.phases import did, phase
from transrec.runs.build import Parts

Floats = NDArray[np.float64]


def initial_values(parts: Parts) -> dict[str, Fitted]:
    """The weights and scales to fit, by kind of evidence. Call before the fit.

    These are those of the settings, or those that the source of a transfer was fitted with.
    """
    if not isinstance(parts.model, SequentialRecommender):
        return {}
    terms: dict[str, EvidenceTerm] = dict(parts.model.evidence.items())  # type: ignore[arg-type]  # a ModuleDict
    kept = (one.key for one in parts.settings.looked_up() if one.fitted)
    return {key: Fitted(terms[key].weight.item(), terms[key].log_scale.item()) for key in kept}


def fit_evidence(
    model: nn.Module, initial: Mapping[str, Fitted], experiment: Experiment, parts: Parts, world: World
) -> None:
    """Replace the weights and scales of the evidence by those that fit the validation best; every rank must call it.

    The fit starts from the `initial` values, so fitting the same network again gives the same numbers.
    """
    assert isinstance(model, SequentialRecommender)
    asked, known = _held_out(model, initial.keys(), experiment, parts, world)
    fitted = fit(asked, known, list(initial.values()), _Together(world))
    numbers = {"evidence.network": torch.tensor([fitted.network])} | {
        f"evidence.{key}.{name}": torch.tensor([number])
        for key, one in zip(initial, fitted.kinds, strict=True)
        for name, number in one._asdict().items()
    }
    weights.load_strictly(model, numbers, weights.names(model))
    if world.is_main and initial:
        print(told(dict(zip(initial, fitted.kinds, strict=True)), fitted.network), file=sys.stderr, flush=True)


def told(kinds: Mapping[str, Fitted], network: float) -> str:
    """The fitted weights as one line."""
    listed = ", ".join(f"{key} {one.weight:.3g}" for key, one in kinds.items())
    return f"weights of evidence, fitted to the validation: {listed}; factor of the network's logits: {network:.3g}"


class _Together:
    """The ranks of a world."""

    def __init__(self, world: World) -> None:
        self.world, self.is_main = world, world.is_main

    def total(self, numbers: Floats) -> Floats:
        total: Floats = self._gathered(numbers).sum(0)
        return total

    def of_main(self, numbers: Floats) -> Floats:
        first: Floats = self._gathered(numbers)[0]
        return first

    def _gathered(self, numbers: Floats) -> Floats:
        found: Floats = self.world.gather_rows(torch.from_numpy(numbers)[None].to(self.world.device)).cpu().numpy()
        return found


def _held_out(
    model: SequentialRecommender, kinds: Set[str], experiment: Experiment, parts: Parts, world: World
) -> tuple[list[HeldOut], Catalogue]:
    """This rank's questions of the validation, with those `kinds` of evidence."""
    examples, kept = parts.examples, [key in kinds for key in model.evidence]
    assert isinstance(examples, NextItemExamples)
    most = experiment.evaluation.validation_users or experiment.evaluation.users or QUESTIONS
    users_asked = examples.sample_users("valid", min(QUESTIONS, most))
    size = examples.targets.size
    candidates = torch.zeros(size + 1, dtype=torch.bool)
    candidates[torch.from_numpy(examples.ranked)] = True
    sampled, asked = sample(candidates, experiment.seed), []
    with inference(model):
        with phase("encoding"):
            vectors = encode_catalogue(model, parts.store, size, world)
            did(items=size)
        for question in examples.questions("valid", world.rank, world.size, users_asked):
            inputs = (question or examples.nobody).inputs.to(world.device)  # nobody: in step with the other ranks
            users = model.user_vectors(vectors[inputs], inputs > 0).cpu()
            if question is not None:
                fitted = list(compress(question.evidence, kept))
                asked.append(HeldOut(users, question.targets, question.left_out, fitted))
        items = needed(asked, sampled)
        row_of = torch.full((size + 1,), -1, dtype=torch.int32).index_copy(
            0, items, torch.arange(len(items), dtype=torch.int32)
        )
        return asked, Catalogue(model.target_vectors(vectors, items).cpu(), row_of, candidates, sampled)
