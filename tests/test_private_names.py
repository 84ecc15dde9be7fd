"""No private name of Optuna or MLflow is used: their next version may do without it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import busi_search

PACKAGE = Path(busi_search.__file__).parent
LIBRARIES = ("optuna", "mlflow")
OWN = ("self", "cls")
# Public methods of named tuples, whose fields may have any other name.
NAMED_TUPLE = ("_replace", "_asdict", "_fields")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NAMED_TUPLE


def private_names(source: str) -> Iterator[str]:
    """Yield what looks private: of the two libraries, or of any object that is not the own one."""
    tree = ast.parse(source)
    others = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] not in LIBRARIES
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if _of_a_library(a.name))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from filter(_of_a_library, names)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in {*OWN, *others}):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
            if node.func.id in ("getattr", "setattr", "hasattr") and any(map(is_private, named)):
                yield ast.unparse(node)


def _of_a_library(name: str) -> bool:
    first, *parts = name.split(".")
    return first in LIBRARIES and any(map(is_private, parts))


def test_no_private_name_of_optuna_or_mlflow_is_used() -> None:
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in sorted(PACKAGE.rglob("*.py"))
        if (names := list(private_names(path.read_text())))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "from optuna.storages._heartbeat import is_heartbeat_enabled",
        "from optuna.storages import _CachedStorage",
        "import mlflow._doctor",
        "import optuna\noptuna.storages._heartbeat",
        "storage._get_stale_trial_ids(1)",
        "self._study._storage.get_trial(1)",
        "getattr(storage, '_get_trials')",
        "setattr(storage, '_get_trials', None)",
    ],
)
def test_a_private_name_would_be_found(source: str) -> None:
    assert list(private_names(source))


@pytest.mark.parametrize("source", ["import os\nos._exit(1)", "self._own", "x.__class__", "x.y"])
def test_what_is_public_or_own_is_no_private_name(source: str) -> None:
    assert list(private_names(source)) == []
