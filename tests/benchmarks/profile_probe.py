"""How well a user column can be predicted from histories: logistic regression on inputs and states of a network.

    python tests/benchmarks/profile_probe.py --run PRETRAINED [PRETRAINED …] --column age --bands 25 35 50

Features, in the order in which they lose information: the counts of items in the history; those among the newest items,
which the network reads; the mean of the frozen vectors of these; the frozen state that a task's token would read. The
regression is fitted to the training users of the task's own runs and tested on their test users; means over the runs.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from transrec.config import validate
from transrec.data.content.opening import open_store
from transrec.data.examples import DataConfig
from transrec.data.examples.questions import left_padded, newest
from transrec.data.examples.task import TaskExamples
from transrec.distributed.world import World
from transrec.evaluation.evaluator import encode_catalogue, inference
from transrec.runs.rebuild import rebuild_for
from transrec.runs.run_folder import load

Features = dict[str, NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="pretrained on item ids")
    parser.add_argument("--column", required=True)
    parser.add_argument("--bands", type=float, nargs="*")
    arguments = parser.parse_args()
    task = {"name": "profile", "column": arguments.column} | ({"bands": arguments.bands} if arguments.bands else {})
    measured = [probe(run, task) for run in arguments.run]
    for name in measured[0]:
        accuracy, macro_f1 = np.mean([of_run[name] for of_run in measured], axis=0)
        print(f"{name:24} accuracy {accuracy:.3f}  macro F1 {macro_f1:.3f}")


def probe(run: Path, task: dict[str, object]) -> dict[str, tuple[float, float]]:
    """(accuracy, macro F1) by features."""
    experiment = load(run)
    data = validate(
        DataConfig, experiment.data.model_dump(mode="json") | {"examples": {"name": "task", "targets": task}}
    )
    interactions = data.scan(experiment.model.max_length)
    model = rebuild_for(experiment, run, interactions.shards.index)
    num_items = interactions.shards.index.counts.items
    store = open_store(interactions.folder, experiment.model.content(), data, World())
    with inference(model):
        vectors = encode_catalogue(model, store, num_items, World())
        (train, learnt), (test, asked) = (
            together(features(model, vectors, *users) for users in part)
            for part in (trained(interactions), tested(interactions))
        )
    results = {}
    for name, values in train.items():
        linear = LogisticRegression(max_iter=1000)
        fitted = (linear if "counts" in name else make_pipeline(StandardScaler(), linear)).fit(values, learnt)
        predicted = fitted.predict(test[name])
        results[name] = accuracy_score(asked, predicted), f1_score(asked, predicted, average="macro")
    return results


def trained(interactions: TaskExamples) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int32]]]:
    """(whole history, its part that the network reads, class) of blocks of users."""
    for histories, classes in interactions.training_histories():
        if histories:
            history = left_padded(histories)
            yield history, newest(history, interactions.max_length), classes


def tested(interactions: TaskExamples) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int32]]]:
    for batch in interactions.questions("test"):
        if batch is not None:
            yield batch.history, batch.inputs, batch.targets.numpy().astype(np.int32)


def features(
    model: torch.nn.Module, vectors: Tensor, history: Tensor, inputs: Tensor, classes: NDArray[np.int32]
) -> tuple[Features, NDArray[np.int32]]:
    read, mask = vectors[inputs], inputs > 0
    of_users: Features = {
        "counts, whole history": counts(history, len(vectors)),
        "counts, newest items": counts(inputs, len(vectors)),
        "mean of frozen vectors": (read.sum(1) / mask.sum(1, keepdim=True)).double().numpy(),
        "frozen state": model.encode_users(read, mask).double().numpy(),  # type: ignore[operator]
    }
    return of_users, classes


def counts(items: Tensor, width: int) -> NDArray[np.float64]:
    """(users, items) of indices where 0 is padding."""
    occurring = torch.zeros(len(items), width, dtype=torch.float64).scatter_add_(1, items, (items > 0).double())
    return occurring.numpy()


def together(blocks: Iterator[tuple[Features, NDArray[np.int32]]]) -> tuple[Features, NDArray[np.int32]]:
    parts, classes = zip(*blocks, strict=True)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, np.concatenate(classes)


if __name__ == "__main__":
    main()
