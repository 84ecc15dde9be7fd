"""Every argument of the Python interface is explained where it is."""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

# What the page for one image asks of a model; not meant for others.
INNER = {"find_sealed", "settle_sealed"}
PAGE = Path(__file__).resolve().parents[1] / "docs/reference/python.md"


def _public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every function, and every public method of a class, that the page shows."""
    for name in re.findall(r"^::: (\S+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        module, _, last = name.rpartition(".")
        try:
            found = getattr(import_module(module), last)
        except AttributeError:
            continue
        if inspect.isfunction(found):
            yield name, found
        elif inspect.isclass(found):
            for method, function in inspect.getmembers(found, inspect.isfunction):
                if not method.startswith("_") and method not in INNER and _is_ours(function):
                    yield f"{name}.{method}", function


def _is_ours(function: Callable[..., Any]) -> bool:
    return function.__module__.startswith("busi_search.")


@pytest.mark.parametrize(("name", "function"), list(_public()), ids=[n for n, _ in _public()])
def test_every_argument_is_explained(name: str, function: Callable[..., Any]) -> None:
    text = inspect.getdoc(function) or ""
    _, _, listed = text.partition("Args:\n")
    for parameter in inspect.signature(function).parameters:
        if parameter not in ("self", "cls"):
            pattern = rf"^    (?:\w+, )*{parameter}(?:, \w+)*: \S"
            assert re.search(pattern, listed, re.MULTILINE), f"{name}: {parameter}"


def test_functions_are_found() -> None:
    names = [name for name, _ in _public()]
    assert "busi_search.run.run_study" in names
    assert "busi_search.report.study_view.Study.report" in names
    assert len(names) > 10
