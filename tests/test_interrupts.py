import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from busi_search.cli.base import on_stop
from busi_search.errors import Interrupted
from busi_search.home import open_home
from busi_search.interrupts import interrupt, interrupts_wait
from busi_search.models.registry import open_registry


@pytest.fixture
def stopped_by_sigterm() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    on_stop(lambda: "stopped")
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_an_interrupt_comes_at_once_where_nothing_is_written() -> None:
    with pytest.raises(Interrupted, match="now"):
        interrupt(Interrupted("now"))


def test_an_interrupt_waits_for_the_outermost_write() -> None:
    done = []

    def write() -> None:
        with interrupts_wait():
            with interrupts_wait():
                interrupt(Interrupted("later"))
                done.append("inner")
            done.append("outer")

    with pytest.raises(Interrupted, match="later"):
        write()
    assert done == ["inner", "outer"]
    with interrupts_wait():
        pass


def test_another_threads_writes_hold_nothing_back() -> None:
    inside, leave = threading.Event(), threading.Event()

    def write() -> None:
        with interrupts_wait():
            inside.set()
            leave.wait(300)

    thread = threading.Thread(target=write)
    thread.start()
    inside.wait(300)
    with pytest.raises(Interrupted):
        interrupt(Interrupted("now"))
    leave.set()
    thread.join()


@pytest.mark.usefixtures("stopped_by_sigterm")
def test_a_commit_that_is_interrupted_ends_and_leaves_no_lock(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    client = open_registry(home)
    run_id = client.create_run("0").info.run_id

    def strike(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    event.listen(Engine, "commit", strike, once=True)
    with pytest.raises(Interrupted, match="stopped"), home.writing():
        client.log_metric(run_id, "loss", 1.0)
    assert home.tracking_database is not None
    with closing(sqlite3.connect(home.tracking_database, timeout=0)) as other:
        # Refused at once while a transaction that was left open holds the lock.
        other.execute("BEGIN IMMEDIATE")
    client.set_terminated(run_id, "KILLED")
    assert client.get_run(run_id).data.metrics == {"loss": 1.0}
