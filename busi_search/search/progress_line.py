"""Where a search stands, in one line; the same on a terminal and in a notebook."""

from busi_search.search.progress import SEARCHING, SearchProgress
from busi_search.search.store.records import prune_reason, standard_error
from busi_search.wording import count_of, duration


def _best(progress: SearchProgress, *, briefly: bool = False) -> str:
    if progress.best is None:
        return "best –"
    error = None if briefly else standard_error(progress.best)
    # Two standard errors over the folds, until the corrected interval at the end.
    spread = f" ± {2 * error:.3f} (2 SE)" if error is not None else ""
    return f"best {progress.best.value:.3f}{spread}"


def _left(progress: SearchProgress) -> str:
    """What the search is doing and how long it will take, as far as that is known."""
    share = "" if progress.phase_share is None else f" {100 * progress.phase_share:.0f} %"
    doing = "" if progress.phase == SEARCHING else f"{progress.phase}{share}"
    known = progress.remaining_seconds
    left = "" if known is None else f"{duration(known)} left"
    return " · ".join(filter(None, (doing, left))) or progress.phase


def status_line(progress: SearchProgress, columns: int) -> str:
    """Return where a search stands on one line, as much of it as there is room for.

    Args:
        progress: where it stands.
        columns: of the room.
    """
    folds = f"{count_of(progress.folds_trained, 'fold')}"
    saved = f" ({progress.folds_saved} saved)" if progress.folds_saved else ""
    # What goes first where there is no room, last.
    parts = [
        (0, _best(progress)),
        (4, folds + saved),
        (3, f"{progress.pruned} stopped early" if progress.pruned else ""),
        (1, f"{progress.failed} failed" if progress.failed else ""),
        (2, f"{progress.unsent} unsent" if progress.unsent else ""),
        (0, _left(progress)),
    ]
    for least in (4, 3, 2, 1, 0):
        line = " · ".join(text for rank, text in parts if text and rank <= least)
        if len(line) <= columns:
            return line
    line = f"{_best(progress, briefly=True)} · {_left(progress)}"
    return line if len(line) <= columns else line[: max(1, columns - 1)] + "…"


def details_line(progress: SearchProgress) -> str:
    """A second line: which trial leads, who works, why the last trial was stopped."""
    parts = [count_of(progress.workers, "worker")] if progress.workers else []
    if progress.best is not None:
        parts.append(f"trial {progress.best.number} leads")
    for trial in reversed(progress.trials):
        reason = prune_reason(trial)
        if reason is not None:
            parts.append(f"trial {trial.number} stopped early: {reason}")
            break
    return " · ".join(parts)
