"""A winner that does not come out as it was scored is refused, on whatever device."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from busi_search.data.geometry import WHOLE
from busi_search.errors import BusiSearchError
from busi_search.release import rebuild


def _winner(device: str, *, deterministic: bool) -> Any:
    folds = [SimpleNamespace(log_probabilities=np.log([[0.4, 0.6], [0.7, 0.3]]))] * 3
    study = SimpleNamespace(seed=0, deterministic=deterministic)
    context = SimpleNamespace(
        device=device,
        spec=SimpleNamespace(study=study),
        home=SimpleNamespace(cache=None),
        partition=SimpleNamespace(folds=[None] * 3),
        geometry=lambda _: WHOLE,
    )
    return SimpleNamespace(
        context=context, folds=folds, number=4, hyperparameters=None,
        calibration=SimpleNamespace(temperature=1.0),
    )  # fmt: skip


@pytest.fixture
def trained_again(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a training give predictions that differ by so much; returns what sets it."""
    differs = SimpleNamespace(by=0.0)

    def results(_: object) -> list[Any]:
        rows = np.array([[0.4 + differs.by, 0.6 - differs.by], [0.7, 0.3]])
        return [SimpleNamespace(log_probabilities=np.log(rows), model=torch.nn.Linear(1, 2))] * 3

    monkeypatch.setattr(rebuild, "development_set", lambda *_: None)
    monkeypatch.setattr(rebuild, "cross_validate", lambda *_, **__: None)
    monkeypatch.setattr(rebuild, "fold_results", results)
    monkeypatch.setattr(rebuild, "FoldEnsemble", lambda models, _: torch.nn.ModuleList(models))
    # No GPU is needed to look at what is compared.
    monkeypatch.setattr(rebuild, "train_deterministically", lambda *_, **__: None)
    return differs


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:1"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_what_differs_by_more_than_the_limit_is_refused_on_every_device(
    device: str, deterministic: bool, trained_again: Any
) -> None:
    winner = _winner(device, deterministic=deterministic)
    trained_again.by = 0.9 * rebuild.REBUILD_TOLERANCE
    models, difference = rebuild.rebuild_ensemble(winner)
    assert difference == pytest.approx(0.9 * rebuild.REBUILD_TOLERANCE)
    assert not models.training
    trained_again.by = 1.1 * rebuild.REBUILD_TOLERANCE
    with pytest.raises(BusiSearchError, match=r"differ by up to 0\.055") as refused:
        rebuild.rebuild_ensemble(winner)
    advice = "study.deterministic = true" if device != "cpu" and not deterministic else "--device"
    assert advice in str(refused.value)
    assert "--name NEW" in str(refused.value)
