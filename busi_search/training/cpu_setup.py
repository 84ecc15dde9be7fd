"""How a process trains on a CPU: one core, and memory that stays at hand."""

import ctypes
import sys

import torch

# Of mallopt, in glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MOST = 2**31 - 1


def train_on_one_core() -> None:
    """Let this process use one thread for its sums, and keep what memory it frees.

    With one thread sums come out the same to the last bit wherever a trial runs, and several
    workers share the cores without fighting.

    A training step frees what the next one needs again. glibc hands blocks of some megabytes back
    to the system, which clears them page by page when they are asked for anew: with
    ``small_cnn_wide`` at 64 px up to a quarter of a fold's time. Results are the same. Other
    systems and C libraries are left as they are.
    """
    torch.set_num_threads(1)
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _MOST)
        mallopt(_M_MMAP_THRESHOLD, _MOST)
