"""A Ray cluster of several nodes on one machine, each further node in a network of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.ports import free_port

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
# Ray listens to every network; without a token anybody there could run programs.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
ENVIRONMENT = {
    **os.environ,
    **TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "PYTHONUNBUFFERED": "1",
}
SUBNET = "10.209.77"


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


def can_make_networks() -> bool:
    """Return whether this user may make network namespaces; it takes root, in most places."""
    name = f"busi{os.getpid()}try"
    if shutil.which("ip") is None or _ip("netns", "add", name).returncode != 0:
        return False
    _ip("netns", "del", name)
    return True


class Node:
    """A namespace with an address of its own, reached over a pair of virtual cables."""

    def __init__(self, number: int) -> None:
        self._name, self._cable = f"busi{os.getpid() % 10_000}n{number}", f"bs{number}"
        # Of its own, so that it is another machine to whoever asks whether a worker is alive.
        self.host_name = f"node{number}"
        self.address, self.host_address = f"{SUBNET}.{4 * number + 2}", f"{SUBNET}.{4 * number + 1}"
        steps = [
            ("netns", "add", self._name),
            ("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns",
             self._name),
            ("addr", "add", f"{self.host_address}/30", "dev", self._cable),
            ("link", "set", self._cable, "up"),
            ("-n", self._name, "addr", "add", f"{self.address}/30", "dev", "eth0"),
            ("-n", self._name, "link", "set", "eth0", "up"),
            ("-n", self._name, "link", "set", "lo", "up"),
            ("-n", self._name, "route", "add", "default", "via", self.host_address),
        ]  # fmt: skip
        for step in steps:
            done = _ip(*step)
            if done.returncode != 0:
                self.remove()
                pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        self._processes: list[subprocess.Popen[bytes]] = []

    def run(self, words: list[str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._name, "unshare", "--uts", "sh", "-c",
                 'hostname "$1"; shift; exec "$@"', "sh", self.host_name, *words],
                stdout=stream, stderr=stream, env=ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def vanish(self) -> None:
        """Pull the cable: nobody is told, nothing answers any more."""
        _ip("link", "set", self._cable, "down")

    def kill_all(self) -> None:
        """Kill what runs in it."""
        for pid in _ip("netns", "pids", self._name).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> None:
        """Kill what runs in it, and take it down."""
        self.kill_all()
        _ip("netns", "del", self._name)
        _ip("link", "del", self._cable)


class RayCluster:
    """A head in the machine's own network, and nodes that join it from theirs."""

    def __init__(self, folder: Path, *, num_nodes: int, cpus: int = 1) -> None:
        pytest.importorskip("ray")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = f"/tmp/ray{os.getpid()}"
        self.nodes = [Node(number) for number in range(num_nodes)]
        # An address of its own, for those of the cables' ends go with their cables.
        self.head_address = f"{SUBNET}.254" if num_nodes else "127.0.0.1"
        if num_nodes:
            _ip("addr", "add", f"{self.head_address}/32", "dev", "lo")
        self.address = f"{self.head_address}:{free_port()}"
        self.subnet = f"{SUBNET}.0/24"
        self._head: subprocess.Popen[bytes] | None = None
        try:
            self._start_everything(folder, cpus)
        except BaseException:
            self.stop()
            raise

    def _start_everything(self, folder: Path, cpus: int) -> None:
        log = folder / "head.log"
        self._head = _start(partial(self._launch_head, log, cpus), log, self._kill_all)
        # A search places as many workers as it finds nodes when it begins.
        for number, node in enumerate(self.nodes):
            log = folder / f"node{number}.log"
            words = [*RAY, "start", "--block", f"--address={self.address}",
                     f"--node-ip-address={node.address}", f"--num-cpus={cpus}",
                     "--disable-usage-stats"]  # fmt: skip
            _start(partial(node.run, words, log), log, node.kill_all)

    def _launch_head(self, log: Path, cpus: int) -> "subprocess.Popen[bytes]":
        port = self.address.rpartition(":")[2]
        with log.open("wb") as stream:
            return subprocess.Popen(
                [*RAY, "start", "--head", "--block", f"--node-ip-address={self.head_address}",
                 f"--port={port}", f"--num-cpus={cpus}", "--include-dashboard=false",
                 "--disable-usage-stats", f"--temp-dir={self._folder}"],
                stdout=stream, stderr=stream, env=ENVIRONMENT, start_new_session=True,
            )  # fmt: skip

    def _kill_all(self) -> None:
        """Kill the head's processes; Ray's own `stop` kills by name, other clusters' too."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # These carry this cluster's folder.
                if self._folder.encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    def stop(self) -> None:
        for node in self.nodes:
            node.remove()
        self._kill_all()
        if self._head is not None:
            self._head.kill()
            self._head.wait()
        if self.nodes:
            _ip("addr", "del", f"{self.head_address}/32", "dev", "lo")
        shutil.rmtree(self._folder, ignore_errors=True)


def _start(
    launch: Callable[[], "subprocess.Popen[bytes]"], log: Path, kill_leftovers: Callable[[], None]
) -> "subprocess.Popen[bytes]":
    """Start a part of a cluster and wait until it runs.

    Ray gives itself 30 s for that, which a busy machine may exceed: then it is started again.
    """
    deadline = time.monotonic() + 300
    process = launch()
    while "Ray runtime started" not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        if process.poll() is not None:
            kill_leftovers()
            process = launch()
        time.sleep(0.2)
    return process
