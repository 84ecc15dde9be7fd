"""What a notebook shows of a search: its result, a study, and how far it has come."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

from busi_search.data.progress import listening
from busi_search.release.registration import Release
from busi_search.release.selection import Estimate
from busi_search.report.rendering import render
from busi_search.search.progress import SearchProgress
from busi_search.search.progress_line import details_line, status_line
from busi_search.search.status import StudyStatus
from busi_search.wording import count_of, duration

# As many characters of the progress line as fit a notebook.
_COLUMNS = 110


def in_notebook() -> bool:
    """Return whether this is a kernel of Jupyter, which can show HTML that changes."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and hasattr(found, "kernel")


class NotebookProgress:
    """A bar in the output of a cell, rewritten in place; needs nothing but Jupyter itself."""

    def __init__(self, target: int) -> None:
        # Untyped, and there in a notebook only.
        display: Any = import_module("IPython.display")
        self._html = display.HTML
        self._values: dict[str, Any] = {"target": target, "finished": 0, "below": ""}
        self._handle = display.display(self._page("starting workers"), display_id=True)

    def _page(self, line: str) -> Any:
        return self._html(str(render("notebook_progress.html", line=line, **self._values)))

    def _show(self, line: str) -> None:
        if self._handle is not None:
            self._handle.update(self._page(line))

    def update(self, progress: SearchProgress) -> None:
        """Show where the search stands."""
        self._values = {
            "target": progress.target,
            "finished": progress.finished,
            "below": details_line(progress),
        }
        self._show(status_line(progress, _COLUMNS))

    def phase(self, what: str, done: int, total: int) -> None:
        """Show what is done when the search has ended, such as training the winner again."""
        self._values["below"] = ""
        self._show(what if total <= 1 else f"{what}: {done} of {total}")

    def ended(self, seconds: float) -> None:
        """Show that all is done."""
        self._values["below"] = ""
        self._show(f"done in {duration(seconds)}")


@contextmanager
def notebook_progress(target: int, *, shown: bool) -> Iterator[NotebookProgress | None]:
    """Give a progress bar if it is wanted.

    Args:
        target: finished trials asked for.
        shown: whether to show it, if this is a notebook.
    """
    bar = NotebookProgress(target) if shown and in_notebook() else None
    with nullcontext() if bar is None else listening(bar.phase):
        yield bar


def _figure(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _estimate_rows(
    found: Mapping[str, float], estimates: Mapping[str, Estimate]
) -> list[tuple[str, ...]]:
    """Return a row for each figure, by the name that it has in MLflow and in the tables."""
    return [
        (
            f"cv_{name}",
            _figure(found.get(f"cv_{name}", estimate.naive)),
            _figure(estimate.value),
            f"{_figure(estimate.low)} to {_figure(estimate.high)}",
        )
        for name, estimate in estimates.items()
    ]


def _states(complete: int, pruned: int, failed: int, running: int = 0) -> str:
    counts = (
        (complete, "complete"),
        (pruned, "stopped early"),
        (failed, "failed"),
        (running, "running"),
    )
    said = ", ".join(f"{number} {what}" for number, what in counts if number)
    return f"{count_of(sum(number for number, _ in counts), 'trial')} ({said or 'none yet'})"


def result_html(
    name: str, progress: SearchProgress, release: Release | None, *, simulated: bool
) -> str:
    """Return what a search ended with as a small table."""
    lines = [_states(progress.complete, progress.pruned, progress.failed)]
    rows: Sequence[tuple[str, ...]] = []
    if release is None:
        lines.append("No trial was evaluated on all folds yet; run the same call again to resume.")
    else:
        lines.append(
            f"Trial {release.trial} is best by cv_{release.metric}; it is registered as "
            f"{release.version.name} version {release.version.version}, alias candidate."
        )
        rows = _estimate_rows(release.metrics, release.estimates)
    page = render(
        "notebook_table.html",
        title=f"Study {name}",
        simulated=simulated,
        lines=lines,
        columns=("figure", "as found", "corrected for the choice", "95 % interval"),
        rows=rows,
        next=f"Look closer: study = bs.load_study({name!r})",
    )
    return str(page)


def study_html(status: StudyStatus) -> str:
    """Return where a study stands as a small table of its best configuration."""
    states = status.states
    lines = [_states(*(states[name] for name in ("complete", "pruned", "fail", "running")))]
    if status.best is not None:
        lines.append(
            f"Trial {status.best_trial} is best: {status.objective} {_figure(status.best)} as "
            "found (study.estimates() corrects it for the choice)."
        )
    page = render(
        "notebook_table.html",
        title=f"Study {status.name}",
        simulated=status.simulated,
        lines=lines,
        columns=("hyperparameter", "best trial"),
        rows=[(key, _written(value)) for key, value in status.best_params.items()],
        next="",
    )
    return str(page)


def trial_html(number: int, metrics: Mapping[str, float], params: Mapping[str, Any]) -> str:
    """Return a trial's figures, means over the folds, and its configuration as a table."""
    figures = [(name, _figure(value)) for name, value in metrics.items()]
    page = render(
        "notebook_table.html",
        title=f"Trial {number}",
        simulated=False,
        lines=["Figures as found: means over the folds, not corrected for the choice."],
        columns=("name", "value"),
        rows=figures + [(key, _written(value)) for key, value in params.items()],
        next="",
    )
    return str(page)


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
