"""Addresses of artifacts in MLflow's database of a home that was moved or copied.

MLflow keeps whole paths. A home that was moved would not find its artifacts, and a copy would write
into the original: so they follow the home, whenever its database is opened.
"""

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

# Tables and columns that hold such addresses, as far as a version of MLflow has them.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)

_ADDRESS = re.compile(
    r"(?P<folder>file:.*?/artifacts)"
    r"(/0|/[0-9a-f]{32}(/artifacts)?|/models/m-[0-9a-f]{32}(/artifacts)?)?"
)


def relocate_artifacts(database: Path, artifacts: Path) -> int:
    """Let the addresses of a home's artifacts begin with the folder where they are now.

    Nothing is done where the folder they begin with is the same one by another name (a link), or is
    none of a home's.

    Args:
        database: MLflow's, in the home.
        artifacts: folder of the home's artifacts.

    Returns:
        The number of addresses that were changed.

    Raises:
        sqlite3.Error: the database cannot be read or written to.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        before, now = _artifacts_before(connection), artifacts.as_uri()
        if before is None or before == now or _is_same_folder(before, artifacts):
            return 0
        return _replace(connection, before, now)


def addresses_elsewhere(database: Path, artifacts: Path) -> dict[str, int]:
    """Return how many addresses point to folders outside the home, by folder.

    Args: as :func:`relocate_artifacts`.
    """
    found: dict[str, int] = {}
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        for table, column in _columns(connection):
            for (address,) in connection.execute(f"SELECT {column} FROM {table}"):  # noqa: S608
                folder = _folder_of(address)
                if folder is not None and not _is_same_folder(folder, artifacts):
                    found[folder] = found.get(folder, 0) + 1
    return found


def is_there(address: str) -> bool:
    """Return whether a folder that :func:`addresses_elsewhere` found is on this machine."""
    return _path_of(address).is_dir()


def bring_home(database: Path, artifacts: Path) -> int:
    """Let every address whose files are in this home's folder, too, point there.

    Returns:
        The number of addresses that were changed.
    """
    changed = 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in _columns(connection):
            rows = connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()  # noqa: S608
            for row, address in rows:
                folder = _folder_of(address)
                if folder is None or _is_same_folder(folder, artifacts):
                    continue
                inside = address[len(folder) :]
                if not (artifacts / url2pathname(inside.lstrip("/"))).exists():
                    continue
                connection.execute(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?",  # noqa: S608
                    (artifacts.as_uri() + inside, row),
                )
                changed += 1
    return changed


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return [
        (table, column)
        for table, column in _COLUMNS
        if any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))
    ]


def _artifacts_before(connection: sqlite3.Connection) -> str | None:
    """Return the folder of artifacts that the experiments know; None if they do not agree.

    The first experiment is MLflow's own, which it makes where the database says by default.
    """
    rows = connection.execute(
        "SELECT artifact_location FROM experiments ORDER BY experiment_id"
    ).fetchall()
    found = [folder for (address,) in rows if (folder := _folder_of(address)) is not None]
    if rows and _folder_of(rows[0][0]) is not None:
        return found[0]
    return found[0] if len(set(found)) == 1 else None


def _folder_of(address: object) -> str | None:
    """Return the folder of a home's artifacts that a file's address lies in, as an address.

    A run's is ``FOLDER/RUN/artifacts``, a model's ``FOLDER/models/MODEL/artifacts``, an
    experiment's ``FOLDER`` or ``FOLDER/0``. None for an address of another kind.
    """
    text = str(address or "").rstrip("/")
    found = _ADDRESS.fullmatch(text)
    return None if found is None else found["folder"]


def _path_of(address: str) -> Path:
    return Path(url2pathname(urlsplit(address).path))


def _is_same_folder(address: str, folder: Path) -> bool:
    path = _path_of(address)
    try:
        return path == folder or os.path.samefile(path, folder)
    except OSError:
        return False


def _replace(connection: sqlite3.Connection, before: str, now: str) -> int:
    changed = 0
    for table, column in _columns(connection):
        cursor = connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
        )
        changed += cursor.rowcount
    return changed
