"""What a project has beside its code: license, citation, guides, issue forms, workflows."""

import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / ".github/workflows"
FORMS = ROOT / ".github/ISSUE_TEMPLATE"
GUIDES = ("CONTRIBUTING.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md")
HOME_PAGE = "https://github.com/busi-search/busi-search"


def _project() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(project, dict)
    return project


def _yaml(path: Path) -> dict[str, Any]:
    """Contents of a YAML file; a workflow's bare key ``on`` is read as True."""
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def _commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def _actions(job: dict[str, Any]) -> list[str]:
    return [step["uses"] for step in job["steps"] if "uses" in step]


def test_license_version_and_authors_agree() -> None:
    project, citation = _project(), _yaml(ROOT / "CITATION.cff")
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert project["license"] == citation["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert citation["version"] == project["version"]
    names = [author["name"] for author in project["authors"]]
    assert [author["name"] for author in citation["authors"]] == names
    for name in names:
        assert f"Copyright (c) 2026 {name}\n" in (ROOT / "LICENSE").read_text()


def test_the_citation_has_what_its_format_requires() -> None:
    citation = _yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"


def test_every_address_of_the_project_is_the_same() -> None:
    citation = _yaml(ROOT / "CITATION.cff")
    assert citation["repository-code"] == _project()["urls"]["Repository"] == HOME_PAGE
    texts = [ROOT / name for name in GUIDES] + list(FORMS.iterdir())
    addresses = list(_project()["urls"].values())
    for path in texts:
        addresses += re.findall(r"https://github\.com/[^\s)]+", path.read_text())
    for address in addresses:
        assert address == HOME_PAGE or address.startswith(f"{HOME_PAGE}/"), address


def test_python_versions_are_those_that_are_tested() -> None:
    project = _project()
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    first, last = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    assert named == [f"3.{minor}" for minor in range(int(first), int(last))]
    jobs = _yaml(WORKFLOWS / "ci.yml")["jobs"]
    tested = [
        jobs["everything"]["env"]["UV_PYTHON"],
        *jobs["quick"]["strategy"]["matrix"]["python"],
    ]
    assert tested == named


@pytest.mark.parametrize("guide", GUIDES)
def test_links_of_the_guides_lead_somewhere(guide: str) -> None:
    page = ROOT / guide
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{guide} links to {target}"


def test_issue_forms_ask_for_something_and_name_each_answer_once() -> None:
    for name in ("bug_report.yml", "feature_request.yml"):
        form = _yaml(FORMS / name)
        assert form["name"]
        assert form["description"]
        asked = [field for field in form["body"] if field["type"] != "markdown"]
        assert all(field["attributes"]["label"] for field in asked)
        assert len({field["id"] for field in asked}) == len(asked)
        assert any(field.get("validations", {}).get("required") for field in asked)
    (contact,) = _yaml(FORMS / "config.yml")["contact_links"]
    assert contact["url"] in (ROOT / "SECURITY.md").read_text()


def test_the_checks_without_tests_come_first() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    order = ["uv run ruff check .", "uv run ruff format --check .", "uv run mypy &"]
    order += ["uv run lint-imports", 'wait "$typing"', "pip install uv && uv run pytest"]
    assert [line for line in lines if line in order] == order


def test_ci_runs_the_checks_on_pushes_and_pull_requests() -> None:
    workflow = _yaml(WORKFLOWS / "ci.yml")
    # A release's tag has its own workflow, which calls this one.
    assert workflow[True]["push"] == {"branches": ["**"]}
    assert {"pull_request", "workflow_call"} <= set(workflow[True])
    assert workflow["permissions"] == {"contents": "read"}
    assert ".ci/run" in _commands(workflow["jobs"]["everything"])
    assert any('uv run pytest -m "not slow"' in c for c in _commands(workflow["jobs"]["quick"]))


def test_a_release_begins_at_a_tag_and_waits_for_the_checks() -> None:
    workflow = _yaml(WORKFLOWS / "release.yml")
    jobs = workflow["jobs"]
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["build"]["needs"] == "check"
    assert "uv build" in _commands(jobs["build"])
    for name in ("publish", "image"):
        assert jobs[name]["needs"] == "build"


def test_a_release_is_published_without_a_stored_secret() -> None:
    workflow = _yaml(WORKFLOWS / "release.yml")
    publish, image = workflow["jobs"]["publish"], workflow["jobs"]["image"]
    assert workflow["permissions"] == {}
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"]
    assert any(a.startswith("pypa/gh-action-pypi-publish@") for a in _actions(publish))
    assert image["permissions"]["id-token"] == image["permissions"]["packages"] == "write"
    assert any(a.startswith("actions/attest-build-provenance@") for a in _actions(image))
    secrets = re.findall(r"secrets\.(\w+)", (WORKFLOWS / "release.yml").read_text())
    assert set(secrets) == {"GITHUB_TOKEN"}


def test_a_release_has_an_image_of_every_dockerfile() -> None:
    matrix = _yaml(WORKFLOWS / "release.yml")["jobs"]["image"]["strategy"]["matrix"]["include"]
    files = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docker").glob("*.Dockerfile"))
    # One of them in two variants.
    assert sorted({entry["file"] for entry in matrix}) == files


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_say_what_they_may_and_whom_they_replace(name: str) -> None:
    workflow = _yaml(WORKFLOWS / name)
    # A called workflow that shares its caller's group would be cancelled by it.
    assert workflow["concurrency"]["group"].startswith(f"{name.removesuffix('.yml')}-")
    for job in workflow["jobs"].values():
        assert "permissions" in job or workflow["permissions"]
        if "steps" in job:
            assert job["timeout-minutes"]
            assert all(re.search(r"@(v\d+|release/v1)$", action) for action in _actions(job))


def test_docker_is_sent_every_file_that_its_images_copy() -> None:
    sent = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    for file in (ROOT / "docker").glob("*.Dockerfile"):
        for words in re.findall(r"^COPY (.+) \S+$", file.read_text(), re.MULTILINE):
            if words.startswith("--from="):
                continue  # of an earlier stage of the build
            for path in words.split():
                assert path.split("/")[0] in sent, f"{file.name} copies {path}"
    worker = (ROOT / "docker/worker.Dockerfile").read_text()
    for needed in ("pyproject.toml", "README.md", *_project()["license-files"]):
        assert needed in worker


@pytest.mark.slow
def test_the_distributions_hold_everything_a_user_needs(tmp_path: Path) -> None:
    # The wheel is built from the sdist, as in a release.
    subprocess.run(["uv", "build", "-o", tmp_path, ROOT], check=True, timeout=300)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        sent = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CITATION.cff", "README.md", "CHANGELOG.md", "pyproject.toml"} <= sent
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
        (license_file,) = (name for name in installed if name.endswith("/licenses/LICENSE"))
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()
    package = ROOT / "busi_search"
    for path in [*package.rglob("*"), *(ROOT / "studies").rglob("*")]:
        if path.is_file() and "__pycache__" not in path.parts:
            inside = path.relative_to(ROOT)
            if not path.is_relative_to(package):
                inside = "busi_search" / inside
            assert inside.as_posix() in installed, f"{inside} is missing from the wheel"
    assert {name.partition("/")[0] for name in installed} == {
        "busi_search", license_file.partition("/")[0],
    }  # fmt: skip
