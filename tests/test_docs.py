import html
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import nbformat
import pytest

import busi_search
from busi_search.spec import Gate, Hyperparameters, StudySection, StudySpec
from busi_search.study_files import list_bundled
from docs import hooks, tutorial
from tests.test_cli import _commands

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs/how-to/tutorial.ipynb"


def test_every_command_and_option_of_run_is_documented() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text()
    for name, _ in _commands():
        if name != "data":
            assert f"busi-search {name}" in page
    for parameter in dict(_commands())["run"].params:
        if parameter.param_type_name == "option":
            assert any(option in page for option in parameter.opts), parameter.name


def test_every_key_of_a_study_file_is_documented() -> None:
    page = (ROOT / "docs/reference/study-file.md").read_text()
    for name in (*Hyperparameters.model_fields, *StudySection.model_fields):
        assert f"`{name}`" in page


def test_the_keys_of_a_study_file_are_those_of_the_code() -> None:
    page = ROOT / "docs" / hooks.STUDY_FILE
    sections = re.findall(r"<!-- keys of (\w+)", page.read_text())
    assert sections == list(StudySpec.model_fields)
    assert page.read_text() == hooks.with_key_tables(page.read_text()), (
        "docs/reference/study-file.md is stale; write it anew: uv run python docs/hooks.py"
    )


def test_a_stale_table_is_written_anew() -> None:
    page = "before\n<!-- keys of gate (…) -->\n| stale |\n<!-- end of keys -->\nafter\n"
    written = hooks.with_key_tables(page)
    assert written.startswith("before\n<!-- keys of gate (…) -->\n")
    assert written.endswith("<!-- end of keys -->\nafter\n")
    assert "stale" not in written
    assert [row.split("`")[1] for row in written.splitlines() if "| `" in row] == list(
        Gate.model_fields
    )


def test_the_readme_is_short_and_ci_runs_its_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) < 80
    assert "    pip install uv && uv run busi-search run --trials 100\n" in readme
    command = "pip install uv && uv run pytest"
    assert f"    {command}\n" in readme
    assert f"\n{command}\n" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def rooms_drawn(page: str) -> dict[str, set[str]]:
    """Return the modules that the picture of the house draws, by folder."""
    picture = page.split("```")[1]
    rooms: dict[str, set[str]] = {}
    path: list[tuple[int, str]] = []
    for line in picture.splitlines():
        indent = len(line) - len(line.lstrip())
        if found := re.match(r"\s*(\w+)/(\s|$)", line):
            path = [entry for entry in path if entry[0] < indent]
            path.append((indent, found.group(1)))
        folder = "/".join(name for depth, name in path if depth < indent or f"{name}/" in line)
        rooms.setdefault(folder, set()).update(re.findall(r"\b(\w+)\.py\b", line))
    return {folder: names for folder, names in rooms.items() if names}


def test_the_picture_of_the_house_is_true() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    built: dict[str, set[str]] = {}
    for path in (ROOT / "busi_search").rglob("*.py"):
        if path.name != "__init__.py":
            folder = path.parent.relative_to(ROOT).as_posix()
            built.setdefault(folder, set()).add(path.stem)
    assert rooms_drawn(page) == built


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built as strictly as MkDocs can."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    words += ["--config-file", ROOT / "mkdocs.yml"]
    done = subprocess.run(
        words, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_has_a_section_for_every_command_and_option(site: Path) -> None:
    page = (site / "reference/command-line.html").read_text()
    for name, command in _commands():
        if isinstance(command, click.Group):
            continue
        (section,) = re.findall(
            rf'<h3 id="busi-search-{name.replace(" ", "-")}">.*?(?=<h3|</article>)', page, re.S
        )
        assert f"busi-search {name}" in section
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in section, f"{name} {parameter.opts[0]}"


def test_the_site_describes_the_public_names(site: Path) -> None:
    page = (site / "reference/python.html").read_text()
    for name in busi_search.__all__:
        assert re.search(rf'id="busi_search\.[\w.]+\.{name}"', page), name
    assert ":func:" not in page


def test_the_site_asks_no_other_host_for_anything(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert {site / "index.html", site / "changelog.html"} <= set(pages)
    for page in pages:
        text = page.read_text()
        assert not re.search(r'src="https?:|<link[^>]+href="https?:', text), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(.?https?:", sheet.read_text()), sheet


def test_the_tutorial_is_a_page_with_its_output(site: Path) -> None:
    cells = nbformat.read(TUTORIAL, as_version=4).cells
    shown = (site / "how-to/tutorial.html").read_text()
    page = html.unescape(re.sub(r"<script.*?</script>|<[^>]+>", "", shown, flags=re.S))
    for cell in cells:
        if cell.cell_type == "code":
            assert cell.source in page
    assert "called" in page
    assert shown.count("Plotly.newPlot(") >= 4
    assert (site / "how-to/tutorial.ipynb").read_text() == TUTORIAL.read_text()


def test_the_tutorial_is_stored_with_the_output_of_its_cells() -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    again = "the tutorial changed; run it again: uv run python docs/tutorial.py"
    assert notebook.metadata[tutorial.DIGEST] == tutorial.sources_digest(notebook), again
    assert all(tutorial.structure(notebook)), again
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"], again
    stored = TUTORIAL.read_text()
    assert len(stored) < 400_000
    assert str(ROOT) not in stored
    assert not re.search(r"/(home|root|tmp|Users)/", stored)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    stored = tutorial.structure(notebook)
    tutorial.run(notebook, tmp_path)
    assert tutorial.structure(notebook) == stored
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert len(figures) == 4
    assert sum(output.get("text", "").count(" called ") for output in outputs) == 6
    assert (tmp_path / "report.html").stat().st_size > 1_000_000
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 1 + 8


@pytest.mark.slow
def test_an_installed_wheel_brings_the_studies(tmp_path: Path) -> None:
    subprocess.run(["uv", "build", "--wheel", "-o", tmp_path, ROOT], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import busi_search\n"
        "from busi_search.study_files import bundled_studies, list_bundled, load_spec\n"
        "assert 'site' in busi_search.__file__, busi_search.__file__\n"
        "assert 'site' in str(bundled_studies())\n"
        "print(' '.join(load_spec(n)[1][:0] + n for n in list_bundled()))"
    )
    done = subprocess.run(
        ["uv", "run", "--project", ROOT, "python", "-c", code],
        check=False, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.split() == list_bundled(), done.stderr
