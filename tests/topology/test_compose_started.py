"""The containers, really built, started and mistreated; minutes, so only on request.

uv run pytest -n 0 -m exhaustive tests/topology/test_compose_started.py
"""

from pathlib import Path

import pytest

from tests.topology.compose.proof import prove_here


@pytest.mark.slow
@pytest.mark.exhaustive
def test_nothing_is_lost_doubled_or_told_whatever_happens_to_the_containers(
    tmp_path: Path,
) -> None:
    # Containers run as another user and must reach the study's file.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    figures = prove_here(tmp_path, num_trials=40, variant="cuda")
    assert figures.trials == 40
    assert (figures.lost, figures.doubled, figures.repeated) == (0, 0, 0)
    assert sum(len(done) for done in figures.faults.values()) == 8
