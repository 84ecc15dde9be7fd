"""What the stores cost a trial: claims, folds, ends and runs, on one machine and over the network.

Workers claim trials, store five folds and tell the result, with nothing trained in between. Then
the driver copies trials to MLflow. SQLite against PostgreSQL, and MLflow's own file against its
server with passwords. Needs PostgreSQL's server and ``mlflow[auth]``.

    uv run python -m benchmarks.stores --trials 400
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import optuna
import psutil

from benchmarks.overhead import no_training
from busi_search.home import open_home
from busi_search.search import objective as objective_module
from busi_search.search.context import StudyContext
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.store.identity import check_versions, create_study
from busi_search.search.store.locks import claim_lock
from busi_search.search.store.open import open_storage
from busi_search.search.store.queue import claim_trial
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.worker import search_worker
from tests.topology.mlflow_server import PASSWORD, USER, MlflowServer
from tests.topology.postgres import Postgres

OVERRIDES = ("recipes=[]", "pruner='none'", "sampler='random'")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its descendants have used so far, ended ones too."""
    total = 0.0
    process = psutil.Process(pid)
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def work(context: StudyContext, index: int, ready, go) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective_module.cross_validate = no_training
    ready.release()
    go.wait()
    for _ in search_worker(context, True, index):
        pass


def throughput(context: StudyContext, num_trials: int, num_workers: int) -> float:
    """Seconds that so many workers take for so many more trials."""
    storage = open_storage(context.home)
    study = create_study(context, storage)
    check_versions(study)
    StudyRecord(study).set_target(len(study.get_trials(deepcopy=False)) + num_trials)
    methods = multiprocessing.get_context("spawn")
    ready, go = methods.Semaphore(0), methods.Event()
    workers = [
        methods.Process(target=work, args=(context, index, ready, go))
        for index in range(num_workers)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    started = time.perf_counter()
    go.set()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return time.perf_counter() - started


def claim_milliseconds(context: StudyContext, number: int = 50) -> float:
    """How long the lock is held for one claim, at the study's present size."""
    storage, lock = open_storage(context.home), claim_lock(context.home, context.name)
    study = optuna.load_study(study_name=context.name, storage=storage)
    spent = 0.0
    for _ in range(number):
        started = time.perf_counter()
        claim = claim_trial(study, storage, lock, target=10**9, worker="benchmark")
        spent += time.perf_counter() - started
        assert claim is not None
        study.tell(claim.trial, state=optuna.trial.TrialState.FAIL)
    return 1000 * spent / number


def reading_milliseconds(context: StudyContext, postgres: Postgres) -> tuple[float, float]:
    """What a worker's first look at another's trial costs: here, and the server's processor."""
    before = cpu_seconds(postgres.pid)
    started = time.perf_counter()
    storage = open_storage(context.home)
    study = optuna.load_study(study_name=context.name, storage=storage)
    number = len(study.get_trials(deepcopy=False))
    seconds = time.perf_counter() - started
    used = cpu_seconds(postgres.pid) - before
    return 1000 * seconds / number, 1000 * used / number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--tracked", type=int, default=60)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres = Postgres(folder / "postgres", durable=True)
        postgres.start()
        server = MlflowServer(
            folder / "mlflow", runs=postgres.create("runs"), users=postgres.create("users")
        )
        os.environ["MLFLOW_TRACKING_USERNAME"] = USER
        os.environ["MLFLOW_TRACKING_PASSWORD"] = PASSWORD
        try:
            for kind in ("SQLite", "PostgreSQL"):
                storage = None if kind == "SQLite" else postgres.create("optuna")
                uri = None if kind == "SQLite" else server.uri
                home = open_home(folder / kind, storage=storage, tracking_uri=uri)
                context = prepare_study("quickstart", home=home, overrides=OVERRIDES, device="cpu")
                throughput(context, 4, 1)
                for workers in (1, 2, 4):
                    before = cpu_seconds(postgres.pid)
                    seconds = throughput(context, options.trials, workers)
                    used = cpu_seconds(postgres.pid) - before
                    print(
                        f"{kind}: {workers} worker(s), {options.trials / seconds:.1f} trials/s"
                        + (f", server {1000 * used / options.trials:.1f} ms of processor a trial"
                           if storage else "")
                    )  # fmt: skip
                print(f"{kind}: a claim holds the lock {claim_milliseconds(context):.1f} ms")
                here, there = reading_milliseconds(context, postgres)
                print(
                    f"{kind}: {here:.2f} ms to read another worker's trial"
                    + (f", of them {there:.2f} ms of the server's processor" if storage else "")
                )
                study = optuna.load_study(
                    study_name=context.name, storage=open_storage(context.home)
                )
                tracker = Tracker(context)
                tracker.start(study)
                trials = [t for t in study.get_trials() if t.values]
                started, sent = time.perf_counter(), 0
                while sent < options.tracked:
                    sent = min(sent + 5, options.tracked)
                    tracker.log_trials(trials[:sent], last=True)
                print(
                    f"{kind}: {1000 * (time.perf_counter() - started) / sent:.0f} ms a trial "
                    "to copy it to MLflow"
                )
                if storage:
                    size = postgres.size_bytes("optuna") / len(study.get_trials(deepcopy=False))
                    print(f"{kind}: {size / 1024:.0f} KiB a trial in the database")
        finally:
            server.stop()
            postgres.stop()


if __name__ == "__main__":
    main()
