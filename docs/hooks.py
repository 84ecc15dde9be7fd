"""What the site shows beside the files of this folder; MkDocs calls these functions.

The front page, the measurements and the changelog lie outside docs/; the options of every command
and the keys of a study file are asked of the code itself, so that they cannot go stale. Those keys
stand in reference/study-file.md too, for those who read it in the repository:

    uv run python docs/hooks.py

writes them there.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import plotly.graph_objects as go
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from busi_search.cli import main
from busi_search.cli.global_options import GLOBAL_OPTIONS
from busi_search.spec.documentation import written
from busi_search.spec.explanation import Explanation, explain_section

ROOT = Path(__file__).resolve().parents[1]
# Files outside docs/ and the page of the site that each becomes.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "studies/RESULTS.md": "measured/real-images.md",
    "benchmarks/RESULTS.md": "measured/speed.md",
}
STUDY_FILE = "reference/study-file.md"
TUTORIAL = "how-to/tutorial.ipynb"
TUTORIAL_PAGE = "how-to/tutorial.md"
PLOTLY = "application/vnd.plotly.v1+json"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files elsewhere in the repository, and the tutorial as a page."""
    tutorial = notebook_markdown((ROOT / "docs" / TUTORIAL).read_text(encoding="utf-8"))
    files.append(File.generated(config, TUTORIAL_PAGE, content=tutorial))
    for source, page in ELSEWHERE.items():
        content = _moved_links((ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=content))
    return files


def _moved_links(text: str) -> str:
    """Turn links to files outside docs/ into links to their pages."""
    for source, page in ELSEWHERE.items():
        text = text.replace(f"]({source})", f"]({page})")
        text = text.replace(f"](../../{source})", f"](../{page})")
    return text.replace("](docs/", "](").replace("tutorial.ipynb)", "tutorial.md)")


def notebook_markdown(text: str) -> str:
    """Return a notebook as Markdown: its cells, code in fences, and the output they gave.

    Args:
        text: of the .ipynb file.
    """
    parts, has_plotly = list[str](), False
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            parts.append(_output_markdown(output, with_library=not has_plotly))
            has_plotly = has_plotly or PLOTLY in output.get("data", {})
    parts.insert(1, "[The notebook itself](tutorial.ipynb), to run it.")
    return "\n\n".join(parts)


def _output_markdown(output: dict[str, Any], *, with_library: bool) -> str:
    """Return what a cell gave: a figure, a table or text."""
    data = output.get("data", {})
    if PLOTLY in data:
        figure = go.Figure(data[PLOTLY])
        return figure.to_html(full_html=False, include_plotlyjs=with_library)
    if "text/html" in data:
        # Lines that are empty or indented would end a block of HTML, or become code.
        lines = (line.strip() for line in "".join(data["text/html"]).splitlines())
        return "\n".join(filter(None, lines))
    written = data.get("text/plain", output.get("text", ""))
    return f"```text\n{''.join(written).rstrip()}\n```"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the help of every command below its page, and the keys of a study file into theirs."""
    del config, files
    if page.file.src_uri == STUDY_FILE:
        return _moved_links(with_key_tables(markdown))
    if page.file.src_uri != "reference/command-line.md":
        return markdown if page.file.src_uri == TUTORIAL_PAGE else _moved_links(markdown)
    sections = [_section(name, command) for name, command in list_commands(main)]
    return "\n\n".join([markdown, "## Every command and its options", *sections])


def with_key_tables(markdown: str) -> str:
    """Return a page with a new table between each pair of comments that name a section."""
    return re.sub(
        r"(<!-- keys of (\w+).*?-->\n).*?(<!-- end of keys -->)",
        lambda found: f"{found[1]}\n{_key_table(found[2])}\n\n{found[3]}",
        markdown,
        flags=re.DOTALL,
    )


def _key_table(section: str) -> str:
    rows = [_key_row(explanation) for explanation in explain_section(section)]
    return "\n".join(["| key | meaning | values | default |", "|---|---|---|---|", *rows])


def _key_row(found: Explanation) -> str:
    default = "required" if found.required else found.reason
    if found.default is not None:
        default = f"`{written(found.default)}`: {found.reason}"
    values = found.values if found.unit in ("", "none") else f"{found.values}; {found.unit}"
    cells = [f"`{found.name}`", " ".join(found.meaning.split()), values, default]
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def list_commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, groups left out, their commands taken in."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{name} is listed"
        if isinstance(command, click.Group):
            yield from list_commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _section(name: str, command: click.Command) -> str:
    """Return one command as Markdown: what it does, how it is written, its options."""
    context = click.Context(command, info_name=f"busi-search {name}")
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\nExample:")
    lines = [f"### busi-search {name}", text.strip()]
    written = ["busi-search", name, *command.collect_usage_pieces(context)]
    example = inspect.cleandoc(example)
    lines.append(f"```bash\n{' '.join(written)}\n\n# such as\n{example}\n```")
    # What every command takes stands once, at the head of the page.
    options = [
        parameter
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and parameter not in GLOBAL_OPTIONS
    ]
    records = filter(None, [option.get_help_record(context) for option in options])
    rows = [f"| `{_cell(flag)}` | {_cell(text)} |" for flag, text in records]
    lines.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show Sphinx's roles and double colons, which the docstrings use, as what they stand for."""
    del config, files
    if page.file.src_uri != "reference/python.md":
        return html
    html = re.sub(r":(?:func|meth|class):(<code>)", r"\1", html)
    return html.replace("::</p>", ":</p>")


if __name__ == "__main__":
    page = ROOT / "docs" / STUDY_FILE
    page.write_text(with_key_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
