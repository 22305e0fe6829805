"""Runs of a sweep as trials of Ray Tune: one of a single worker trains in the trial's own process, one of several under
Ray Train. What becomes of them lies in their run folders; Ray's own state is not needed for anything afterwards.

Ray calls functions of this module on the nodes of a cluster, where it imports it: TransRec is installed there, too.
"""

import itertools
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from filelock import FileLock
from rich.console import Console

from transrec.evaluation.metrics import metric
from transrec.runs.train_and_test import run as train_and_test
from transrec.sweeps.config import Asha, Median, Resources, Sweep
from transrec.sweeps.driver import Driver, Settle, SweepError, lock_storage
from transrec.sweeps.plan import Run, make_plan
from transrec.sweeps.view import View
from transrec.training.tracking import validations

# Read by Ray when it is imported, which is later, inside functions: nothing of it on the network or in the working
# directory, no reports of its own.
os.environ |= {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a run that may not be stopped reports none
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
os.environ.setdefault("RAY_AUTH_MODE", "token")

IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit`, which runs a copy of the working directory
POLL_SECONDS = 1.0
OWNER_DIES_WITHIN = 120.0  # seconds that a run's former process may still hold it


def run_sweep(sweep: Sweep, resume: bool, address: str | None) -> bool:
    """Carry out a sweep on the Ray cluster at `address` (None: one of its own, on this machine).

    Returns:
        Whether no trial failed.

    Raises:
        SweepError: it cannot be begun or gone on with.
        KeyboardInterrupt: it was interrupted, and can be resumed.
    """
    address = address or os.environ.get("RAY_ADDRESS")  # set in a job of `ray job submit`
    through_client = address is not None and address.startswith("ray://")
    if through_client or IN_A_JOB in os.environ:
        check_storage(sweep)
    return (carry_out_there if through_client else carry_out)(sweep, resume, address)


def check_storage(sweep: Sweep) -> None:
    """
    Raises:
        SweepError: results would be lost.
    """
    if not sweep.storage_path.is_absolute():
        raise SweepError(
            f"`storage_path: {sweep.storage_path}` would be in a folder of the cluster's that goes with the job: "
            "make it an absolute path, and so those of shards"
        )


def carry_out(sweep: Sweep, resume: bool, address: str | None) -> bool:
    """Returns whether no trial failed."""
    plan = make_plan(sweep)
    with lock_storage(sweep):
        driver = Driver(sweep, plan)
        driver.open(resume)
        with RayExecutor(sweep, address) as executor, View(driver, Console(stderr=True)):
            driver.carry_out(executor.execute)
    return not any(record.status == "failed" for record in driver.records())


def carry_out_there(sweep: Sweep, resume: bool, address: str | None) -> bool:
    """The driver as a task of a cluster that is seen through Ray's client: shards and storage lie there."""
    import ray

    connect(address, log_to_driver=True)
    answer: bool = ray.get(ray.remote(num_cpus=0, max_retries=0)(carry_out).remote(sweep, resume, "auto"))
    return answer


class RayExecutor:
    """Runs as trials of Ray Tune, a new experiment for every list of them.

    Raises:
        SweepError: no cluster there, or none large enough for a run.
    """

    def __init__(self, sweep: Sweep, address: str | None) -> None:
        self.sweep, self.address = sweep, address

    def __enter__(self) -> "RayExecutor":
        self.is_task = _is_connected()  # of the cluster: its connection is not ours to close
        if not self.is_task:
            connect(self.address)
        self.at_once = runs_at_once(self.sweep.resources)
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        if not self.is_task:
            ray.shutdown()

    def execute(self, runs: Sequence[Run], settle: Settle) -> None:
        from ray import tune

        at_once = min(self.at_once, self.sweep.concurrent or self.at_once)
        trial = tune.with_parameters(run_trial, runs={run.hash: run for run in runs}, sweep=self.sweep, cwd=os.getcwd())
        stage, folder = runs[0].stage, self.sweep.folder.absolute() / "tune"
        tune.Tuner(
            tune.with_resources(trial, trial_resources(self.sweep.resources)),
            param_space={"run": tune.grid_search([run.hash for run in runs])},
            tune_config=tune.TuneConfig(
                scheduler=scheduler(self.sweep, runs),
                max_concurrent_trials=at_once,
                reuse_actors=False,  # a process joins a process group once
            ),
            run_config=tune.RunConfig(
                name=next(name for i in itertools.count() if not (folder / (name := f"{stage}-{i:03d}")).exists()),
                storage_path=str(folder),
                callbacks=[_settling(settle)],
                verbose=0,
            ),
        ).fit()


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def connect(address: str | None, log_to_driver: bool = False) -> None:
    """
    Raises:
        SweepError: Ray is not installed, there is no cluster at `address`, or anyone could run code on it.
    """
    try:
        import ray
        import ray.tune
    except ImportError:
        raise SweepError("a sweep needs Ray: pip install 'transrec[ray]'") from None
    local: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        context = ray.init(address or "local", log_to_driver=log_to_driver, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray raises plain ones too
        raise SweepError(f"no Ray cluster at {address or 'this machine'}: {error}") from None
    dashboard = context.dashboard_url
    if dashboard and is_open_to_anyone(dashboard):
        ray.shutdown()
        raise SweepError(
            f"the Ray cluster at {address} lets everyone who reaches {dashboard} run code on its nodes: start it with "
            "RAY_AUTH_MODE=token, or its dashboard on 127.0.0.1"
        )


def is_open_to_anyone(dashboard: str) -> bool:
    """Does the dashboard at `host:port`, reachable from other machines, list its jobs without a token?"""
    host = dashboard.rpartition(":")[0].strip("[]")
    if host in ("127.0.0.1", "localhost", "::1"):
        return False
    try:
        return httpx2.get(f"http://{dashboard}/api/jobs/", timeout=5).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def runs_at_once(resources: Resources) -> int:
    """How many runs the cluster holds: workers that wait for each other's processors would wait for ever.

    Raises:
        SweepError: not even one.
    """
    import ray

    there = ray.cluster_resources()
    wanted = {"CPU": resources.workers * resources.cpus, "GPU": resources.workers * resources.gpus}
    for kind, amount in wanted.items():
        if amount > there.get(kind, 0):
            raise SweepError(f"`resources`: a run wants {amount:g} {kind}, the cluster has {there.get(kind, 0):g}")
    return min(int(there[kind] / amount) for kind, amount in wanted.items() if amount)


def trial_resources(resources: Resources) -> dict[str, float]:
    """Of the trial's own process; that of several workers only starts them and waits.

    All processors are left to the workers, but a trial that wants nothing at all is refused: it asks for one byte.
    """
    if resources.workers > 1:
        return {"memory": 1}
    return {"cpu": resources.cpus, "gpu": resources.gpus}


def scheduler(sweep: Sweep, runs: Sequence[Run]) -> Any:
    """What may stop a run early, for being behind its rivals."""
    from ray.tune.schedulers import FIFOScheduler

    if sweep.stopping is None:
        return FIFOScheduler()
    rivals = {run.hash: run.rivals for run in runs}
    monitor = runs[0].experiment.train.monitor
    return _among_rivals(rivals, {name: _stopping(sweep.stopping, monitor) for name in {*rivals.values()} - {None}})


def _stopping(stopping: Asha | Median, monitor: str) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

    mode = "max" if metric(monitor).higher_is_better else "min"
    common = {"time_attr": "step", "metric": monitor, "mode": mode, "grace_period": stopping.grace}
    if isinstance(stopping, Asha):
        never = 10**9  # a limit at which every run would be stopped
        return AsyncHyperBandScheduler(**common, max_t=never, reduction_factor=stopping.factor)
    return MedianStoppingRule(**common, hard_stop=True)


def _among_rivals(rivals: dict[str, str | None], schedulers: dict[str | None, Any]) -> Any:
    """Each run's results to the scheduler that knows its rivals only.

    A median of too few rivals would have a run pause for the others at every validation, and begin its process anew.
    """
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    schedulers = {**schedulers, None: FIFOScheduler()}

    class AmongRivals(FIFOScheduler):
        def of(self, trial: Any) -> Any:
            return schedulers[rivals[trial.config["run"]]]

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            self.of(trial).on_trial_add(tune_controller, trial)

        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> Any:
            decision = self.of(trial).on_trial_result(tune_controller, trial, result)
            return TrialScheduler.CONTINUE if decision == TrialScheduler.PAUSE else decision

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
            self.of(trial).on_trial_complete(tune_controller, trial, result)

    return AmongRivals()


def _settling(settle: Settle) -> Any:
    from ray.tune import Callback

    class Settling(Callback):
        def __reduce__(self) -> Any:  # Tune keeps its callbacks for a restore of its own, which a sweep does not need
            return Callback, ()

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            settle(trial.config["run"], None)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            settle(trial.config["run"], one_line(Path(trial.error_file).read_text(encoding="utf-8")))

    return Settling()


def one_line(traceback: str) -> str:
    """The error at the end of a trial's traceback; of our own, which speak to the user, the sentence alone."""
    ends = list(re.finditer(r"^([\w.]+): ", traceback, re.MULTILINE))
    if not ends:
        return " ".join(traceback.split())[-500:]
    kind, text = ends[-1][1], " ".join(traceback[ends[-1].end() :].split())
    return text if kind.startswith("transrec.") else f"{kind.rpartition('.')[2]}: {text}"


# In the trial's process


def run_trial(config: dict[str, Any], runs: dict[str, Run], sweep: Sweep, cwd: str) -> None:
    """One run; while it trains, its validations are told to Tune if they may stop it."""
    if Path(cwd).is_dir():  # where paths that are relative to the driver's mean the same
        os.chdir(cwd)
    run = runs[config["run"]]
    locks = sweep.folder / "locks"
    locks.mkdir(exist_ok=True)
    with FileLock(locks / run.hash, timeout=OWNER_DIES_WITHIN):  # a killed driver's trial may still be at it
        if run.rivals is not None:
            train_reporting(run, sweep.resources)
        else:
            train(run, sweep.resources)


def train(run: Run, resources: Resources) -> None:
    """Train and test a run, on as many workers as the sweep's resources say."""
    if resources.workers == 1:
        train_and_test(run.experiment)
    else:
        train_on_workers(run, resources)


def train_on_workers(run: Run, resources: Resources) -> None:
    """Train and test a run by Ray Train, with a rank on each worker."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        _work,
        train_loop_config={"experiment": run.experiment, "cwd": os.getcwd()},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
        ),
        run_config=RunConfig(
            name=f"{run.hash}-{time.time_ns()}",
            storage_path=str(run.experiment.run_dir.parents[1] / "tune" / "train"),
            failure_config=FailureConfig(max_failures=0),
        ),
    ).fit()


def _work(config: dict[str, Any]) -> None:
    os.chdir(config["cwd"])
    train_and_test(config["experiment"])


def train_reporting(run: Run, resources: Resources) -> None:
    """Train and test a run while its validations are reported to Ray Tune, which may stop it."""
    from ray import tune

    errors: list[BaseException] = []

    def training() -> None:
        try:
            train(run, resources)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=training, daemon=True)  # ends with the process when Tune stops the trial
    thread.start()
    told = 0
    while True:
        alive = thread.is_alive()
        for step, metrics in validations(run.experiment.run_dir)[told:]:
            told += 1
            tune.report({"step": step, **metrics})
        if not alive:
            break
        thread.join(POLL_SECONDS)
    if errors:
        raise errors[0]
