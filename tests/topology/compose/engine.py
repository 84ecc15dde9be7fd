"""Docker's engine for tests: one that runs already, or one of our own, and the base images."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
POSTGRES = """\
FROM python:3.13-slim
RUN apt-get update && apt-get install -y --no-install-recommends postgresql \\
    && rm -rf /var/lib/postgresql/*
COPY postgres_entrypoint.sh /entrypoint
STOPSIGNAL SIGINT
ENTRYPOINT ["sh", "/entrypoint"]
"""


def docker(*words: str, check: bool = True, timeout: float = 900) -> str:
    """Run the client and return what it prints."""
    done = subprocess.run(
        ["docker", *words], capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0 or not check, f"docker {' '.join(words)}: {done.stderr[-2000:]}"
    return done.stdout


def _answers() -> bool:
    return bool(docker("version", "--format", "{{.Server.Version}}", check=False).strip())


@contextlib.contextmanager
def running_engine() -> Iterator[None]:
    """Let ``docker`` and Compose find an engine: what DOCKER_HOST names, or one of our own."""
    if shutil.which("docker") is None:
        pytest.skip("Docker is not installed")
    if _answers():
        yield
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("no Docker engine runs, and none can be started")
    folder = Path(tempfile.mkdtemp(prefix="busi-search-engine-"))
    with (folder / "log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{folder}/socket")
        # A process group of its own: Ctrl-C is ours, and so are its children.
        engine = subprocess.Popen(
            ["dockerd", "-H", f"unix://{folder}/socket", "--data-root", str(folder / "data"),
             "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not _answers():
                if engine.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"dockerd did not start: {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.5)
            yield
        finally:
            engine.send_signal(signal.SIGTERM)
            engine.wait(timeout=90)
            shutil.rmtree(folder, ignore_errors=True)


def ensure_base_images() -> None:
    """Have ``python:3.13-slim`` and ``postgres:18``: pulled, or made of Debian's packages."""
    for name, make in (("python:3.13-slim", _make_python), ("postgres:18", _make_postgres)):
        if docker("image", "inspect", name, check=False).strip() not in ("", "[]"):
            continue
        done = subprocess.run(["docker", "pull", name], capture_output=True, check=False)
        if done.returncode != 0:
            make(name)


def _make_python(name: str) -> None:
    if shutil.which("debootstrap") is None:
        pytest.skip(f"{name} can neither be pulled nor made: debootstrap is not installed")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(root)],
            check=True, capture_output=True, timeout=900,
        )  # fmt: skip
        # As in the official image: `python`, and pip installs where it is told.
        (root / "usr/bin/python").symlink_to("python3")
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        # Whatever this machine trusts, an image that is built here must trust.
        shutil.copy(BUNDLE, root / str(BUNDLE).lstrip("/"))
        tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "import", "--change", f"ENV SSL_CERT_FILE={BUNDLE}", "-", name],
            stdin=tar.stdout, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        assert tar.wait() == 0


def _make_postgres(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "postgres_entrypoint.sh", folder)
        (Path(folder) / "Dockerfile").write_text(POSTGRES)
        docker("build", "-q", "-t", name, folder)
