"""How long each part of releasing a finished search takes.

On a copy of a home the winner is released anew; printed are the seconds of every part, of all, and
of all but training the winner's fold models again.

    uv run python -m benchmarks.release --home mlruns STUDY
"""

import argparse
import shutil
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

from busi_search import run
from busi_search.home import open_home
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.reopen import reopen_study
from busi_search.search.store.open import find_study

# Functions of a release, in their order, and what they do.
PARTS = {
    "rebuild_ensemble": "train the fold models again",
    "explain_images": "Grad-CAM of the images shown",
    "register_winner": "correct, export, register, check",
    "publish_winner": "report, model card, figures to MLflow",
}


def _move_artifacts(root: Path) -> None:
    """Let the copied MLflow database write into the copy, not into the home it came from."""
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            rows = database.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
            for (old,) in rows:
                new = f"{root.as_uri()}/artifacts{old.partition('/artifacts')[2]}"
                database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
        database.commit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("study")
    options = parser.parse_args()
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(run, name)

        def call(*positional: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*positional, **named)
            finally:
                seconds[name] += time.perf_counter() - started

        return call

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "home"
        shutil.copytree(options.home, root, ignore=shutil.ignore_patterns("artifacts"))
        _move_artifacts(root)
        home = open_home(root)
        study = find_study(home, options.study)
        context = reopen_study(study, home=home)
        tracker = Tracker(context)
        tracker.start(study)
        with (
            # As if nothing had been registered.
            patch.multiple(run, noted_version=lambda *_: None, checked_version=lambda *_: None),
            patch.multiple(run, **{name: timed(name) for name in PARTS}),
        ):
            started = time.perf_counter()
            run.release_winner(context, tracker)
            whole = time.perf_counter() - started
    for name, meaning in PARTS.items():
        print(f"{meaning:42s} {seconds[name]:6.1f} s")
    print(f"{'all':42s} {whole:6.1f} s")
    print(f"{'all without training':42s} {whole - seconds['rebuild_ensemble']:6.1f} s")


if __name__ == "__main__":
    main()
