"""The proof, in small: a cluster, four ways to lose something, and nothing is lost."""

import os
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.topology.nodes import can_make_networks
from tests.topology.proof import build, prove

pytest.importorskip("flask_wtf", reason="MLflow's passwords need mlflow[auth]")
if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)


@pytest.mark.slow
def test_a_cluster_that_is_mistreated_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "BUSI_SEARCH_"))]:
        monkeypatch.delenv(name)
    with ExitStack() as stack:
        topology = build(tmp_path, stack, num_nodes=1 if can_make_networks() else 0)
        for name, value in topology.environment.items():
            monkeypatch.setenv(name, value)
        figures = prove(topology, num_trials=14, num_joined=2)
    assert len(figures.faults) == (4 if topology.cluster.nodes else 2)
