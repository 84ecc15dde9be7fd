"""The manifests for Kubernetes: valid, put together by kustomize, and what the stack needs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate",
    reason="run it by uv run --group manifests pytest",
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "kubernetes"
MANIFESTS = [path for path in sorted((FOLDER / "base").glob("*.yaml")) if "kustom" not in path.stem]


def _documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def _validate(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_fits_the_schema(path: Path) -> None:
    documents = _documents(path.read_text())
    assert documents
    for document in documents:
        _validate(document)


def test_a_wrong_key_does_not_fit_the_schema() -> None:
    (job,) = _documents((FOLDER / "base/workers.yaml").read_text())
    job["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        _validate(job)


def _rendered(which: str, tmp_path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    words = next(
        (words for words in (["kustomize", "build"], ["kubectl", "kustomize"])
         if shutil.which(words[0])),
        None,
    )  # fmt: skip
    if words is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    shutil.copytree(FOLDER, tmp_path / "kubernetes", dirs_exist_ok=True)
    example = (FOLDER / "base/secrets.env.example").read_text()
    (tmp_path / "kubernetes/base/secrets.env").write_text(example.replace("=", "=x"))
    done = subprocess.run(
        [*words, str(tmp_path / "kubernetes" / which)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    documents = _documents(done.stdout)
    for document in documents:
        _validate(document)
    return {(d["kind"], re.sub("-[a-z0-9]{10}$", "", d["metadata"]["name"])): d for d in documents}


def _container(document: dict[str, Any]) -> dict[str, Any]:
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("which", ["base", "gpu"])
def test_kustomize_puts_together_stores_driver_and_workers(which: str, tmp_path: Path) -> None:
    found = _rendered(which, tmp_path)
    wanted = {("StatefulSet", "postgres"), ("Deployment", "mlflow"), ("Job", "search"),
              ("Job", "workers"), ("Secret", "busi-search"), ("ConfigMap", "search")}  # fmt: skip
    assert wanted <= set(found)
    assert {d["metadata"].get("namespace", "busi-search") for d in found.values()} == {
        "busi-search"
    }
    worker = _container(found["Job", "workers"])
    assert worker["image"].startswith("ghcr.io/")
    assert (worker["resources"]["limits"].get("nvidia.com/gpu") == 1) == (which == "gpu")
    assert ("cuda" in worker["args"]) == (which == "gpu")
    # What the manifests name exists: the secret under the name that kustomize gave it.
    secret = found["Secret", "busi-search"]["metadata"]["name"]
    for key in (("StatefulSet", "postgres"), ("Deployment", "mlflow"), ("Job", "search")):
        for variable in _container(found[key])["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is not None:
                assert reference["name"] == secret
                assert reference["key"] in found["Secret", "busi-search"]["data"]


def test_nothing_of_ours_runs_as_root_and_nothing_is_open_to_the_world() -> None:
    documents = [d for path in MANIFESTS for d in _documents(path.read_text())]
    for document in documents:
        if document["kind"] == "Service":
            assert document["spec"].get("type", "ClusterIP") == "ClusterIP"
        if document["kind"] in ("Job", "Deployment"):
            assert document["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
            assert _container(document)["securityContext"]["allowPrivilegeEscalation"] is False


def test_it_makes_the_databases_that_compose_makes() -> None:
    config, *_ = _documents((FOLDER / "base/postgres.yaml").read_text())
    assert re.findall("CREATE.*;", config["data"]["databases.sql"]) == re.findall(
        "CREATE.*;", (ROOT / "docker/databases.sql").read_text()
    )
