"""What the platform costs a trial: sampling, storage, tracking; everything but the training.

A whole study runs with a training that costs nothing (random predictions on the phantoms' folds),
in one process. Printed: seconds a trial in windows of trials, what of it the sampler takes, and
what the figures of the folds take: these are evaluation, always the same work, and so show how
much the machine itself changed its speed meanwhile.

    uv run python benchmarks/overhead.py --trials 2000
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import optuna

from busi_search.home import open_home
from busi_search.release.plan import plan_study
from busi_search.search import objective as objective_module
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.fold_result import FoldResult
from busi_search.search.samplers import SeededSampler
from busi_search.search.tracking import Tracker
from busi_search.training import metrics

TRIAL_SECONDS = 5.0
SPENT = {"sampler": 0.0, "evaluation": 0.0}


def no_training(
    _images, labels, _groups, folds, hyperparameters, **options
) -> Iterator[FoldResult]:
    """Give every fold random predictions, better ones near a learning rate of .003."""
    rng = np.random.default_rng(options["trial_number"])
    num_classes = options["num_classes"]
    skill = 2.0 - abs(np.log10(hyperparameters.learning_rate / 3e-3))
    for index, fold in enumerate(folds):
        started = time.perf_counter()
        truth = labels[fold.validation]
        logits = rng.normal(size=(len(truth), num_classes))
        logits[np.arange(len(truth)), truth] += skill
        log_probabilities = np.log(metrics.softmax(logits)).astype(np.float32)
        figures = metrics.compute_metrics(np.exp(log_probabilities), truth, positive=1)
        result = FoldResult(
            fold=index,
            log_probabilities=log_probabilities,
            metrics=figures,
            train_loss=tuple(rng.random(12)),
            val_epochs=tuple(range(2, 18, 2)),
            val_auc=tuple(rng.random(8)),
            image_passes=0,
            seconds=0.0,
        )
        SPENT["evaluation"] += time.perf_counter() - started
        yield result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--pruner", default="none")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective_module.cross_validate = no_training
    for name in ("infer_relative_search_space", "sample_relative", "before_trial", "after_trial"):
        original = getattr(SeededSampler, name)

        def timed(self, *args, _original=original):
            started = time.perf_counter()
            try:
                return _original(self, *args)
            finally:
                SPENT["sampler"] += time.perf_counter() - started

        setattr(SeededSampler, name, timed)
    with tempfile.TemporaryDirectory() as folder:
        context = plan_study(
            "quickstart",
            home=open_home(folder),
            overrides=(f"pruner='{options.pruner}'", "recipes=[]"),
            device="cpu",
        )
        stamps, sampler, evaluation = [time.perf_counter()], [0.0], [0.0]
        search = run_search(
            context, InlineExecutor(), Tracker(context), num_trials=options.trials, num_workers=1
        )
        for _ in search:
            stamps.append(time.perf_counter())
            sampler.append(SPENT["sampler"])
            evaluation.append(SPENT["evaluation"])
    columns = [np.diff(values)[1:] for values in (stamps, sampler, evaluation)]
    print("trials | seconds a trial (median) | sampler | evaluation | the rest | rest of 5 s")
    for low, high in pairwise([0, 50, 100, 200, 500, 1000, 1500, 2000]):
        if low >= len(columns[0]):
            break
        whole, own, judged = (statistics.median(column[low:high]) for column in columns)
        rest = whole - own - judged
        print(
            f"{low:5d}–{min(high, len(columns[0])):5d} | {whole:.3f} | {own:.3f} | {judged:.3f} | "
            f"{rest:.3f} | {100 * rest / TRIAL_SECONDS:.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
