"""How things look on a terminal: progress, tables, the last lines of a run."""

import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress
from rich.table import Table
from rich.text import Text

from busi_search.data.progress import listening
from busi_search.search.progress_line import details_line, status_line
from busi_search.search.store.foreign import foreign_sentence
from busi_search.search.store.records import (
    last_failure,
)
from busi_search.wording import count_of, duration

if TYPE_CHECKING:
    from busi_search.release.selection import Estimate
    from busi_search.report.study_result import StudyResult
    from busi_search.search.context import StudyContext
    from busi_search.search.progress import SearchProgress

PLAIN_LINE_SECONDS = 10.0
COLUMNS = 79

# Human text goes to stderr; stdout belongs to results. Lines are wrapped between words on a
# terminal, and left whole in a file.
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def announce(
    context: "StudyContext",
    *,
    workers: int | None,
    trials: int,
    learns_first: bool = False,
    finds_first: bool = False,
    ray: str | None = None,
    warning: str | None = None,
) -> None:
    """Say what is about to be searched, and loudly so if it is simulated.

    Args:
        context: the study.
        workers: trials at once; None: as many as fit.
        trials: total number of trials to finish.
        learns_first: weights must be learned from phantoms before the first trial.
        finds_first: networks must learn where lesions are before the first trial.
        ray: address of the cluster whose workers search.
        warning: what the objective is worth, or None.
    """
    counts = context.counts
    if context.development.simulated:
        err.print(
            "[bold black on yellow] SIMULATED [/] These are phantoms, not patients: "
            "the scores mean nothing for patients.\n"
            "To search on your own images: busi-search run --data FOLDER-OR-NPZ"
        )
    used = counts["num_development"] + counts["num_test"]
    unused = counts["num_images"] - used
    conflicts = count_of(counts["num_conflicts"], "group")
    left_out = ""
    if unused:
        left_out = f", {unused} left out"
    if counts["num_quarantined"]:
        left_out += f" ({counts['num_quarantined']} in {conflicts} with contradictory labels)"
    err.print(
        f"Study [bold]{escape(context.name)}[/]: {counts['num_images']} images in "
        f"{escape(str(context.partition.grouping))}; {counts['num_development']} for the search, "
        f"{counts['num_test']} sealed for the test{left_out}"
    )
    development = context.development
    listed = ", ".join(f"{name} {count}" for name, count in context.class_counts.items())
    err.print(
        f"Classes: {escape(listed)}; AUC, sensitivity and operating point refer to "
        f"'{escape(development.class_names[development.positive])}'"
        if len(development.class_names) == 2
        else f"Classes: {escape(listed)}; AUC is the mean over the classes, sensitivity and "
        f"operating point refer to '{escape(development.class_names[development.positive])}'"
    )
    if earlier := context.partition.earlier:
        err.print(f"The division into folds and test was made by an earlier version: {earlier}.")
    for unusual in context.warnings:
        err.print(f"[yellow]{escape(unusual)}[/]")
    if context.developed_by:
        err.print(
            f"Not independent: {context.test_not_independent} sealed images show scans that other "
            f"studies of this home developed on ({escape(', '.join(context.developed_by))}); "
            "`busi-search evaluate` also gives the figures of the others alone."
        )
    number = "as many workers as fit" if workers is None else count_of(workers, "worker")
    place = f"Ray at {ray}" if ray is not None else context.device
    err.print(
        f"{trials} trials × {len(context.partition.folds)} folds, {number} on "
        f"{escape(place)}; best by {context.spec.study.objective}; home "
        f"{escape(str(context.home.root))}"
    )
    if warning is not None:
        err.print(warning, markup=False)
    if learns_first:
        err.print("First: pretraining on simulated images (once per home; takes a few minutes).")
    if finds_first:
        err.print(
            "First: networks learn where lesions are (once per division; takes some minutes)."
        )


# A bar shorter than this says nothing, a longer one no more.
SHORTEST_BAR, LONGEST_BAR = 5, 40


class _TwoLines(Progress):
    """A bar with where the search stands, and below it what else there is to know."""

    progress: "SearchProgress | None" = None
    message = "starting workers"

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield both lines, as wide as the terminal is now."""
        if len(self.tasks) != 1:
            return
        (task,) = self.tasks
        columns = max(1, self.console.width - 1)
        finished = f"{task.completed:.0f}/{task.total:.0f}"
        room = columns - len(finished) - SHORTEST_BAR - 2
        below, text = "", self.message[:room]
        if self.progress is not None:
            below, text = details_line(self.progress), status_line(self.progress, room)
        bar = min(LONGEST_BAR, columns - len(finished) - len(text) - 2)
        row = Table.grid(padding=(0, 1))
        row.add_row(
            Text(finished, "bold"),
            BarColumn(bar_width=max(1, bar)).render(task),
            Text(text, no_wrap=True),
        )
        yield row
        yield Text(below if len(below) <= columns else f"{below[: columns - 1]}…", "dim")


class SearchDisplay:
    """Live progress on a terminal; a line every ten seconds elsewhere; nothing if quiet."""

    def __init__(self, target: int, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last_time, self._last_line = 0.0, ""
        self._ends: float | None = None
        self.bar: _TwoLines | None = None
        if not quiet and err.is_terminal:
            self.bar = _TwoLines(console=err)
            self._task = self.bar.add_task("", total=target)

    def update(self, progress: "SearchProgress") -> None:
        """Show where the search stands."""
        if self._quiet:
            return
        left = progress.remaining_seconds
        self._ends = None if left is None else time.monotonic() + left
        if self.bar is not None:
            self.bar.progress = progress
            self.bar.update(self._task, completed=progress.finished, total=progress.target)
            return
        line = f"{progress.finished}/{progress.target} trials · {status_line(progress, COLUMNS)}"
        self._say(line, due=progress.workers == 0)

    def phase(self, what: str, done: int, total: int) -> None:
        """Show what is done once the search has ended, such as training the winner again."""
        if self._quiet:
            return
        text = what if total <= 1 else f"{what}: {done} of {total}"
        left = 0.0 if self._ends is None else self._ends - time.monotonic()
        text += f" · {duration(left)} left" if left >= 1 else ""
        if self.bar is not None:
            self.bar.progress, self.bar.message = None, text
            return
        # Of reading that is over in a moment nothing is said.
        self._say(text, due=done == 0 and not what.endswith("read"))

    def _say(self, line: str, *, due: bool) -> None:
        now = time.monotonic()
        due = due or now - self._last_time >= PLAIN_LINE_SECONDS
        if due and line != self._last_line:
            self._last_time, self._last_line = now, line
            err.print(line, markup=False)


@contextmanager
def search_display(target: int, *, quiet: bool) -> Iterator[SearchDisplay]:
    """Give a display and take it down again whatever happens."""
    display = SearchDisplay(target, quiet=quiet)
    if display.bar is None:
        with listening(display.phase):
            yield display
        return
    with display.bar, listening(display.phase):
        yield display


def _format(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _corrected(value: float, estimate: "Estimate") -> str:
    """A figure as found, and what it is worth after the choice."""
    if not math.isfinite(estimate.value):
        return f"{value:.4f}, cannot be corrected: too few images of a class"
    interval = f"({estimate.low:.4f} to {estimate.high:.4f})"
    if not math.isfinite(estimate.low):
        interval = "(no interval: too few images of a class)"
    return f"{value:.4f}, corrected {estimate.value:.4f} {interval}"


def show_result(
    result: "StudyResult", *, command: str = "busi-search", pages: str | None = None
) -> None:
    """Print the short table and the exact next lines to type.

    Args:
        result: of the run.
        command: what is typed where this program runs, such as in a container.
        pages: address of MLflow's pages, where a server that somebody else started shows them.
    """
    release = result.release
    if release is None:
        ignored = f" {foreign_sentence(result.foreign)}." if result.foreign else ""
        err.print(f"No trial was evaluated on all folds yet; run the same command again.{ignored}")
        return
    if result.progress.finished == result.progress.before and not release.new:
        err.print(
            f"Study [bold]{escape(result.context.name)}[/] is complete with "
            f"{result.progress.finished} finished trials; nothing was changed. "
            "For more trials, raise --trials; for another study, use --name NEW."
        )
    figures = release.metrics
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = {
        "best trial": f"{release.trial} of {result.progress.finished} "
        f"({result.progress.pruned} pruned, {result.progress.failed} failed)",
    }
    if (failure := last_failure(result.progress.trials)) is not None:
        rows["failed last"] = f"{failure}; its traceback is in its MLflow run"
    names = dict.fromkeys((release.metric, "auc", "aupr", "accuracy", "f1"))
    for name in names:
        rows[f"cv_{name}"] = _corrected(figures[f"cv_{name}"], release.estimates[name])
    by_temperature = release.metric in ("log_loss", "brier", "ece")
    if by_temperature:
        rows[f"cv_{release.metric}"] += ", as trained"
    # A study that was released by an earlier version has no such estimate.
    calibrated = release.estimates.get("calibrated_log_loss")
    if calibrated is not None:
        rows["log loss, calibrated"] = _corrected(calibrated.naive, calibrated)
        if by_temperature:
            rows["log loss, calibrated"] += ", the choice not corrected"
    rows["calibration"] = ", ".join(
        f"{name.removeprefix('calibration_').replace('_', '/')} {figure:.2f}"
        for name, figure in release.calibration.items()
    )
    rows |= {
        f"{site.site}, not seen": f"AUC {site.figures['auc']:.3f}, sensitivity "
        f"{site.figures['sensitivity']:.2f}, specificity {site.figures['specificity']:.2f}"
        for site in release.sites
    }
    rows |= {"ignored": foreign_sentence(result.foreign)} if result.foreign else {}
    if result.context.developed_by:
        rows["not independent"] = f"{result.context.test_not_independent} sealed images"
    for name in result.context.spec.space:
        rows[name] = _format(release.params[name])
    alias = ", alias candidate" if "candidate" in release.version.aliases else ", not the candidate"
    rows["model"] = f"{release.version.name} version {release.version.version}{alias}"
    rows["wall time"] = (
        f"{duration(result.cost['seconds'])}, {result.cost['fold_trainings']:.0f} folds trained, "
        f"{result.progress.folds_saved} saved by pruning"
    )
    for key, value in rows.items():
        table.add_row(key, escape(value))
    err.print(table)
    if result.context.development.simulated:
        err.print("[bold black on yellow] SIMULATED [/] Phantom scores mean nothing for patients.")
    _show_next_lines(result.context, command, pages)


def _show_next_lines(context: "StudyContext", command: str, pages: str | None) -> None:
    """Print what can be typed, or opened, after a run."""
    simulated = context.development.simulated
    lines = {pages or f"{command} ui": "browse the trials"}
    if not simulated:
        evaluate = f"{command} evaluate {shlex.quote(context.name)}"
        lines[evaluate] = "open the sealed test (counted)"
    lines[f"{command} promote" + (' --force --reason "just trying"' if simulated else "")] = ""
    image = "IMAGE.png" if command == "busi-search" else "/data/IMAGE.png"
    lines[f"{command} predict {image}"] = "ask the promoted model"
    err.print("Next:")
    for line, meaning in lines.items():
        err.print(f"  {line:<37} {meaning}".rstrip(), markup=False)
