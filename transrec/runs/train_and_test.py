"""A run from its configuration to its summary: what the command `train` starts and a sweep repeats."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from torch import nn

from transrec import weights
from transrec.config import ConfigError
from transrec.data.evaluation_stream import evaluated_users
from transrec.data.examples.interactions import Interactions
from transrec.data.shards import bad_samples
from transrec.data.train_stream import TrainStream
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.evaluation.evaluator import Evaluator, UserResults, baselines
from transrec.evaluation.metrics import Estimate
from transrec.evaluation.report import as_json, console, table
from transrec.experiment import Experiment, Parts, check_run_dir, export_config, write_run_dir
from transrec.files import replace_atomically, write_text
from transrec.training.cost import Cost, count_parameters, measure
from transrec.training.engine import deepspeed_config, initialize
from transrec.training.optim import build_optimizer
from transrec.training.tracking import flatten
from transrec.training.trainer import Trainer, peak_memory

SUMMARY_FILE = "summary.json"  # written last: a run that has it is finished


def run(experiment: Experiment) -> dict[str, Any]:
    """Train (or resume), export the best weights, test them; returns what `summary.json` holds."""
    world = distributed.start()
    check_run_dir(experiment)
    parts = experiment.build(world)
    parameters = count_parameters(parts.model)
    evaluator = Evaluator(experiment.evaluation, parts.interactions, world)
    stream = build_stream(experiment, parts, world)
    cost = measure(parts.model, stream[0], world.device, experiment.train.precision != "fp32")
    trainer = build_trainer(experiment, parts, stream, evaluator, world)
    trainer.resume()
    if world.is_main:  # only now: a run that cannot start leaves no folder behind, or the folder as it was
        write_run_dir(experiment)
        bad_samples.write_skipped(experiment.run_dir, *parts.skipped)
        bad_samples.warn(*parts.skipped)
    world.barrier()
    state = trainer.fit()
    if state.best_step == 0:  # never validated
        trainer.save_best()
    world.barrier()
    model = trainer.engine.module
    weights.load_trained(experiment.run_dir / "export", model)
    results = {part: evaluator.users(model, parts.store, part) for part in ("valid", "test")}
    summary = {part: as_json(result.estimates) for part, result in results.items()} | {
        "data": parts.interactions.training_size(),
        "parameters": parameters,
        "steps": state.step,
        "best_step": state.best_step,
        "seconds": round(state.seconds, 1),
        "users_per_second": round(state.windows / max(1e-9, state.seconds), 1),
        "peak_memory_bytes": int(world.gather_ints([peak_memory()]).max()),
        "export_bytes": weights.size(experiment.run_dir / "export"),
        **(cost.as_json() if cost is not None else {}),
    }
    distributed.stop(world)
    if trainer.tracker is not None:  # the main process; the others are done
        others = baselines(experiment.evaluation, parts.interactions, "test")
        summary["baselines"] = {name: as_json(estimates) for name, estimates in others.items()}
        save_users(experiment.run_dir / "test_users.parquet", parts.interactions, results["test"])
        write_text(experiment.run_dir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
        metrics = {f"test/{name}": estimate.value for name, estimate in results["test"].estimates.items()}
        trainer.tracker.hyperparameters(hyperparameters(experiment), metrics, state.step)
        trainer.close()
        show(experiment, others | {"this run": results["test"].estimates}, summary, cost)
    return summary


def build_stream(experiment: Experiment, parts: Parts, world: World) -> TrainStream:
    train = experiment.train
    share = world.size * train.accumulation
    if train.batch_size % share:
        raise ConfigError(
            f"`train.batch_size` {train.batch_size} must be divisible by ranks × train.accumulation = {share}"
        )
    return TrainStream(
        parts.interactions,
        parts.store,
        parts.model.sampling,  # type: ignore[arg-type]
        train.batch_size,
        experiment.seed,
        world.rank,
        world.size,
        train.accumulation,
    )


def build_trainer(
    experiment: Experiment, parts: Parts, stream: TrainStream, evaluator: Evaluator, world: World
) -> Trainer:
    train, model = experiment.train, parts.model
    settings = deepspeed_config(
        experiment.zero,
        train.precision,
        stream.micro_batch_size,
        train.accumulation,
        train.clipping,
        experiment.deepspeed,
    )
    optimizer = build_optimizer(experiment.optimizer, model, experiment.zero.offload_optimizer)
    engine = initialize(model, optimizer, settings)

    def validate() -> Mapping[str, float]:
        estimates = evaluator.model(engine.module, parts.store, "valid")
        return {name: estimate.value for name, estimate in estimates.items()}

    return Trainer(
        train,
        experiment.optimizer,
        engine,
        stream,
        experiment.data.workers,
        validate,
        lambda: save_export(experiment, parts, engine.module, world),
        experiment.run_dir,
        {
            "frozen weights": parts.base,
            "shards": parts.interactions.shards.folder.index_sha256,
            "unreadable samples": bad_samples.digest(*parts.skipped),
            **({"targets": labels.digest} if (labels := parts.interactions.labels) else {}),
        },
        world,
    )


def save_export(experiment: Experiment, parts: Parts, model: nn.Module, world: World) -> None:
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    config = export_config(experiment, parts.interactions.shards.index, parts.interactions.labels)
    folder = experiment.run_dir / "export"
    if world.is_main:
        experiment.model.item_encoder.save_assets(folder)
    weights.export(folder, model, config, parts.base if frozen else None, write_files=world.is_main)


def save_users(path: Path, interactions: Interactions, results: UserResults) -> None:
    """A row for each target that was tested: user_id, target, rank, loss, and of macro-F1 the `predicted` class.

    It is what runs are compared by, user by user.
    """
    names = interactions.target_names()
    columns = {
        "user_id": pa.array(evaluated_users(interactions, "test"), pa.string()),
        "target": names.take(pa.array(results.targets.numpy() - 1)),
        "rank": pa.array(results.ranks.numpy()),
        "loss": pa.array(results.losses.numpy()),
    }
    if results.predicted.any():
        columns["predicted"] = names.take(pa.array(results.predicted.numpy() - 1))
    with replace_atomically(path) as partial:
        pq.write_table(pa.table(columns), partial)


def hyperparameters(experiment: Experiment) -> dict[str, Any]:
    sections = experiment.model_dump(mode="json", include={"seed", "model", "adaptation", "optimizer", "train", "zero"})
    return flatten(sections)


def show(
    experiment: Experiment, tested: Mapping[str, Mapping[str, Estimate]], summary: dict[str, Any], cost: Cost | None
) -> None:
    """The test results beside the baselines', what it cost, and where to look next."""
    output, folder = console(), experiment.run_dir
    output.print(table(tested))
    output.print(cost_table(summary))
    parameters = summary["parameters"]
    output.print(
        f"{parameters['trainable']:,} of {parameters['total']:,} parameters trained for {summary['steps']} steps; "
        f"best at step {summary['best_step']}.",
        *(cost.advice() if cost is not None else ["Operations were not counted: one device cannot hold the model."]),
        f"Results    {folder}/summary.json",
        f"Curves     tensorboard --logdir {folder}/tensorboard",
        f"Evaluate   transrec evaluate --run {folder} --split test",
        f"Recommend  transrec recommend --run {folder} --history ID,ID,… --top 10",
        sep="\n",
        highlight=False,
    )
    print(json.dumps({"run": str(folder), "test": summary["test"]}))


def cost_table(summary: dict[str, Any]) -> Table:
    """Two columns: parameters by tower, operations, memory, speed, size of the export."""
    view = Table("cost", "")
    for tower, counts in summary["parameters"]["towers"].items():
        share = counts["adapters"] / max(1, counts["total"] - counts["adapters"])
        adapters = f"; adapters are {share:.1%} of the rest" if counts["adapters"] else ""
        view.add_row(f"parameters, {tower}", f"{counts['total']:,}, {counts['trainable']:,} of them trained{adapters}")
    if "flops_per_user" in summary:
        flops = summary["flops_per_user"]
        useful = flops["useful"] / max(1, flops["forward"] + flops["backward"])
        both = f"{flops['forward'] / 1e6:,.1f} forward, {flops['backward'] / 1e6:,.1f} backward, {useful:.0%} useful"
        view.add_row("MFLOPs per user", both)
    view.add_row("users per second", f"{summary['users_per_second']:,}")
    view.add_row("peak memory", f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB")
    for name, size in summary["export_bytes"].items():
        view.add_row(f"export/{name}", f"{size / 2**20:,.2f} MiB")
    return view
