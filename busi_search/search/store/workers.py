"""Who works on which trial, by names that tell whether a process of this machine is alive."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.records import worker_of


def this_machine() -> str:
    """Return a name under which process numbers mean the same: a container is its own machine."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return platform.node()
    return f"{platform.node()}:{namespace}"


def this_worker() -> str:
    """Return the name under which this process works on trials: machine/process.start."""
    process = os.getpid()
    return f"{this_machine()}/{process}.{_start_of(process)}"


def readable_worker(name: str) -> str:
    """Return a worker's name as people know it: machine and process number."""
    machine, _, process = name.rpartition("/")
    return f"{machine.partition(':')[0]}/{process.partition('.')[0]}"


def _start_of(process: int) -> str:
    """Return when a process began, in ticks since the machine did; process numbers come again.

    Not psutil's ``create_time``: it counts from the clock on the wall, which is set now and then,
    and the names of workers are compared long after they were given.
    """
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is a name in brackets, which may hold anything; the start is the 22nd.
    return stat.rpartition(")")[2].split()[19]


def is_alive_here(name: str) -> bool | None:
    """Return whether a worker of this machine is alive, or None for one of another machine."""
    machine, _, process = name.rpartition("/")
    if machine != this_machine():
        return None
    number, _, start = process.partition(".")
    if not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start_of(int(number)) == start


def workers_of(trials: Iterable[FrozenTrial]) -> dict[str, int]:
    """Return who works on which trial, by readable name."""
    return {
        readable_worker(worker_of(trial) or "?"): trial.number
        for trial in trials
        if trial.state == TrialState.RUNNING
    }
