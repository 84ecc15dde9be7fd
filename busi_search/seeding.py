"""Seeds that depend on what is computed, never on who computes it or when."""

import hashlib
import random

import numpy as np


def derive_seed(study: int, trial: int, fold: int, purpose: str) -> int:
    """Return the seed of one random stream of a study.

    The same four values give the same seed on every machine, so a trial's result does not
    depend on the worker that ran it or on the order of trials.

    Args:
        study: seed of the study.
        trial: number of the trial, -1 for streams that belong to the whole study.
        fold: index of the fold, -1 for streams that belong to the whole trial.
        purpose: name of the stream, such as ``"fit"`` or ``"sampler"``.

    Returns:
        An integer in [0, 2**32).
    """
    text = f"busi-search/{study}/{trial}/{fold}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (``seed`` in [0, 2**32))."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
