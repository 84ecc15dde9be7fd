"""Where things are kept: one folder with the stores, the artifacts and the caches."""

import logging
import os
import sqlite3
import tempfile
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from busi_search.errors import InputError, TrackingAway
from busi_search.files import ensure_temporary_room, is_temporary_name, user_path
from busi_search.interrupts import interrupts_wait
from busi_search.relocation import relocate_artifacts

TRACKING_DATABASE = "mlflow.db"
UNFINISHED_DATABASE = f"{TRACKING_DATABASE}.tmp"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# What busi-search makes below the cache.
CACHE_FOLDERS = ("images", "groups", "files", "features", "weights", "known_images", "tmp")
# What SQLAlchemy reads in the path of a database as something else.
_NOT_IN_PATHS = "?%"


@dataclass(frozen=True)
class Home:
    """The folder that holds a machine's results, and the addresses of its two stores."""

    root: Path
    tracking_uri: str
    storage_url: str

    @property
    def cache(self) -> Path:
        """Folder of everything that can be computed again."""
        return self.root / "cache"

    @property
    def temporary(self) -> Path:
        """Folder of temporary files where the system's own has no room."""
        return self.cache / "tmp"

    @property
    def cache_folders(self) -> list[Path]:
        """The folders of the cache; whatever else lies beside them is not busi-search's."""
        return [self.cache / name for name in CACHE_FOLDERS]

    @property
    def has_local_storage(self) -> bool:
        """Whether the Optuna storage is the SQLite file of this home."""
        return self.storage_url.startswith("sqlite:")

    @property
    def artifact_location(self) -> str | None:
        """URI under which a local tracking store keeps artifacts; None leaves it to the server."""
        if self.tracking_uri.startswith("sqlite:"):
            return (self.root / "artifacts").as_uri()
        return None

    @property
    def tracking_database(self) -> Path | None:
        """The SQLite file of a local tracking store; None where a server keeps it."""
        path = self.tracking_uri.removeprefix("sqlite:///")
        return Path(path) if path != self.tracking_uri else None

    @property
    def has_own_tracking(self) -> bool:
        """Whether the tracking store is the SQLite file of this home."""
        return self.tracking_database == self.root / TRACKING_DATABASE

    def writing(self) -> AbstractContextManager[None]:
        """Let short writes to a local tracking store end before an interrupt is raised."""
        return nullcontext() if self.tracking_database is None else interrupts_wait()

    def study_folder(self, name: str) -> Path:
        """Folder of one study's locks and local files."""
        return self.root / "studies" / name

    def audit_folder(self, name: str) -> Path:
        """Folder of the repeated searches of a study's audits, and of their own storage."""
        return self.study_folder(name) / "audit"


def open_home(
    root: str | Path | None = None, *, tracking_uri: str | None = None, storage: str | None = None
) -> Home:
    """Return the home at ``root`` (default ``./mlruns``), creating the folder.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    folder = user_path(root if root is not None else "mlruns").resolve()
    if (tracking_uri is None or storage is None) and any(c in str(folder) for c in _NOT_IN_PATHS):
        raise InputError(
            f"The home {folder} has a ? or % in its path, which the addresses of databases cannot "
            "hold; choose another with --home DIR, or rename the folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"The home {folder} cannot be written to ({error.strerror}); "
            "choose another with --home DIR."
        ) from None
    home = Home(
        root=folder,
        tracking_uri=tracking_uri or f"sqlite:///{folder / TRACKING_DATABASE}",
        storage_url=_with_driver(storage or f"sqlite:///{folder / 'optuna.db'}"),
    )
    ensure_temporary_room(home.temporary)
    return home


def _with_driver(url: str) -> str:
    """Name the driver that is used, where only the kind of database is named."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgresql", "postgres") else url


def without_password(url: str) -> str:
    """Return ``url`` with the password, if any, replaced by ``***``."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))


def quiet_mlflow() -> None:
    """Set MLflow's switches for a tool that works offline and prints its own lines."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow's own seven retries of two minutes each would hold a command up for a quarter hour.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    reach_loopback_directly()
    for name in ("mlflow", "alembic", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"mlflow(\..*)?")


def reach_loopback_directly() -> None:
    """Let no proxy stand between this process, or one that it starts, and this machine."""
    for variable in ("NO_PROXY", "no_proxy"):
        listed = [part for part in os.environ.get(variable, "").split(",") if part.strip()]
        missing = [] if "*" in listed else [name for name in LOOPBACK if name not in listed]
        if missing:
            os.environ[variable] = ",".join([*listed, *missing])


def create_tracking_store(home: Home) -> None:
    """Create or migrate the tracking database, once, before any other process opens it.

    Raises:
        TrackingAway: the tracking store cannot be reached or opened.
    """
    from filelock import FileLock

    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with FileLock(home.root / "mlflow.lock"):
            if home.tracking_database is not None and not home.tracking_database.exists():
                _create_database(home.tracking_database, (home.root / "artifacts").as_uri())
            elif home.has_own_tracking:
                with suppress(sqlite3.Error):  # MLflow says what is wrong with it.
                    relocate_artifacts(home.root / TRACKING_DATABASE, home.root / "artifacts")
            MlflowClient(tracking_uri=home.tracking_uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingAway(
            f"The tracking store {without_password(home.tracking_uri)} cannot be opened: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _create_database(database: Path, artifacts: str) -> None:
    """Make MLflow's SQLite database under another name first: half of its tables is unusable."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    unfinished = database.with_name(UNFINISHED_DATABASE)
    unfinished.unlink(missing_ok=True)
    unfinished.with_name(f"{unfinished.name}-journal").unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts)  # type: ignore[no-untyped-call]
    store.engine.dispose()
    os.replace(unfinished, database)


def own_temporaries(home: Home) -> list[Path]:
    """Return the temporary files that processes of busi-search have, or left, on a home.

    Known by place and name: a home may lie in a folder with other things, such as a project's.
    """
    folders = [*home.cache_folders, home.root / "known_images", home.root / "known_images/studies"]
    found = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    found = [path for path in found if is_temporary_name(path.name)]
    unfinished = (home.root / f"{UNFINISHED_DATABASE}{end}" for end in ("", "-journal"))
    return [path for path in (*found, *unfinished) if path.is_file() and not path.is_symlink()]


def damage_of(database: Path) -> str | None:
    """Return the first thing SQLite finds wrong with a database file, or None.

    A missing file is not damaged.
    """
    if not database.exists():
        return None
    try:
        connection = sqlite3.connect(database, timeout=60)
        try:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)
    return None if answer == "ok" else " ".join(str(answer).split())
