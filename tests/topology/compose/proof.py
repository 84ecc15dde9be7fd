"""The containers, really started and mistreated: nothing may be lost, doubled or left open.

    python -m tests.topology.compose.proof --trials 40

Builds the images, starts docker-compose.yml as it stands with three workers, and while they search
kills a worker's and the driver's process, restarts PostgreSQL and MLflow, and takes the whole stack
down and up again. Prints one JSON object with what was counted. With DOCKER_HOST an engine that
runs is used, and what it has built before.
"""

import argparse
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
from optuna.trial import TrialState

from busi_search.models.registry import open_registry
from busi_search.search.store.open import find_study
from tests.faults.checks import check_copy
from tests.topology.compose.engine import docker, ensure_base_images, running_engine
from tests.topology.compose.stack import NAME, WATCH, Stack, prepare_stack

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
NUM_WORKERS = 3
GRACE_SECONDS = 30
# A container that is healthy within this time after a fault has come back.
RECOVERY_SECONDS = 120
MOST_BYTES_READ = 2 * 10**9


@dataclass
class Figures:
    """What was done and what came of it.

    Attributes:
        trials: finished in the end.
        faults: what was done -> after how many finished trials.
        lost: trials that never ended; doubled: trials beyond those asked for.
        folds: results of folds that were stored; repeated: of them stored more than once.
        sizes: bytes of the images.
        seconds: of the search and the release.
    """

    trials: int = 0
    faults: dict[str, list[int]] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    folds: int = 0
    repeated: int = 0
    unauthenticated_status: int = 0
    listening: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    seconds: int = 0


def prove(stack: Stack, *, num_trials: int) -> Figures:
    """Search while things break; fail where something that was promised does not hold."""
    figures, started = Figures(), time.monotonic()
    stack.up(num_workers=NUM_WORKERS)
    _wait_for(stack, 1)
    stack.sql(WATCH)
    figures.unauthenticated_status = _status_without_password()
    figures.listening = _listening()
    faults: list[tuple[str, Callable[[], object]]] = [
        ("a worker killed", partial(stack.kill, "worker")),
        ("PostgreSQL restarted", partial(stack.compose, "restart", "-t", "10", "postgres")),
        ("MLflow restarted", partial(stack.compose, "restart", "-t", "10", "mlflow")),
        ("the driver killed", partial(stack.kill, "search")),
        ("all down and up", partial(_down_and_up, stack)),
        ("a worker killed", partial(stack.kill, "worker")),
        ("PostgreSQL restarted", partial(stack.compose, "restart", "-t", "0", "postgres")),
        ("MLflow restarted", partial(stack.compose, "restart", "-t", "0", "mlflow")),
    ]
    for index, (what, fault) in enumerate(faults):
        seen = _wait_for(stack, (index + 1) * num_trials // (len(faults) + 1))
        figures.faults.setdefault(what, []).append(seen)
        fault()
    stack.wait_for_search(seconds=900)
    figures.seconds = round(time.monotonic() - started)
    _check(stack, figures, num_trials)
    return figures


def _num_finished(stack: Stack) -> int | None:
    """Return how many trials are finished, None where the database does not answer."""
    try:
        ((number,),) = stack.sql(
            "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
        )
    except psycopg.Error:
        return None
    assert isinstance(number, int)
    return number


def _wait_for(stack: Stack, number: int, *, seconds: float = 1200) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = _num_finished(stack)
        if found is not None and found >= number:
            return found
        time.sleep(0.5)
    raise AssertionError(stack.compose("logs", "--tail=60"))


def _down_and_up(stack: Stack) -> None:
    stack.compose("down", "-t", "20")
    stack.up(num_workers=NUM_WORKERS)


def _status_without_password() -> int:
    address = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/search?max_results=1"
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            assert time.monotonic() < deadline, "MLflow does not answer"
            time.sleep(1)


def _listening() -> list[str]:
    """Return the addresses of this machine, beside the loopback's, that answer on the ports."""
    words = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout
    found = []
    for address in words.split():
        for port in (5000, 5432):
            try:
                socket.create_connection((address, port), timeout=2).close()
            except OSError:
                continue
            found.append(f"{address}:{port}")
    return found


def _check(stack: Stack, figures: Figures, num_trials: int) -> None:
    home = stack.home()
    trials = find_study(home, NAME).get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    ended = [trial for trial in trials if trial.state in FINISHED]
    figures.trials = len(ended)
    # A trial whose creation was answered twice over a restart was never worked on.
    waiting = [t for t in trials if t.state == TrialState.WAITING and not t.params]
    figures.lost = len(trials) - len(ended) - len(waiting)
    figures.doubled = len(ended) - num_trials
    assert len(ended) == num_trials, states
    assert figures.lost == 0, states
    assert len({json.dumps(t.params, sort_keys=True) for t in ended}) == num_trials
    writes = stack.sql("SELECT COUNT(*) FROM fold_writes GROUP BY trial_id, key")
    figures.folds = len(writes)
    figures.repeated = sum(count != 1 for (count,) in writes)
    assert figures.repeated == 0
    check_copy(home, NAME, [trial.number for trial in ended])
    found = open_registry(home).search_model_versions("name='busi-classifier'")
    assert [str(version.version) for version in found] == ["1"]
    assert figures.unauthenticated_status == 401
    assert figures.listening == []
    _check_secrets(stack, figures)
    (driver,) = stack.containers("search")
    said = docker("logs", driver) + stack.compose("logs", "--no-color", "search")
    assert "docker compose run --rm search promote" in said
    assert "http://127.0.0.1:5000" in said
    assert "  busi-search " not in said


def _check_secrets(stack: Stack, figures: Figures) -> None:
    """Look for the secrets in every log, in how images were built, and in every byte of small ones.

    What is written when the worker's image is built is the same for everybody, and gigabytes.
    """
    logs = stack.compose("logs", "--no-color")
    assert not any(secret in logs for secret in stack.secrets.values())
    wanted = stack.folder / "wanted"
    wanted.write_text("\n".join(stack.secrets.values()) + "\n")
    for service in ("search", "mlflow", "postgres"):
        (container, *_) = stack.containers(service)
        image = docker("inspect", "--format", "{{.Image}}", container).strip()
        figures.sizes[service] = int(docker("image", "inspect", "--format", "{{.Size}}", image))
        built = docker("history", "--no-trunc", image) + docker("image", "inspect", image)
        assert not any(secret in built for secret in stack.secrets.values())
        user = docker("image", "inspect", "--format", "{{.Config.User}}", image).strip()
        assert service == "postgres" or user not in ("", "root", "0")
        if figures.sizes[service] > MOST_BYTES_READ:
            continue
        saved = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        found = subprocess.run(
            ["grep", "-a", "-c", "-F", "-f", str(wanted)],
            stdin=saved.stdout, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert saved.wait() == 0
        assert found.stdout.strip() == "0", f"{service}: a secret is in a layer"


def prove_here(folder: Path, *, num_trials: int, variant: str) -> Figures:
    """Start an engine if none runs, build, prove, and leave nothing behind but what was built."""
    with running_engine():
        ensure_base_images()
        stack = prepare_stack(
            folder, num_trials=num_trials, grace_seconds=GRACE_SECONDS, variant=variant
        )
        stack.compose("build")
        try:
            return prove(stack, num_trials=num_trials)
        finally:
            stack.compose("down", "-v", "-t", "5", check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--variant", choices=["cuda", "cpu"], default="cuda")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        figures = prove_here(Path(folder), num_trials=words.trials, variant=words.variant)
    print(json.dumps(vars(figures)))


if __name__ == "__main__":
    main()
