"""Deterministic training: on a GPU as asked for, on a CPU nothing changes."""

import os
from collections.abc import Iterator

import pytest
import torch

from busi_search.training.determinism import train_deterministically


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.deterministic
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = before
    torch.utils.deterministic.fill_uninitialized_memory = filled
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_on_a_cpu_nothing_is_changed() -> None:
    train_deterministically("cpu", wanted=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_on_a_gpu_it_is_as_the_study_says() -> None:
    train_deterministically("cuda:0", wanted=True)
    assert torch.are_deterministic_algorithms_enabled()
    # An operation without such an algorithm must not end a trial.
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    train_deterministically("cuda:0", wanted=False)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
