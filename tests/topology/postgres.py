"""A PostgreSQL server of the tests: Debian's programs, a folder of its own, loopback only."""

import os
import pwd
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

import pytest

from tests.ports import free_port


def binary(name: str) -> str | None:
    """Debian keeps the server's programs out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((str(f / name) for f in folders if (f / name).exists()), shutil.which(name))


class Postgres:
    """Starts, stops and restarts; ``url(database)`` is what a client types."""

    def __init__(self, *, hosts: str | None = None, durable: bool = False) -> None:
        initdb, control = binary("initdb"), binary("pg_ctl")
        if initdb is None or control is None:
            pytest.skip("PostgreSQL's server is not installed")
        # The server refuses to run as root.
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if os.geteuid() != 0:
            self._as = []
        elif "postgres" not in {user.pw_name for user in pwd.getpwall()}:
            pytest.skip("PostgreSQL will not run as root, and there is no user postgres")
        # Not in a folder of pytest's: each of its sessions closes them to others anew.
        folder = Path(tempfile.mkdtemp(prefix="busi-search-postgres-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._control, self._data, self._port = control, folder / "data", free_port()
        self._log = folder / "log"
        if self._as:
            shutil.chown(folder, "postgres", "postgres")
        self._run([initdb, "-D", str(self._data), "-E", "UTF8", "-U", "busi", "-A", "trust"])
        self._durable = durable
        self._addresses = "127.0.0.1" if hosts is None else "*"
        if hosts is not None:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {hosts} trust\n")

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(
            [*self._as, *words], cwd="/", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        sockets = (
            f"-p {self._port} -c listen_addresses='{self._addresses}' -c unix_socket_directories=''"
        )
        safety = "" if self._durable else " -c fsync=off"
        self._run([self._control, "-D", str(self._data), "-w", "-t", "300", "-l", str(self._log),
                   "-o", f"{sockets}{safety}", "start"])  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        self._run([self._control, "-D", str(self._data), "-w", "-t", "300", "-m", mode, "stop"])

    def restart(self) -> None:
        self.stop("fast")
        self.start()

    def create(self, database: str) -> str:
        import psycopg

        with psycopg.connect(self._plain("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def size_bytes(self, database: str) -> int:
        """What a database takes on the disk."""
        import psycopg

        with psycopg.connect(self._plain("postgres")) as connection:
            row = connection.execute("SELECT pg_database_size(%s)", (database,)).fetchone()
        assert row is not None
        return int(row[0])

    def num_connections(self, url: str) -> int:
        """How many connections a database has now."""
        import psycopg

        with psycopg.connect(self._plain("postgres")) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s",
                (url.rpartition("/")[2],),
            ).fetchone()
        assert row is not None
        return int(row[0])

    def _plain(self, database: str) -> str:
        return f"postgresql://busi@127.0.0.1:{self._port}/{database}"

    def url(self, database: str) -> str:
        return self._plain(database).replace("postgresql://", "postgresql+psycopg://")
