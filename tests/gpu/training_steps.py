"""Whole steps of the trainer on one device: users/s, share of the peak, waiting for the loader, memory, and the rest.

    python tests/gpu/training_steps.py OUT.json [--tiny]

A BERT-base of random weights over a synthetic catalogue of 20,000 texts (`--tiny`: a small one, to see on a CPU that it
runs). Each row is a configuration; the first third of its steps warms up. Besides the steps: the time of a checkpoint,
of encoding the catalogue and of a validation.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from encoder_passes import BASE, PEAK, SMALL
from tiny_world import build_backbone, build_shards

from transrec.config import validate
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.evaluation.evaluator import Evaluator, encode_catalogue, inference
from transrec.experiment import Experiment
from transrec.runs.build import build
from transrec.runs.train_and_test import build_stream, build_trainer
from transrec.training import checkpoint
from transrec.training.checkpoint import TrainState
from transrec.training.cost import measure
from transrec.training.stopping import StopRequest
from transrec.training.trainer import Trainer

CASES: dict[str, dict[str, Any]] = {
    "loader in the process": {"data": {"workers": 0}},
    "4 workers": {},
    "fp32": {"train": {"precision": "fp32"}},
    "stage 2": {"zero": {"stage": 2}},
    "stage 3": {"zero": {"stage": 3}},
    "checkpointing": {"train": {"gradient_checkpointing": True}},
    "checkpointing by passes": {"train": {"gradient_checkpointing": "passes"}},
    "bf16 weights": {"train": {"precision": "bf16_weights"}, "zero": {"stage": 1}},
    "compiled": {"train": {"compile": True}},
    "houlsby": {"adaptation": {"name": "houlsby", "also_train": ["head"]}},
    "lora": {"adaptation": {"name": "lora", "also_train": ["head"]}},
    "head only, no cache": {"adaptation": {"name": "head_only"}, "prefix_cache": {"mode": "off"}},
    "head only, cached": {"adaptation": {"name": "head_only"}},
}


@dataclass(frozen=True)
class Place:
    """The folder of the data and runs, and whether they are small."""

    folder: Path
    tiny: bool

    def prepare(self) -> None:
        users, items, interactions = (200, 80, 3000) if self.tiny else (6000, 20_000, 240_000)
        shards = build_shards(self.folder / "shards", users, items, interactions)
        path = build_backbone(self.folder / "backbone", shards) / "config.json"
        (path.parent / "model.safetensors").unlink()
        size = (SMALL if self.tiny else BASE) | {"max_position_embeddings": 512, "vocab_size": 30522}
        path.write_text(json.dumps(json.loads(path.read_text()) | size))

    def experiment(self, name: str, changes: dict[str, Any]) -> Experiment:
        encoder = {"name": "text", "backbone": str(self.folder / "backbone"), "pretrained": False, "max_tokens": 30}
        if name.startswith("head only"):  # states are kept only of layers without dropout
            encoder |= {"dropout": 0.0}
        base = {
            "run_dir": str(self.folder / "runs" / name),
            "data": {"path": str(self.folder / "shards"), "cache": str(self.folder / "cache"), "workers": 4},
            "model": {"item_encoder": encoder, "user_encoder": {"name": "sasrec"}, "objective": {"name": "next_item"}},
            "train": {"batch_size": 16 if self.tiny else 128, "precision": "bf16", "epochs": 50},
        }
        merged = {
            key: value | changes.get(key, {}) if isinstance(value, dict) else value for key, value in base.items()
        }
        return validate(Experiment, base | changes | merged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--case", action="append", choices=CASES, help="only this; may be repeated")
    arguments = parser.parse_args()
    world, rows = distributed.start(), []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), arguments.tiny)
        place.prepare()
        names, steps = arguments.case or list(CASES), 6 if arguments.tiny else 30
        measured(place.experiment("warm-up", CASES[names[0]]), world, steps)  # the first of a process is slow
        for name in names:
            row = {"case": name}
            try:
                row |= measured(place.experiment(name, CASES[name]), world, steps)
            except Exception as error:  # a case that does not run is a finding too
                row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
            rows.append(row)
            print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}), flush=True)
    arguments.out.write_text(json.dumps(rows, indent=1))
    distributed.stop(world)


def measured(experiment: Experiment, world: World, steps: int) -> dict[str, Any]:
    cuda = world.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with stopwatch("build_s") as built:
        parts = build(experiment, world)
    evaluator = Evaluator(experiment.evaluation, parts.examples, world)
    stream = build_stream(experiment, parts.examples, parts.store, world)
    cost = measure(parts.model, stream[0], world.device, autocast=True)
    assert cost is not None
    if experiment.train.compile:
        parts.model.compile_passes()
    trainer = build_trainer(experiment, parts, stream, evaluator, world, StopRequest(None))
    row = built | train(trainer, steps, (cost.forward + cost.backward) / cost.users)
    row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    with stopwatch("checkpoint_s") as saved:
        checkpoint.save(trainer.engine, experiment.run_dir / "checkpoints", TrainState(step=1), {}, world)
    model = trainer.engine.module
    with stopwatch("catalogue_s") as encoded, inference(model):
        encode_catalogue(model, parts.store, evaluator.num_items, world)
    with stopwatch("validation_s") as validated:
        evaluator.model(model, parts.store, "valid")
    return row | saved | encoded | validated


def train(trainer: Trainer, steps: int, operations_per_user: float) -> dict[str, Any]:
    batches = trainer.stream.load(0, steps, trainer.workers)
    began, waited, users = 0.0, 0.0, 0
    for step in range(steps):
        if step == steps // 3:
            synchronize()
            began, waited, users = time.perf_counter(), 0.0, 0
        asked = time.perf_counter()
        micro_batches = next(batches)
        waited += time.perf_counter() - asked
        users += sum(batch.size for batch in micro_batches)
        trainer._train_step(step, micro_batches)
    synchronize()
    seconds = time.perf_counter() - began
    batches.close()
    return {
        "users_per_second": users / seconds,
        "ms_per_step": 1e3 * seconds / (steps - steps // 3),
        "waiting_for_the_loader": waited / seconds,
        "mfu": operations_per_user * users / seconds / PEAK,
    }


class stopwatch:
    """Context whose value becomes {name: seconds}."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> dict[str, float]:
        synchronize()
        self.began, self.value = time.perf_counter(), dict[str, float]()
        return self.value

    def __exit__(self, *error: Any) -> None:
        synchronize()
        self.value[self.name] = time.perf_counter() - self.began


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
