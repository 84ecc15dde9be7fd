"""How well a search tells the time that is left, at a quarter, half and three quarters of it.

    uv run python benchmarks/clock.py quickstart --trials 40
    uv run python benchmarks/clock.py busi-frozen --data Dataset_BUSI_with_GT --trials 40

The truth is the time until the command ends, with the winner trained again and the report written.
Prints a row for each share of the trials that were finished: the time left as the progress line
gave it, the true one, and the ratio; then by how much the line ever climbed, and when it first gave
a time at all.
"""

import argparse
import itertools
import tempfile
import time
from contextlib import closing
from pathlib import Path

from busi_search.home import open_home
from busi_search.report.study_result import StudyResult
from busi_search.run import search_and_release
from busi_search.search.prepare import prepare_study

SHARES = (0.25, 0.5, 0.75)


def main() -> None:
    """Search once and print what the progress line said against what came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", help="a bundled study or a file")
    parser.add_argument("--data")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--curve", action="store_true", help="print what the line says, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context = prepare_study(
            options.study,
            data=options.data,
            home=open_home(Path(folder) / "home"),
            overrides=tuple(options.overrides),
            device="cpu",
        )
        seen, started = list[tuple[float, int, float | None, str]](), time.monotonic()
        search = search_and_release(context, num_trials=options.trials, num_workers=options.workers)
        with closing(search):
            for item in search:
                if not isinstance(item, StudyResult):
                    now = time.monotonic() - started
                    phase = getattr(item, "phase", "")
                    if options.curve and (not seen or now - seen[-1][0] >= 1):
                        line = f"{now:6.1f} s {item.finished:3} {phase:18}"
                        print(line, item.remaining_seconds, flush=True)
                    seen.append((now, item.finished, item.remaining_seconds, phase))
        ended = time.monotonic() - started
    searched = seen[-1][0]
    print(
        f"{options.study}: {options.trials} trials in {searched:.0f} s, "
        f"the winner and the report in {ended - searched:.0f} s"
    )
    for share in SHARES:
        row = next(row for row in seen if row[1] >= share * options.trials)
        now, finished, left, _ = row
        truth = ended - now
        said = "nothing" if left is None else f"{left:.0f} s"
        ratio = "" if left is None else f", ratio {left / truth:.2f}"
        print(f"{finished:3} of {options.trials} trials: said {said}, true {truth:.0f} s{ratio}")
    told = [(now, left) for now, _, left, _ in seen if left is not None]
    climbs = [after[1] - before[1] for before, after in itertools.pairwise(told)]
    climbed = max(climbs, default=0.0)
    print(f"first told after {told[0][0]:.0f} s; the largest climb was {climbed:.0f} s")


if __name__ == "__main__":
    main()
