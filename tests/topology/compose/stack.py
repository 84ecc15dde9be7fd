"""The stack of docker-compose.yml, as the file stands: built, started, mistreated, looked at."""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from busi_search.home import Home, open_home
from tests.topology.compose.engine import docker

ROOT = Path(__file__).parents[3]
NAME = "compose-proof"
SECRETS = ("POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")
STUDY = """\
[study]
startup_trials = 8
recipes = []

[dataset]
source = "phantom"
phantom_num_images = 90
image_size_pixels = 28
num_folds = 3

[hyperparameters]
architecture = "small_cnn"
epochs = 10

[space]
learning_rate = { low = 1e-4, high = 3e-2, log = true }
dropout = { low = 0.0, high = 0.6 }
"""
# Counts every write of a fold's result, whoever makes it.
WATCH = """
CREATE TABLE IF NOT EXISTS fold_writes (trial_id INTEGER, key TEXT);
CREATE OR REPLACE FUNCTION note_fold() RETURNS trigger AS $$
BEGIN
    INSERT INTO fold_writes VALUES (NEW.trial_id, NEW.key);
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE OR REPLACE TRIGGER note_fold AFTER INSERT OR UPDATE ON trial_user_attributes
    FOR EACH ROW WHEN (NEW.key ~ '^fold[0-9]+$') EXECUTE FUNCTION note_fold();
"""


def compose_words() -> list[str]:
    """Return how Compose is called here: version 2, or Debian's version 1."""
    if shutil.which("docker"):
        found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        pytest.skip("Docker Compose is not installed")
    return ["docker-compose"]


@dataclass(frozen=True)
class Stack:
    """A started stack; ``secrets`` maps the names in ``.env`` to their values."""

    folder: Path
    secrets: Mapping[str, str]

    def compose(self, *words: str, check: bool = True) -> str:
        """Call Compose and return what it prints."""
        done = subprocess.run(
            [*compose_words(), "-p", "busi-search-proof", "--env-file", str(self.folder / "env"),
             *words],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=1800,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def up(self, *, num_workers: int) -> None:
        """Start what is not running, once the stores are healthy."""
        self.compose("up", "-d", "--scale", f"worker={num_workers}")

    def containers(self, service: str) -> list[str]:
        """Return the ids of a service's containers, those that ended too."""
        every = ["-a"] if compose_words()[0] == "docker" else []
        return self.compose("ps", *every, "-q", service).split()

    def state(self, container: str, field: str) -> str:
        """Return a field of a container's state, such as ``Pid`` or ``ExitCode``."""
        return docker("inspect", "--format", f"{{{{.State.{field}}}}}", container).strip()

    def kill(self, service: str) -> None:
        """Kill the first process of a service as the kernel would; its policy restarts it."""
        for container in self.containers(service):
            pid = int(self.state(container, "Pid"))
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
                return
        pytest.fail(f"no container of {service} runs")

    def home(self) -> Home:
        """Return the stack's stores as a client on this machine reaches them."""
        os.environ["PGPASSWORD"] = self.secrets["POSTGRES_PASSWORD"]
        os.environ["MLFLOW_TRACKING_USERNAME"] = "admin"
        os.environ["MLFLOW_TRACKING_PASSWORD"] = self.secrets["MLFLOW_TRACKING_PASSWORD"]
        return open_home(
            self.folder / "look",
            storage="postgresql+psycopg://busi@127.0.0.1/optuna",
            tracking_uri="http://127.0.0.1:5000",
        )

    def sql(self, text: str) -> list[tuple[object, ...]]:
        """Run SQL in the database of the search."""
        password = self.secrets["POSTGRES_PASSWORD"]
        with psycopg.connect(
            host="127.0.0.1", user="busi", dbname="optuna", password=password
        ) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description is not None else []

    def wait_for_search(self, *, seconds: float) -> None:
        """Wait until the driver has released the winner and ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            (driver,) = self.containers("search")
            if self.state(driver, "Status") == "exited" and self.state(driver, "ExitCode") == "0":
                return
            time.sleep(2)
        pytest.fail(self.compose("logs", "--tail=60"))


def prepare_stack(folder: Path, *, num_trials: int, grace_seconds: int, variant: str) -> Stack:
    """Write the secrets, the study and the words that start it; nothing runs yet."""
    written = {name: secrets.token_hex(24) for name in SECRETS}
    images = folder / "data"
    images.mkdir()
    (images / "proof.toml").write_text(STUDY)
    images.chmod(0o755)
    lines = [f"{name}={value}" for name, value in written.items()] + [
        f"BUSI_SEARCH_RUN=/data/proof.toml --trials {num_trials}",
        f"BUSI_SEARCH_NAME={NAME}",
        f"BUSI_SEARCH_DATA={images}",
        f"BUSI_SEARCH_GRACE_SECONDS={grace_seconds}",
        f"BUSI_SEARCH_VARIANT={variant}",
    ]
    (folder / "env").write_text("\n".join(lines) + "\n")
    (folder / "env").chmod(0o600)
    return Stack(folder, written)
