"""The training loop. It handles batches, steps and an engine whose forward returns losses; models are opaque to it."""

import math
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from transrec.config import Config, MayDiffer
from transrec.data.batch import to_device
from transrec.distributed.world import World
from transrec.errors import NotFiniteError, TransRecError
from transrec.files import StorageError
from transrec.phases import did, phase
from transrec.protocols import Batch, Engine, Stream
from transrec.training import checkpoint
from transrec.training.checkpoint import Saving, TrainState
from transrec.training.energy import EnergyMeter, added
from transrec.training.engine import Precision
from transrec.training.optim import OptimizerConfig, schedule_factor, set_learning_rates
from transrec.training.records import Records
from transrec.training.stopping import Duration, Interrupted, Paused, Stop, StopRequest
from transrec.training.tables import learning_groups, reduced_gradients
from transrec.training.trackers import TrackerConfig
from transrec.training.trackers.tensorboard_log import TensorBoardConfig

_DROPOUT = 4  # seed component that separates these random numbers from those of the stream

Every = Literal["epoch", "never"] | PositiveInt


class TrainConfig(Config):
    """The length of training, its batches and precision, and the intervals of validations and checkpoints."""

    epochs: int = Field(20, ge=1, description="passes over the training windows")
    steps: int | None = Field(
        None, ge=1, description="number of optimizer steps; replaces `train.epochs`; null: use epochs"
    )
    batch_size: int = Field(64, ge=1, description="windows per step, over all ranks")
    accumulation: Annotated[int, MayDiffer()] = Field(
        1, ge=1, description="number of micro-batches into which a rank's share of a step is divided"
    )
    precision: Precision = Field(
        "fp32", description="precision of matrix products (bf16), or also of weights and gradients (bf16_weights, fp16)"
    )
    clipping: float = Field(0.0, ge=0, description="largest gradient norm; 0: no clipping")
    gradient_checkpointing: Annotated[bool | Literal["passes"], MayDiffer()] = Field(
        False,
        description="recompute activations in the backward pass: of each layer (true), or of each pass over a chunk of "
        "items as a whole, so that memory does not grow with the number of items of a step (passes)",
    )
    compile: Annotated[bool, MayDiffer()] = Field(
        False, description="compile the training passes of text and image encoders with torch.compile"
    )
    evaluate_every: Every = Field(
        "epoch", description="steps between validations; never: the last weights are exported, not the best"
    )
    checkpoint_every: Annotated[Every, MayDiffer()] = Field("epoch", description="steps between checkpoints")
    patience: int | None = Field(
        5, ge=1, description="validations without improvement before training stops; null: never stop early"
    )
    monitor: str = Field("NDCG@10", description="validation metric that chooses the best weights")
    pool_memory: Annotated[float | None, MayDiffer()] = Field(
        None, gt=0, description="GiB that a rank may use for all candidate items of a step and their scores; null: all"
    )
    log_every: Annotated[int, MayDiffer()] = Field(10, ge=1, description="steps between points of the training curves")
    trackers: Annotated[list[TrackerConfig], MayDiffer()] = Field(
        [TensorBoardConfig()],
        description="programs that show the curves of the run: tensorboard, csv, wandb, mlflow; []: none",
    )
    time_limit: Annotated[Duration | None, MayDiffer()] = Field(
        None, description="time such as 3h50m after which the run saves a checkpoint and pauses; null: no limit"
    )


class TrainingError(TransRecError, RuntimeError):
    """Training that cannot continue; the message names the step and the last good checkpoint."""


@dataclass
class _Window:
    """The steps since the last flush."""

    losses: list[Tensor] = field(
        default_factory=list
    )  # (1 + losses,) per step: the total, then each loss in the order of `names`
    names: list[str] = field(default_factory=list)  # of the losses
    digests: list[int] = field(default_factory=list)
    users: int = 0
    tokens: int = 0  # computed, padding included
    padding: int = 0  # padding tokens among them
    occurrences: int = 0  # item slots of the windows
    encoded: int = 0  # distinct items encoded for them
    since: float = field(default_factory=time.monotonic)


class _Agreed(NamedTuple):
    """Facts that all ranks know before a step."""

    micro_batches: list[Batch]  # with the encoder passes that every rank runs
    normalisers: dict[str, float]  # of each loss
    stop: Stop  # the strongest request
    is_written: bool  # whether every rank has written its part of the pending checkpoint


class Trainer:
    """Runs steps `state.step` to `total_steps` and saves the best weights in the export.

    Args:
        engine: DeepSpeed engine around a `Model`: forward(batch) returns sums of losses, by name.
        validate: called on every rank; returns the same metrics on every rank.
        improves: whether a value of `monitor` is better than the best so far, which is None at first.
        save_best: called on every rank when `monitor` has improved.
        identity: hashes, by name, of the inputs that a checkpoint depends on.
        stop: the requests to stop that reach this rank.
        hyperparameters: settings by which trackers compare runs, by dotted key.
    """

    def __init__(
        self,
        config: TrainConfig,
        optimizer: OptimizerConfig,
        engine: Engine,
        stream: Stream,
        workers: int,
        validate: Callable[[], Mapping[str, float]],
        improves: Callable[[float, float | None], bool],
        save_best: Callable[[], None],
        run_dir: Path,
        identity: Mapping[str, str],
        world: World,
        stop: StopRequest,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.optimizer, self.engine = config, optimizer, engine
        self.stream, self.workers = stream, workers
        self.validate, self.improves, self.save_best = validate, improves, save_best
        self.run_dir, self.identity, self.world, self.stop = run_dir, identity, world, stop
        self.hyperparameters = hyperparameters or {}
        self.total_steps = config.steps or config.epochs * len(stream)
        self.state = TrainState()
        self.records: Records | None = None
        self._window = _Window()
        self._rates: dict[str, float] = {}
        self._gradient_norm: float | None = None
        self._saving: Saving | None = None  # the checkpoint that is being written
        self._trains_on = False  # the run had finished and is now trained for longer
        self._energy = EnergyMeter(world)
        self._energy_before: dict[str, float] | None = None  # energy in the checkpoint; None: the run is new

    def resume(self) -> None:
        """Load the latest checkpoint, if there is one; writes nothing.

        A finished run continues if the configuration now asks for more steps, unless `train.patience` ended it.

        Raises:
            CheckpointError: the checkpoint cannot be used.
        """
        found = checkpoint.latest(self.run_dir / "checkpoints")
        if found is not None:
            self.state = checkpoint.load(self.engine, found, self.identity, self.world)
            finished = self._is_finished()
            self._trains_on, self.state.finished = self.state.finished and not finished, finished

    def restore_best(self) -> None:
        """Call `save_best` with the weights of the best validation, from their checkpoint; every rank must call it.

        Raises:
            CheckpointError: that checkpoint is missing or cannot be used.
        """
        folder = self.run_dir / "checkpoints"
        best, newest = checkpoint.of_step(folder, self.state.best_step), checkpoint.latest(folder)
        checkpoint.load(self.engine, best, self.identity, self.world)
        self.save_best()
        if newest is not None and newest != best:
            checkpoint.load(self.engine, newest, self.identity, self.world)

    def fit(self) -> TrainState:
        """Train to the end.

        Raises:
            Interrupted: SIGTERM or Ctrl-C stopped the run, after a checkpoint of the last step was written.
            Paused: the same, caused by SIGUSR1 or the time limit.
            TrainingError: the loss is not finite.
            StorageError: the disk is full or read-only.
        """
        if self.world.is_main:
            self.records = Records(
                self.run_dir,
                self.state.step,
                self.total_steps,
                self.config.trackers,
                self.hyperparameters,
                self.state.finished,
            )
            self._say(self._beginning())
        with self.stop.listening():
            try:
                if not self.state.finished:
                    self._run()
            except BaseException:
                if self._saving is not None:
                    self._saving.abandon()
                with suppress(StorageError):  # the error that stopped the run is the one reported
                    self.close()
                raise
        return self.state

    def _beginning(self) -> str:
        if self._trains_on:
            return (
                f"this run had finished after step {self.state.step}: continuing to step {self.total_steps}, with the "
                f"learning rates of a {self.optimizer.schedule} schedule of {self.total_steps} steps"
            )
        if self.state.step:
            return f"resuming after step {self.state.step}"
        return f"training for {self.total_steps} steps"

    def _is_finished(self) -> bool:
        patience = self.config.patience or math.inf
        return self.state.step >= self.total_steps or self.state.evaluations_since_best >= patience

    def close(self) -> None:
        """Close the records."""
        if self.records is not None:
            self.records.close()

    def _run(self) -> None:
        began, seconds_before = time.monotonic(), self.state.seconds
        if self.records is not None:
            stage = int(self.engine.zero_optimization_stage())
            self.records.record("start", self.state.step, {"ranks": self.world.size, "stage": stage})
        self._energy_before = self.state.energy if self.state.step else None
        loading = self.stream.load(self.state.step, self.total_steps, self.workers)
        with self._energy.reading(), closing(loading) as steps:
            numbered = enumerate(steps, start=self.state.step)
            for name, some in (("first step", islice(numbered, 1)), ("steps", numbered)):  # the first waits for loaders
                with phase(name):
                    for step, micro_batches in some:
                        agreed = self._agree(micro_batches)
                        if agreed.is_written:
                            self._complete_checkpoint()
                        self._train_step(step, agreed)
                        self.state.step = step + 1
                        self.state.seconds = seconds_before + time.monotonic() - began
                        self._after_step(agreed.stop)
                        if self.state.finished:
                            return

    def _after_step(self, stop: Stop) -> None:
        """Log, validate and save if due.

        Raises:
            Interrupted, Paused: a rank was asked to stop, and everything is saved.
        """
        last = self.state.step == self.total_steps
        if last or stop or self.state.step % self.config.log_every == 0:
            self._flush()
        improved = self._due(self.config.evaluate_every, last) and self._evaluate()
        self.state.finished = self._is_finished()
        if self.state.finished or stop or improved or self._due(self.config.checkpoint_every, last):
            self._save()
        if self.state.finished or stop:
            self._complete_checkpoint()
        if self.state.finished:
            stop, done, rest = self._agreed_stop(), "training", "evaluate the trained model"
        else:
            done, rest = f"step {self.state.step}", "continue from there"
        if stop:
            kind, word = (Paused, "paused") if stop == Stop.PAUSE else (Interrupted, "stopped")
            raise kind(f"{word} after {done}; run the same command again to {rest}")

    def _agreed_stop(self) -> Stop:
        """The strongest request of all ranks."""
        return Stop(int(self.world.gather_ints([self.stop.now()]).max()))

    def _save(self) -> None:
        """Start a checkpoint, which is written while training goes on."""
        self._flush()
        self._check_weights()
        if self.records is not None:
            self.records.flush()
        self.state.energy = added(self._energy_before, self._energy.joules())
        self._complete_checkpoint()
        with phase("checkpoint"):
            self._saving = Saving(self.engine, self.run_dir / "checkpoints", self.state, self.identity, self.world)

    def _complete_checkpoint(self) -> None:
        """Complete the checkpoint that is being written, if there is one; every rank must call it."""
        saving, self._saving = self._saving, None
        if saving is not None:
            with phase("checkpoint", again=True):
                saving.complete()

    def _check_weights(self) -> None:
        """Stop if an update made the trained weights non-finite; the loss before the update does not show this."""
        trained = (p for p in self.engine.module.parameters() if p.requires_grad)
        parts = [getattr(p, "ds_tensor", p).detach() for p in trained]  # under ZeRO-3, a rank holds a part
        finite = torch.stack([torch.isfinite(part).all() for part in parts]).all()
        if not self.world.gather_ints([int(finite)]).all():
            self._stop_at("the weights are not finite after", self.state.step - 1)

    def _train_step(self, step: int, agreed: _Agreed) -> None:
        """Run one optimizer step."""
        # Dropout depends on (seed, step, rank) only, so a resumed run needs no saved random state.
        seeds = np.random.SeedSequence((_DROPOUT, self.stream.seed, step, self.world.rank))
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        micro_batches, normalisers = agreed.micro_batches, agreed.normalisers
        factor = schedule_factor(self.optimizer, step, self.total_steps)
        rates = set_learning_rates(learning_groups(self.engine), factor)
        self.engine.train()
        total = torch.zeros(1 + len(normalisers), device=self.world.device)
        for batch in micro_batches:
            losses = _means(self.engine(to_device(batch, self.world.device)), normalisers)
            loss = losses.sum()
            self.engine.backward(loss)
            if self._shows(step):
                self._gradient_norm = self._norm_without_zero()
            self.engine.step()
            total += torch.cat([loss[None], losses]).detach().float() / len(micro_batches)
        self._window.losses.append(total)
        self._window.names = list(normalisers)
        self._rates = rates

    def _shows(self, step: int) -> bool:
        return (step + 1) % self.config.log_every == 0 and self.engine.is_gradient_accumulation_boundary()

    def _norm_without_zero(self) -> float | None:
        """Norm of the averaged gradient at stage 0, for which DeepSpeed computes no norm."""
        gradients = reduced_gradients(self.engine)
        if self.engine.zero_optimization() or not gradients:
            return None
        return float(torch.nn.utils.get_total_norm(gradients))

    def _agree(self, micro_batches: list[Batch]) -> _Agreed:
        """Exchange the facts that ranks need about each other and their batches."""
        tokens = [batch.content.tokens for batch in micro_batches]
        names = list(micro_batches[0].counts)
        own = [
            self.stop.now(),
            int(self._saving is not None and self._saving.is_written),
            sum(batch.digest for batch in micro_batches),
            sum(batch.size for batch in micro_batches),
            sum(real for real, _ in tokens),
            sum(computed for _, computed in tokens),
            sum(batch.occurrences for batch in micro_batches),
            sum(len(batch.content.items) for batch in micro_batches),
            *(sum(batch.counts[name] for batch in micro_batches) for name in names),
            *(len(batch.content.items) for batch in micro_batches),
            *(passes for batch in micro_batches for passes in batch.content.passes),
        ]
        everyone = self.world.gather_ints(own)
        digest, users, real, computed, occurrences, encoded = everyone[:, 2:8].sum(0).tolist()
        counts = everyone[:, 8 : 8 + len(names)].sum(0).tolist()
        window = self._window
        window.digests.append(digest)
        window.users, window.occurrences = window.users + users, window.occurrences + occurrences
        window.tokens, window.padding = window.tokens + computed, window.padding + computed - real
        window.encoded += encoded
        did(steps=1, windows=users, items_encoded=encoded, item_occurrences=occurrences)
        # DeepSpeed averages over ranks and micro-batches; dividing by the average count gives a mean over loss terms.
        parts = self.world.size * len(micro_batches)
        normalisers = {name: max(1, count) / parts for name, count in zip(names, counts, strict=True)}
        most = everyone[:, 8 + len(names) :].max(0).values
        largest, passes = most[: len(micro_batches)], most[len(micro_batches) :].reshape(len(micro_batches), -1)
        agreed: list[Any] = [
            replace(batch, content=replace(batch.content.with_passes(own_passes), largest=own_largest))  # type: ignore[type-var]
            for batch, own_passes, own_largest in zip(micro_batches, passes.tolist(), largest.tolist(), strict=True)
        ]
        return _Agreed(agreed, normalisers, Stop(int(everyone[:, 0].max())), bool(everyone[:, 1].all()))

    def _flush(self) -> None:
        """Record the steps since the last flush; the host waits for the device only here."""
        window, self._window = self._window, _Window()
        if not window.losses:
            return
        by_name = self.world.mean(torch.stack(window.losses)).tolist()
        losses = [total for total, *_ in by_name]
        first = self.state.step - len(losses)
        self.state.windows += window.users
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                self._stop_at(f"the loss is {loss} at", step)
        if self.records is None:
            return
        for step, (loss, digest) in enumerate(zip(losses, window.digests, strict=True), start=first + 1):
            record = {"epoch": self.stream.epoch_of(step - 1), "loss": loss, "batch": f"{digest:016x}"}
            if len(window.names) > 1:
                record["losses"] = dict(zip(window.names, by_name[step - first - 1][1:], strict=True))
            self.records.record("step", step, record)
        seconds = time.monotonic() - window.since
        users_per_second = window.users / seconds
        self.records.scalars(self.state.step, self._scalars(window, by_name, users_per_second))
        self.records.advance(self.state.step, losses[-1], users_per_second, seconds / len(losses))

    def _scalars(self, window: _Window, losses: list[list[float]], users_per_second: float) -> dict[str, float]:
        means = [sum(column) / len(losses) for column in zip(*losses, strict=True)]
        tags = ["train/loss", *(f"train/loss/{name}" for name in window.names)]
        values = (
            dict(zip(tags, means, strict=True))
            | {
                "perf/users_per_second": users_per_second,
                "perf/duplicate_items_avoided": 1 - window.encoded / max(1, window.occurrences),
                "perf/peak_memory_bytes": float(peak_memory()),
            }
            | {f"learning_rate/{name}": rate for name, rate in self._rates.items()}
        )
        if window.tokens:
            values["perf/padding"] = window.padding / window.tokens
        norm = self.engine.get_global_grad_norm() or self._gradient_norm
        if norm is not None:
            values["train/gradient_norm"] = float(norm)
        return values

    def _stop_at(self, problem: str, step: int) -> NoReturn:
        self._complete_checkpoint()
        users = [example.user_id for example in self.stream.slots(step) if example is not None]
        good = checkpoint.latest(self.run_dir / "checkpoints")
        listed = ", ".join(users[:8]) + (f" and {len(users) - 8} more" if len(users) > 8 else "")
        raise TrainingError(
            f"{problem} step {step + 1} (users {listed}). Last good checkpoint: {good or 'none'}. "
            "Lower the learning rate, set train.clipping, or train in fp32; then start again with another run_dir."
        )

    def _evaluate(self) -> bool:
        """Validate; returns whether the monitored metric is the best so far (its weights are then in the export)."""
        self._flush()
        self._check_weights()
        self._complete_checkpoint()
        began = time.monotonic()
        try:
            with phase("validation"):
                metrics = self.validate()
        except NotFiniteError:
            self._stop_at("the scores of the validation are not finite after", self.state.step - 1)
        self._window.since = time.monotonic()
        value = metrics[self.config.monitor]
        improved = self.improves(value, self.state.best)
        self.state.evaluations_since_best = 0 if improved else self.state.evaluations_since_best + 1
        if improved:
            self.state.best, self.state.best_step = value, self.state.step
            self.save_best()
        if self.records is not None:
            self.records.record("valid", self.state.step, dict(metrics))
            self.records.scalars(self.state.step, {f"valid/{name}": v for name, v in metrics.items()})
            shown = "  ".join(f"{name} {v:.4f}" for name, v in metrics.items())
            took = time.monotonic() - began
            self._say(f"step {self.state.step}  valid {shown}{'  (best)' if improved else ''}  [{took:.1f} s]")
        return improved

    def _due(self, every: Every, last: bool) -> bool:
        if every == "never":
            return False
        return last or self.state.step % (len(self.stream) if every == "epoch" else every) == 0

    def _say(self, text: str) -> None:
        if self.records is not None:
            self.records.say(text)


def _means(losses: Mapping[str, Tensor], normalisers: Mapping[str, float]) -> Tensor:
    """(losses,) each sum divided by its normaliser, in the order of the normalisers.

    Raises:
        TrainingError: the names of the model's losses differ from those that its batches count.
    """
    if losses.keys() != normalisers.keys():
        given, counted = (", ".join(sorted(names)) or "none" for names in (losses, normalisers))
        raise TrainingError(f"the model returns the losses {given}, but its batches count terms of {counted}")
    return torch.stack([losses[name].float() / normaliser for name, normaliser in normalisers.items()])


def peak_memory() -> int:
    """Peak memory in bytes: of the device if there is one, otherwise the resident memory of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
