"""A study on a small cluster that is mistreated: nothing may be lost, doubled or left open.

    python -m tests.topology.proof --trials 200

PostgreSQL, an MLflow server with passwords, a Ray head and a Ray node in networks of their own, and
workers that join by themselves. While they search, a worker is killed, the node's cable is pulled
and the database restarts. Prints one JSON object with what was counted.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from optuna.trial import TrialState

from busi_search.errors import InputError
from busi_search.home import Home, open_home
from busi_search.models.registry import open_registry
from busi_search.search.store.connection import persistently
from busi_search.search.store.fold_records import num_stored_folds
from busi_search.search.store.open import find_study
from busi_search.search.store.records import is_finished, num_finished
from busi_search.search.store.workers import workers_of
from tests.command import BUSI_SEARCH
from tests.faults.checks import check_copy
from tests.topology.mlflow_server import PASSWORD, USER, MlflowServer
from tests.topology.nodes import TOKEN, RayCluster
from tests.topology.postgres import Postgres

NAME = "proof"
GRACE_SECONDS = 30
# Trials of seconds: most faults hit one in its middle.
SMALL = ("epochs=20", "phantom_num_images=90", "num_folds=3", "architecture='small_cnn'",
         "image_size_pixels=28", "startup_trials=8")  # fmt: skip


@dataclass
class Topology:
    """What was started, and how commands reach it."""

    folder: Path
    environment: dict[str, str]
    postgres: Postgres
    server: MlflowServer
    cluster: RayCluster
    storage: str
    stack: ExitStack

    def command(self, home: str, words: list[str]) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*BUSI_SEARCH, "--home", str(self.folder / home), *words],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.folder,
        )  # fmt: skip
        self.stack.callback(process.kill)
        return process

    def home(self) -> Home:
        return open_home(self.folder / "look", storage=self.storage, tracking_uri=self.server.uri)


@dataclass
class Figures:
    """What was done and what came of it."""

    trials: int = 0
    folds: int = 0
    workers_seen: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unauthenticated_status: int = 0
    left_waiting: int = 0
    searched_seconds: int = 0
    seconds: int = 0


def build(folder: Path, stack: ExitStack, *, num_nodes: int) -> Topology:
    """Start everything; the stack ends it."""
    cluster = RayCluster(folder / "ray", num_nodes=num_nodes)
    stack.callback(cluster.stop)
    postgres = Postgres(hosts=cluster.subnet)
    postgres.start()
    stack.callback(postgres.stop)
    server = MlflowServer(
        folder / "mlflow", runs=postgres.create("runs"), users=postgres.create("users")
    )
    stack.callback(server.stop)
    # Nodes in other networks reach the database where they reach the head.
    storage = postgres.create("optuna").replace("127.0.0.1", cluster.head_address)
    environment = {
        **os.environ,
        **TOKEN,
        "BUSI_SEARCH_STORAGE": storage,
        "BUSI_SEARCH_GRACE_SECONDS": str(GRACE_SECONDS),
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }
    return Topology(folder, environment, postgres, server, cluster, storage, stack)


def prove(topology: Topology, *, num_trials: int, num_joined: int) -> Figures:
    """Search while things break; check everything that was promised."""
    figures, started = Figures(trials=num_trials), time.monotonic()
    home = topology.home()
    words = ["run", "--trials", str(num_trials), "--name", NAME, "--json", "--quiet"]
    words += ["--ray", topology.cluster.address]
    words += [word for override in SMALL for word in ("--set", override)]
    driver = topology.command("driver", words)

    def elapsed() -> int:
        return round(time.monotonic() - started)

    def finished() -> int:
        found = persistently(partial(find_study, home, NAME))
        trials = found.get_trials(deepcopy=False)
        seen = set(figures.workers_seen) | set(workers_of(trials))
        figures.workers_seen = sorted(seen)
        return num_finished(trials)

    def wait_for(number: int, hosts: Iterable[str] = ()) -> None:
        while True:
            try:
                everybody = " ".join(figures.workers_seen)
                if finished() >= number and all(host in everybody for host in hosts):
                    return
            except InputError:
                assert time.monotonic() - started < 600, "the study was never begun"
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.5)

    wait_for(1)
    joined = [
        topology.command(f"joined{index}", ["worker", NAME, "--workers", "1", "--quiet"])
        for index in range(num_joined)
    ]
    wait_for(2, hosts=[node.host_name for node in topology.cluster.nodes])
    faults: list[tuple[str, Callable[[], object]]] = [
        ("a worker killed", joined[0].kill),
        ("the database restarted", topology.postgres.restart),
    ]
    if topology.cluster.nodes:
        node = topology.cluster.nodes[-1]
        faults += [("a node's cable pulled", node.vanish), ("that node removed", node.remove)]
    for index, (what, fault) in enumerate(faults):
        wait_for((index + 1) * num_trials // (len(faults) + 1))
        figures.faults.append(f"{what} after {finished()} trials, {elapsed()} s")
        fault()
    wait_for(num_trials)
    figures.searched_seconds = elapsed()
    stdout, stderr = driver.communicate(timeout=1200)
    assert driver.returncode == 0, stderr
    for process in joined[1:]:
        _, stderr = process.communicate(timeout=600)
        assert process.returncode == 0, stderr
    joined[0].communicate()
    figures.seconds = elapsed()
    assert stdout.startswith("{"), stdout
    counts = json.loads(stdout)["trials"]
    assert counts["complete"] + counts["pruned"] == num_trials
    assert counts["failed"] == 0
    check(topology, home, figures)
    return figures


def check(topology: Topology, home: Home, figures: Figures) -> None:
    """Fail where a trial was lost or doubled, a run left open, or a stranger let in."""
    trials = find_study(home, NAME).get_trials(deepcopy=False)
    waiting = [t for t in trials if t.state == TrialState.WAITING]
    # A trial whose creation was answered twice over the restart was never worked on.
    assert all(not trial.params for trial in waiting)
    figures.left_waiting = len(waiting)
    ended = [t for t in trials if is_finished(t)]
    assert len(ended) == figures.trials
    assert len(ended) + len(waiting) == len(trials)
    assert len({json.dumps(t.params, sort_keys=True) for t in ended}) == figures.trials
    figures.folds = sum(num_stored_folds(trial) for trial in ended)
    check_copy(home, NAME, [trial.number for trial in ended])
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    figures.unauthenticated_status = topology.server.status_of(path)
    assert figures.unauthenticated_status == 401
    # A client that is told of the runs only asks the registry that was last set in this process.
    found = open_registry(home).search_model_versions("name='busi-classifier-phantom'")
    assert [str(version.version) for version in found] == ["1"], (
        [vars(version) for version in found],
        topology.server.lines_about("model-versions/create", "logged-models"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--joined", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=1, help="Ray nodes beside the head")
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        topology = build(Path(folder), stack, num_nodes=words.nodes)
        os.environ.update(topology.environment)
        figures = prove(topology, num_trials=words.trials, num_joined=words.joined)
        print(json.dumps(vars(figures)))


if __name__ == "__main__":
    main()
