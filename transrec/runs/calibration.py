"""Fits the weights of a trained model's evidence to the targets of its validation."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from transrec import weights
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.next_item import NextItemExamples
from transrec.distributed.world import World
from transrec.evaluation.evaluator import encode_catalogue, inference
from transrec.evidence.calibration import QUESTIONS, Catalogue, Fitted, HeldOut, fit
from transrec.evidence.terms import EvidenceTerm
from transrec.experiment import Experiment
from transrec.models.sequential_recommender import SequentialRecommender
from transrec.runs.build import Parts

Floats = NDArray[np.float64]


def initial_values(parts: Parts) -> dict[str, Fitted]:
    """The weights and scales to fit, by kind of evidence. Call before training, and before ZeRO partitions them.

    Evidence of cold items keeps what it learns in training, where many items pass for cold: few targets are.
    """
    model, examples = parts.model, parts.examples
    if not isinstance(model, SequentialRecommender) or not isinstance(examples, NextItemExamples):
        return {}
    terms: dict[str, EvidenceTerm] = dict(model.evidence.items())  # type: ignore[arg-type]  # a ModuleDict of terms
    pairs = zip(terms.items(), examples.evidence, strict=True)
    return {key: Fitted(term.weight.item(), term.log_scale.item()) for (key, term), kind in pairs if not kind.hidden}


def calibrate(
    model: nn.Module, initial: Mapping[str, Fitted], experiment: Experiment, parts: Parts, world: World
) -> None:
    """Replace the weights and scales of the evidence by those that fit the validation best; every rank must call it.

    The fit starts from the `initial` values, from which training started, so fitting the same network again gives the
    same numbers.
    """
    assert isinstance(model, SequentialRecommender)
    assert isinstance(parts.examples, NextItemExamples)
    most = experiment.evaluation.validation_users or experiment.evaluation.users or QUESTIONS
    asked, known = _held_out(model, parts.examples, parts.store, min(QUESTIONS, most), world)

    def total(numbers: Floats) -> Floats:
        found: Floats = world.gather_rows(torch.from_numpy(numbers)[None].to(world.device)).sum(0).cpu().numpy()
        return found

    fitted = fit(asked, known, list(initial.values()), total, experiment.seed)
    numbers = {
        f"evidence.{key}.{name}": torch.tensor([number])
        for key, one in zip(initial, fitted, strict=True)
        for name, number in one._asdict().items()
    }
    weights.load_strictly(model, numbers, weights.names(model))


def _held_out(
    model: SequentialRecommender, examples: NextItemExamples, store: ItemStore, most: int, world: World
) -> tuple[list[HeldOut], Catalogue]:
    """This rank's questions of the validation, with the evidence that is fitted."""
    size = examples.targets.size
    candidates = torch.zeros(size + 1, dtype=torch.bool)
    candidates[torch.from_numpy(examples.ranked)] = True
    asked = []
    with inference(model):
        vectors = encode_catalogue(model, store, size, world)
        for question in examples.questions("valid", world.rank, world.size, examples.sample_users("valid", most)):
            inputs = (question or examples.nobody).inputs.to(world.device)  # nobody: in step with the other ranks
            users = model.user_vectors(vectors[inputs], inputs > 0).cpu()
            if question is not None:
                pairs = zip(question.evidence, examples.evidence, strict=True)
                fitted = [scores for scores, kind in pairs if not kind.hidden]
                asked.append(HeldOut(users, question.targets, question.left_out, fitted))
        return asked, Catalogue(model.target_vectors(vectors).cpu(), candidates)
