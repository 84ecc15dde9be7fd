"""The MLflow UI on a home, opened at the leaderboard."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from contextlib import suppress
from typing import TYPE_CHECKING

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home, create_tracking_store, quiet_mlflow
from busi_search.search.mlflow.leaderboard import LEADERBOARD_KEY
from busi_search.search.mlflow.lookup import ALL, find_experiment, is_deleted
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

START_TIMEOUT_SECONDS = 120


def leaderboard_url(home: Home, base: str, study: str | None = None) -> str:
    """Return the address of a study's leaderboard (default: the study run last).

    Raises:
        InputError: no such study, or none yet.
    """
    create_tracking_store(home)
    quiet_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=home.tracking_uri)
    everything = client.search_experiments(view_type=ALL)
    experiments = [e for e in everything if "busi.dataset" in e.tags]
    if study is not None:
        mine = _experiment_of(client, home, study)
        same = [e for e in experiments if study in (e.name, e.tags.get("busi.study"))]
        experiments = same if mine is None else [mine]
    if experiments and all(map(is_deleted, experiments)):
        names = sorted({e.tags.get("busi.study", e.name) for e in experiments})
        lines = " or ".join(f"`busi-search sync {shlex.quote(name)}`" for name in names[:3])
        raise InputError(
            f"The MLflow experiment of {', '.join(map(repr, names))} was deleted; {lines} brings "
            "it back."
        )
    experiments = [e for e in experiments if not is_deleted(e)]
    if not experiments:
        wanted = f"No study '{study}'" if study else "No study yet"
        raise InputError(f"{wanted} in {home.root}; `busi-search run` makes one.")
    latest = max(experiments, key=lambda e: e.last_update_time or 0)
    return (
        f"{base}/#/experiments/{latest.experiment_id}/runs"
        f"?workflowType=machine_learning&viewStateShareKey={LEADERBOARD_KEY}"
    )


def _experiment_of(client: "MlflowClient", home: Home, study: str) -> "Experiment | None":
    """Return the experiment of a study of this home's storage, whatever it is called now."""
    with suppress(BusiSearchError), storage_errors(home):
        return find_experiment(client, StudyRecord(find_study(home, study)), study)
    return None


def serve_ui(home: Home, *, port: int, study: str | None, open_browser: bool) -> None:
    """Serve the MLflow UI of a home on 127.0.0.1 until interrupted.

    Args:
        home: whose stores to show; a tracking server that runs elsewhere is only pointed at.
        port: TCP port.
        study: whose leaderboard to open.
        open_browser: open it, rather than only print its address.

    Raises:
        InputError: the port is taken, or there is no such study.
        BusiSearchError: the server does not start.
    """
    if home.tracking_uri.startswith(("http://", "https://")):
        _open(leaderboard_url(home, home.tracking_uri.rstrip("/"), study), open_browser)
        return
    base = f"http://127.0.0.1:{port}"
    url = leaderboard_url(home, base, study)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise InputError(f"Port {port} is taken; choose another with --port.") from None
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", home.tracking_uri, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # A session of its own: Ctrl-C reaches this process only, which then ends the server.
    server = subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_up(server, base)
        _open(url, open_browser)
        server.wait()
    finally:
        _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server and the processes that it started, which would go on without it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=4)
            return


def _wait_until_up(server: "subprocess.Popen[bytes]", base: str) -> None:
    # A proxy does not reach this machine's loopback.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise BusiSearchError(f"The MLflow server ended at once (exit {server.returncode}).")
        try:
            with direct.open(f"{base}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise BusiSearchError(f"The MLflow server did not answer within {START_TIMEOUT_SECONDS} s.")


def _open(url: str, open_browser: bool) -> None:
    print(url, flush=True)
    print("Leaderboard above; Ctrl-C ends it.", file=sys.stderr, flush=True)
    if open_browser:
        webbrowser.open(url)
