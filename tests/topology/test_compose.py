"""The files for Docker: read by Compose where there is one, and never open to the world."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SECRETS = ("POSTGRES_PASSWORD", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY")


def _services() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert isinstance(services, dict)
    return services


def _compose() -> list[str] | None:
    if shutil.which("docker"):
        found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if found.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.mark.parametrize(
    "files", [["docker-compose.yml"], ["docker-compose.yml", "docker/gpu.yml"]]
)
def test_compose_accepts_the_files_once_the_secrets_are_written(
    files: list[str], tmp_path: Path
) -> None:
    compose = _compose()
    if compose is None:
        pytest.skip("Docker Compose is not installed")
    words = [*compose, *(word for file in files for word in ("-f", file)), "--env-file"]
    secrets = tmp_path / "secrets"
    secrets.write_text((ROOT / "compose.env.example").read_text())
    refused = subprocess.run(
        [*words, str(secrets), "config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "write it into .env" in refused.stderr
    secrets.write_text("".join(f"{name}=x\n" for name in SECRETS))
    accepted = subprocess.run(
        [*words, str(secrets), "config", "-q"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert accepted.returncode == 0, accepted.stderr


def test_ports_are_open_on_the_loopback_only_unless_told() -> None:
    ports = [port for service in _services().values() for port in service.get("ports", [])]
    assert len(ports) == 2
    for port in ports:
        assert port.startswith("${BUSI_SEARCH_BIND:-127.0.0.1}:")


def test_no_secret_is_in_the_files_and_the_file_for_them_is_ignored() -> None:
    example = (ROOT / "compose.env.example").read_text()
    for name in SECRETS:
        assert re.search(rf"^{name}=$", example, re.MULTILINE)
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    for path in [ROOT / "docker-compose.yml", *(ROOT / "docker").rglob("*.*")]:
        if path.is_dir() or path.name == "secrets.env":
            continue
        for value in re.findall(r"(?:PASSWORD|SECRET_KEY)[ \t]*[:=][ \t]*(\S.*)", path.read_text()):
            assert value.startswith(("$", "?}")), f"{path}: {value}"


def test_what_keeps_state_has_a_volume_and_is_watched() -> None:
    services = _services()
    volumes = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"]
    for name in ("postgres", "mlflow"):
        assert "healthcheck" in services[name]
        assert services[name]["restart"] == "unless-stopped"
        named = [volume.partition(":")[0] for volume in services[name]["volumes"]]
        assert set(named) & set(volumes)
    for name in ("search", "worker"):
        assert services[name]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_images_are_built_from_pinned_versions() -> None:
    assert all(":" in service["image"] for service in _services().values() if "image" in service)
    for file in (ROOT / "docker").glob("*.Dockerfile"):
        words = file.read_text()
        assert re.search(r"^FROM python:3\.\d+-slim$", words, re.MULTILINE)
        # Nobody needs root in there.
        assert re.search(r"^USER (?!root)\w+$", words, re.MULTILINE)
        for copied in re.findall(r"^COPY ([\w./${}-]+) ", words, re.MULTILINE):
            for variant in ("cpu", "cuda"):
                assert (ROOT / copied.replace("${VARIANT}", variant)).exists()


@pytest.mark.parametrize("name", ["", "-build", "-cuda", "-mlflow"])
def test_every_version_is_pinned_with_hashes_and_no_index_is_named(name: str) -> None:
    text = (ROOT / f"docker/requirements{name}.txt").read_text()
    blocks = re.split(r"\n(?=[A-Za-z])", text)[1:]
    assert blocks
    for block in blocks:
        assert re.match(r"[\w.-]+(\[\w+\])?==[\w.!+]+", block), block
        assert "--hash=sha256:" in block, block
    assert "http" not in re.sub(r"^aiohttp.*$", "", text, flags=re.MULTILINE)
    assert "index" not in text


def test_the_images_have_what_the_package_asks_for() -> None:
    """A dependency that was added or raised asks for `sh docker/lock.sh`."""
    text = "".join((ROOT / f"docker/requirements{name}.txt").read_text() for name in ("", "-cuda"))
    pinned = dict(re.findall(r"^([\w.-]+)==([^ ;]+)", text, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]
    wanted += project["optional-dependencies"]["gpu"]
    for requirement in map(Requirement, wanted):
        version = pinned[requirement.name]
        assert requirement.specifier.contains(version), f"{requirement}: pinned {version}"
    for line in (ROOT / "docker/requirements-cpu.txt").read_text().splitlines()[1:]:
        name, _, version = line.partition("==")
        assert pinned[name] == version
