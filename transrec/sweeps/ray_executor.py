"""Runs of a sweep as trials of Ray Tune. A run with one worker trains in the trial's own process; a run with several
trains under Ray Train. Results are written to the run folders; Ray's own state is not needed afterwards.

Ray imports this module on the nodes of a cluster to call its functions, so TransRec must be installed there.
"""

import itertools
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
from filelock import FileLock

from transrec.distributed import launchers
from transrec.evaluation.metrics import metric
from transrec.runs.train_and_test import run as train_and_test
from transrec.sweeps.config import Asha, Median, Resources, Sweep
from transrec.sweeps.driver import Driver, Settle, SweepError, lock_storage
from transrec.sweeps.plan import Run, make_plan
from transrec.sweeps.view import View
from transrec.terminal import messages
from transrec.training.records import validations

# Ray reads these when it is imported, which happens later, inside functions. They keep it from changing the working
# directory, writing reports of its own and sending usage statistics.
os.environ |= {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a run that is never stopped early reports no metrics
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
os.environ.setdefault("RAY_AUTH_MODE", "token")

IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit`, which runs a copy of the working directory
POLL_SECONDS = 1.0
LONGEST_TEMPORARY, SHORT_TEMPORARY = 30, "/tmp"  # a socket's name has at most 107 bytes, of which Ray uses about 75
OWNER_DIES_WITHIN = 120.0  # seconds for which a run's former process may keep its lock


def run_sweep(sweep: Sweep, resume: bool, address: str | None) -> bool:
    """Carry out a sweep on the Ray cluster at `address` (None: at `RAY_ADDRESS`, else started on this machine).

    Returns:
        True if no trial failed.

    Raises:
        SweepError: the sweep can be neither started nor resumed.
        KeyboardInterrupt: the sweep was interrupted, and can be resumed.
    """
    address = address or os.environ.get("RAY_ADDRESS")  # set by `ray job submit` in the jobs it starts
    through_client = address is not None and address.startswith("ray://")
    if through_client or IN_A_JOB in os.environ:
        check_storage(sweep)
    return (carry_out_there if through_client else carry_out)(sweep, resume, address)


def check_storage(sweep: Sweep) -> None:
    """Check that results will outlive a job.

    Raises:
        SweepError: `storage_path` is relative.
    """
    if not sweep.storage_path.is_absolute():
        raise SweepError(
            f"`storage_path: {sweep.storage_path}` is relative, so results would be written to a folder of the cluster "
            "that is removed when the job ends: make this path and those of the shards absolute"
        )


def carry_out(sweep: Sweep, resume: bool, address: str | None) -> bool:
    """Plan a sweep and carry it out; returns True if no trial failed."""
    plan = make_plan(sweep)
    with lock_storage(sweep):
        driver = Driver(sweep, plan)
        driver.open(resume)
        with RayExecutor(sweep, address) as executor, View(driver, messages()):
            driver.carry_out(executor.execute)
    return not any(record.status == "failed" for record in driver.records())


def carry_out_there(sweep: Sweep, resume: bool, address: str | None) -> bool:
    """Run the driver as a task on a cluster reached through Ray's client, where the shards and the storage are."""
    import ray

    connect(address, log_to_driver=True)
    answer: bool = ray.get(ray.remote(num_cpus=0, max_retries=0)(carry_out).remote(sweep, resume, "auto"))
    return answer


class RayExecutor:
    """Executes runs as trials of Ray Tune, with a new experiment for each list of runs.

    Raises:
        SweepError: on entering the context, if there is no cluster or it is too small for a run.
    """

    def __init__(self, sweep: Sweep, address: str | None) -> None:
        self.sweep, self.address = sweep, address

    def __enter__(self) -> "RayExecutor":
        self.is_task = _is_connected()  # a task of the cluster must not close its connection
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

        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table and the records show the errors of trials
        at_once = min(self.at_once, self.sweep.concurrent or self.at_once)
        trial = tune.with_parameters(run_trial, runs={run.hash: run for run in runs}, sweep=self.sweep, cwd=os.getcwd())
        stage, folder = runs[0].stage, self.sweep.folder.absolute() / "tune"
        tune.Tuner(
            tune.with_resources(trial, trial_resources(self.sweep.resources)),
            param_space={"run": tune.grid_search([run.hash for run in runs])},
            tune_config=tune.TuneConfig(
                scheduler=scheduler(self.sweep, runs),
                max_concurrent_trials=at_once,
                reuse_actors=False,  # a process can join a process group only once
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
    """Connect to the Ray cluster at `address` (None: start one on this machine).

    Raises:
        SweepError: Ray is not installed, there is no cluster at `address`, or the cluster lets anyone run code on it.
    """
    try:
        import ray
        import ray.tune
    except ImportError:
        raise SweepError("a sweep needs Ray: pip install 'transrec[ray]'") from None
    local: dict[str, Any] = {"include_dashboard": False, **_short_folder()} if address is None else {}
    try:
        context = ray.init(address or "local", log_to_driver=log_to_driver, logging_level=logging.ERROR, **local)
    except Exception as error:  # Ray also raises plain exceptions
        wanted = f"reach a Ray cluster at {address}" if address else "start Ray on this machine"
        raise SweepError(f"cannot {wanted}: {error}") from None
    dashboard = context.dashboard_url
    if dashboard and is_open_to_anyone(dashboard):
        ray.shutdown()
        raise SweepError(
            f"the Ray cluster at {address} lets anyone who can reach {dashboard} run code on its nodes: start it "
            "with RAY_AUTH_MODE=token, or with its dashboard on 127.0.0.1"
        )


def _short_folder() -> dict[str, str]:
    """The folder for a local cluster's sockets, if the path of the temporary folder is too long for their names.

    Raises:
        SweepError: no shorter folder is writable.
    """
    if "RAY_TMPDIR" in os.environ or len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TEMPORARY:
        return {}
    if not os.access(SHORT_TEMPORARY, os.W_OK):
        raise SweepError(f"{tempfile.gettempdir()} is too long for Ray's sockets: set RAY_TMPDIR to a shorter path")
    return {"_temp_dir": f"{SHORT_TEMPORARY}/ray-{os.getuid()}"}


def is_open_to_anyone(dashboard: str) -> bool:
    """Whether the dashboard at `host:port` can be reached from other machines and lists its jobs without a token."""
    host = dashboard.rpartition(":")[0].strip("[]")
    if host in ("127.0.0.1", "localhost", "::1"):
        return False
    try:
        return httpx2.get(f"http://{dashboard}/api/jobs/", timeout=5).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def runs_at_once(resources: Resources) -> int:
    """The number of runs that fit on the cluster; with more, workers could deadlock, waiting for processors.

    Raises:
        SweepError: the cluster is too small for one run.
    """
    import ray

    there = ray.cluster_resources()
    wanted = {"CPU": resources.workers * resources.cpus, "GPU": resources.workers * resources.gpus}
    for kind, amount in wanted.items():
        if amount > there.get(kind, 0):
            raise SweepError(
                f"a run needs {amount:g} {kind}, but the cluster has {there.get(kind, 0):g}: reduce "
                "`resources`, or use a larger cluster"
            )
    return min(int(there[kind] / amount) for kind, amount in wanted.items() if amount)


def trial_resources(resources: Resources) -> dict[str, float]:
    """The resources of the trial's own process, which with several workers only starts them and waits.

    In that case it leaves all processors to them, and requests one byte of memory because Ray refuses a trial without
    resources.
    """
    if resources.workers > 1:
        return {"memory": 1}
    return {"cpu": resources.cpus, "gpu": resources.gpus}


def scheduler(sweep: Sweep, runs: Sequence[Run]) -> Any:
    """The Tune scheduler, which stops runs that are behind their rivals if the sweep has `stopping`."""
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
        never = 10**9  # the step at which every run would be stopped
        return AsyncHyperBandScheduler(**common, max_t=never, reduction_factor=stopping.factor)
    return MedianStoppingRule(**common, hard_stop=True)


def _among_rivals(rivals: dict[str, str | None], schedulers: dict[str | None, Any]) -> Any:
    """A scheduler that passes each run's results to the scheduler of its group of rivals.

    Pauses are ignored: with few rivals, the median rule would pause a run at every validation and restart its process.
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
        def __reduce__(self) -> Any:  # Tune pickles callbacks for its own restore, which a sweep does not use
            return Callback, ()

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            settle(trial.config["run"], None)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            settle(trial.config["run"], one_line(Path(trial.error_file).read_text(encoding="utf-8")))

    return Settling()


def one_line(traceback: str) -> str:
    """The error at the end of a trial's traceback, on one line; without the class name if it is a TransRec error."""
    ends = list(re.finditer(r"^([\w.]+): ", traceback, re.MULTILINE))
    if not ends:
        return " ".join(traceback.split())[-500:]
    kind, text = ends[-1][1], " ".join(traceback[ends[-1].end() :].split())
    return text if kind.startswith("transrec.") else f"{kind.rpartition('.')[2]}: {text}"


# The functions below run in the trial's process.


def run_trial(config: dict[str, Any], runs: dict[str, Run], sweep: Sweep, cwd: str) -> None:
    """Carry out one run; its validations are reported to Tune if it may be stopped early."""
    if Path(cwd).is_dir():  # relative paths then mean the same as in the driver
        os.chdir(cwd)
    run = runs[config["run"]]
    locks = sweep.folder / "locks"
    locks.mkdir(exist_ok=True)
    with FileLock(locks / run.hash, timeout=OWNER_DIES_WITHIN):  # a killed driver's trial may still be running
        if run.rivals is not None:
            train_reporting(run, sweep.resources)
        else:
            train(run, sweep.resources)


def train(run: Run, resources: Resources) -> None:
    """Train and test a run on the configured number of workers."""
    if resources.workers == 1:
        launchers.forget(os.environ)  # the variables of the srun that started Ray on this node
        train_and_test(run.experiment)
    else:
        train_on_workers(run, resources)


def train_on_workers(run: Run, resources: Resources) -> None:
    """Train and test a run under Ray Train, with one rank per worker."""
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
    """Train and test a run and report its validations to Ray Tune, which may stop it."""
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
