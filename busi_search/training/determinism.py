"""Trainings that repeat themselves on a GPU, where sums otherwise come in any order."""

import os
import warnings

import torch


def train_deterministically(device: str, *, wanted: bool) -> None:
    """Let trainings of this process on a GPU repeat themselves; on a CPU they always do.

    Operations that have no such algorithm are carried out all the same: what a training that was
    repeated differs by is measured where it matters (``release.rebuild``).

    Args:
        device: PyTorch's name of the device; on ``cpu`` nothing is changed.
        wanted: ``study.deterministic``.
    """
    if device == "cpu":
        return
    # Read by cuBLAS when the process first multiplies matrices on a GPU.
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.deterministic = wanted
    # Memory that nobody has written to is not read either: filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
