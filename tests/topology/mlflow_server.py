"""An MLflow tracking server as a team runs it: a database behind it, passwords, artifacts."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

from tests.ports import free_port

# What the container runs.
SCRIPT = Path(__file__).parents[2] / "docker/mlflow-server.sh"
USER, PASSWORD = "admin", "a-long-password-of-the-tests"


class MlflowServer:
    """Starts with basic authentication; ``uri`` is what a client is told."""

    def __init__(self, folder: Path, *, runs: str, users: str, host: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.uri = f"http://{host}:{port}"
        self._log = (folder / "log").open("wb")
        binaries = Path(sys.executable).parent
        self._process = subprocess.Popen(
            ["sh", str(SCRIPT)],
            env={
                **os.environ,
                "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
                "MLFLOW_HOST": host,
                "MLFLOW_PORT": str(port),
                "MLFLOW_WORKERS": "1",
                "MLFLOW_BACKEND_STORE_URI": runs,
                "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-tests",
                "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
                "BUSI_SEARCH_USERS_URI": users,
            },
            cwd=folder, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self._wait(300)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            if self.status_of("/health") == 200:
                return
            assert self._process.poll() is None, Path(self._log.name).read_text()
            assert time.monotonic() < deadline, Path(self._log.name).read_text()
            time.sleep(0.5)

    def status_of(self, path: str) -> int:
        """Return the HTTP status of a call without a password; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(self.uri + path, timeout=60) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, OSError):
            return 0

    def lines_about(self, *words: str) -> list[str]:
        """Return the lines of the log that hold one of the words."""
        lines = Path(self._log.name).read_text().splitlines()
        return [line for line in lines if any(word in line for word in words)]

    def stop(self) -> None:
        # With its workers, which it started in its own session.
        os.killpg(self._process.pid, 15)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._log.close()
