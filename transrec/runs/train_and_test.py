"""Executes a run from configuration to summary, for the command `train` and for sweeps."""

import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from transrec import weights
from transrec.config import ConfigError
from transrec.data.content.item_store import ItemStore
from transrec.data.shards import bad_samples
from transrec.data.train_stream import TrainStream
from transrec.distributed import world as distributed
from transrec.distributed.world import World
from transrec.evaluation.evaluator import Evaluator, UserResults
from transrec.evaluation.groups import Groups, groups_as_json, of_each
from transrec.evaluation.metrics import metric
from transrec.evaluation.report import as_json
from transrec.evidence.fitting import Fitted
from transrec.experiment import Experiment
from transrec.phases import did, phase, recorded, recording
from transrec.protocols import Examples
from transrec.runs.baselines import baselines
from transrec.runs.build import Parts, build
from transrec.runs.export import damage, describe
from transrec.runs.fitting import fit_evidence, initial_values
from transrec.runs.learning_rates import told
from transrec.runs.model_card import write_model_card
from transrec.runs.pool_memory import check_pool
from transrec.runs.run_folder import check_run_dir, owned, write_run_dir
from transrec.runs.shown_items import most_shown, shown_items
from transrec.runs.summary import (
    SUMMARY_FILE,
    USERS_FILE,
    assemble,
    hyperparameters,
    save_ranks,
    save_users,
    show,
    write_summary,
)
from transrec.training.cost import Cost, count_parameters, measure
from transrec.training.engine import check_extra, deepspeed_config, initialize
from transrec.training.optim import build_optimizer, build_table_optimizer, peak_rates
from transrec.training.stopping import StopRequest
from transrec.training.tables import EngineWithTables, Tables, learning_groups
from transrec.training.trackers.tracker import ShownItems
from transrec.training.trainer import Trainer, peak_memory


def run(experiment: Experiment, document: bool = False) -> dict[str, Any]:
    """Train or resume a run, export its best weights and test them; returns the contents of `summary.json`.

    Args:
        document: print the summary as one JSON document instead of tables.
    """
    check(experiment)
    world = distributed.start()
    with recording(), ExitStack() as held:
        try:
            held.enter_context(owned(experiment.run_dir, world))
            trained = train_and_measure(experiment, world)
            with phase("results"):
                if world.is_main:
                    record(experiment, trained)
                world.meet("write its results")
            with phase("baselines"):
                others = baselines(experiment.evaluation, experiment.model, trained.examples, "test", world)
        except BaseException:
            distributed.stop(world, failed=True)
            raise
        distributed.stop(world)
        if world.is_main:
            finish(experiment, trained, others, document)
    return trained.summary


def check(experiment: Experiment) -> None:
    """Check what the schema of the configuration cannot.

    Raises:
        ConfigError: DeepSpeed does not know one of the settings in `deepspeed`.
        ExtraError: a tracker's library is not installed.
    """
    check_extra(experiment.deepspeed, experiment.zero.stage)
    for tracker in experiment.train.trackers:
        tracker.check()


@dataclass(frozen=True)
class Trained:
    """A trained and evaluated run, without the results of its baselines."""

    examples: Examples
    trainer: Trainer
    results: Mapping[str, UserResults]  # by part
    summary: dict[str, Any]
    cost: Cost | None
    shown: ShownItems | None  # on the main process, for trackers


def train_and_measure(experiment: Experiment, world: World) -> Trained:
    """Train, then validate and test with the best weights; every rank must call it."""
    with phase("start"):
        begun = _begin(experiment, world)
    parts, trainer, evaluator = begun.parts, begun.trainer, begun.evaluator
    state = trainer.fit()
    if state.best_step == 0:  # never validated
        trainer.save_best()
    world.barrier()
    model = trainer.engine.module
    weights.load_trained(experiment.run_dir / "export", model)
    if begun.evidence:
        with phase("fitting"):
            fit_evidence(model, begun.evidence, experiment, parts, world)
        trainer.save_best()
    with phase("test"):
        results = {part: evaluator.users(model, parts.store, part) for part in ("valid", "test")}
    peak = int(world.gather_ints([peak_memory()]).max())
    rates = peak_rates(learning_groups(trainer.engine))
    summary = assemble(experiment, parts.examples, begun.parameters, rates, state, peak, results, begun.cost)
    if calibration := evaluator.calibration(results["test"]):
        summary["calibration"] = {head: [asdict(each) for each in bins] for head, bins in calibration.items()}
    summary["ranks"] = world.size
    shown = shown_items(model, parts.store, parts.examples.folder, most_shown(experiment.train.trackers), world)
    return Trained(parts.examples, trainer, results, summary, begun.cost, shown)


@dataclass(frozen=True)
class _Begun:
    """A run that is ready for its first step, or for its next one."""

    parts: Parts
    parameters: dict[str, Any]
    evaluator: Evaluator
    trainer: Trainer
    cost: Cost | None
    evidence: Mapping[str, Fitted]  # before training


def _begin(experiment: Experiment, world: World) -> _Begun:
    stop = StopRequest(experiment.train.time_limit)
    check_run_dir(experiment)
    parts = build(experiment, world)
    parameters, evidence = count_parameters(parts.model), initial_values(parts)
    evaluator = Evaluator(experiment.evaluation, parts.examples, world)
    evaluator.check()
    check_pool(experiment, parts.model, parts.examples, parts.store, world.size, world.device)
    stream = build_stream(experiment, parts.examples, parts.store, world)
    cost = measure(parts.model, stream[0], world.device, experiment.train.precision != "fp32")
    if experiment.train.compile:  # only after `measure`, which cannot count operations in a compiled pass
        parts.model.compile_passes()
    trainer = build_trainer(experiment, parts, stream, evaluator, world, stop)
    trainer.resume()
    if world.is_main:  # only here, so that a run that cannot start changes nothing on disk
        write_run_dir(experiment)
        bad_samples.write_skipped(experiment.run_dir, *parts.skipped)
        bad_samples.warn(*parts.skipped)
        if sample := evaluator.sample("valid"):
            print(f"transrec: validation uses {sample}", file=sys.stderr, flush=True)
        if not trainer.state.finished:
            rates = peak_rates(learning_groups(trainer.engine))
            print(told(experiment.adaptation, rates), file=sys.stderr, flush=True)
    world.barrier()
    restore_export(experiment, trainer, world)
    return _Begun(parts, parameters, evaluator, trainer, cost, evidence)


def record(experiment: Experiment, trained: Trained) -> None:
    """Write the results of the run before its baselines are evaluated; only the main process calls it.

    Evaluating the baselines may take longer than the run itself.
    """
    tested, trainer = trained.results["test"], trained.trainer
    did(questions=len(tested.columns["user"]))
    add_baselines(experiment, trained, {})
    save_users(experiment.run_dir / USERS_FILE, trained.examples, tested)
    write_model_card(experiment, trained.examples, trained.summary)
    write_summary(experiment.run_dir, trained.summary)
    metrics = {f"test/{name}": estimate.value for name, estimate in tested.estimates.items()}
    assert trainer.records is not None
    trainer.records.results(trainer.state.step, metrics)
    if trained.shown is not None:
        trainer.records.items(trained.shown)
    trainer.records.say(f"results are in {experiment.run_dir}/{SUMMARY_FILE}; baselines follow")
    trainer.close()


def finish(experiment: Experiment, trained: Trained, others: Mapping[str, UserResults], document: bool) -> None:
    """Write the results of the baselines, and print all results as tables or a `document`; only on the main process."""
    groupings = add_baselines(experiment, trained, others)
    save_ranks(experiment.run_dir / "test_baselines.parquet", trained.examples, others)
    write_model_card(experiment, trained.examples, trained.summary)
    write_summary(experiment.run_dir, trained.summary)
    rows = {**others, "this run": trained.results["test"]}
    tested = {name: results.estimates for name, results in rows.items()}
    sample = trained.results["test"].sample
    if document:
        print(json.dumps({"run": str(experiment.run_dir), **trained.summary}))
    else:
        show(experiment, tested, groupings, trained.summary, trained.cost, of="" if sample is None else str(sample))


def add_baselines(
    experiment: Experiment, trained: Trained, others: Mapping[str, UserResults]
) -> Mapping[str, Mapping[str, Groups]]:
    """Add the results of the baselines to the summary; returns all results by grouping and model."""
    alone = Evaluator(experiment.evaluation, trained.examples, World())
    rows = {**others, "this run": trained.results["test"]}
    groupings = of_each({name: alone.groups(results) for name, results in rows.items()})
    trained.summary["phases"] = recorded()
    trained.summary["baselines"] = {name: as_json(results.estimates) for name, results in others.items()}
    for grouping, models in groupings.items():
        trained.summary[grouping] = {name: groups_as_json(groups) for name, groups in models.items()}
    return groupings


def build_stream(experiment: Experiment, examples: Examples, store: ItemStore, world: World) -> TrainStream:
    """The training batches of a run.

    Raises:
        ConfigError: the batch cannot be divided among ranks and micro-batches.
    """
    train = experiment.train
    share = world.size * train.accumulation
    if train.batch_size % share:
        raise ConfigError(
            f"`train.batch_size` {train.batch_size} must be divisible by ranks × train.accumulation = {share}"
        )
    return TrainStream(
        examples,
        examples.collation(store, experiment.model.sampling, experiment.seed),
        train.batch_size,
        experiment.seed,
        world.rank,
        world.size,
        train.accumulation,
    )


def build_trainer(
    experiment: Experiment, parts: Parts, stream: TrainStream, evaluator: Evaluator, world: World, stop: StopRequest
) -> Trainer:
    """The trainer of a run, with its optimizer and DeepSpeed engine."""
    train, model = experiment.train, parts.model
    settings = deepspeed_config(
        experiment.zero,
        train.precision,
        stream.micro_batch_size,
        train.accumulation,
        train.clipping,
        experiment.deepspeed,
    )
    optimizer = build_optimizer(experiment.optimizer, model, parts.rates, experiment.zero.offload_optimizer)
    engine = initialize(model, optimizer, settings)
    table_optimizer = build_table_optimizer(experiment.optimizer, model)
    if table_optimizer is not None:
        engine = EngineWithTables(engine, Tables(table_optimizer, world), train.clipping)

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
        metric(train.monitor).improves,
        lambda: save_export(experiment, parts, engine.module, world),
        experiment.run_dir,
        {
            "frozen weights": parts.base,
            "shards": parts.examples.folder.index_sha256,
            "unreadable samples": bad_samples.digest(*parts.skipped),
            **parts.examples.identity,
        },
        world,
        stop,
        hyperparameters(experiment),
    )


def restore_export(experiment: Experiment, trainer: Trainer, world: World) -> None:
    """Write the export of a resumed run again if it was removed or damaged; every rank must call it.

    Otherwise, a run whose best weights are missing would fail only at the end of training.

    Raises:
        CheckpointError: the checkpoint of the best weights is also missing.
    """
    if trainer.state.best_step == 0:  # never validated: the export is written at the end
        return
    export, model = experiment.run_dir / "export", trainer.engine.module
    fault = damage(export, model) if world.is_main else None
    if world.gather_ints([int(fault is not None)]).any():
        if fault is not None:
            print(f"transrec: {fault}: writing the export again from a checkpoint", file=sys.stderr, flush=True)
            shutil.rmtree(export, ignore_errors=True)
        trainer.restore_best()


def save_export(experiment: Experiment, parts: Parts, model: nn.Module, world: World) -> None:
    """Write the export of the model in its current state; every rank must call it, rank 0 writes."""
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    config = describe(experiment, parts.examples).model_dump()
    folder = experiment.run_dir / "export"
    with phase("export"):
        if world.is_main:
            parts.settings.save_assets(folder)
        weights.export(folder, model, config, parts.base if frozen else None, write_files=world.is_main)
