"""What the platform costs a trial: sampling, storage, tracking; everything but the training.

A whole study runs with a training that costs nothing (random predictions on the phantoms' folds),
in one process. Printed: seconds a trial in windows of trials, what of it the sampler takes, and
what the figures of the folds take: these are evaluation, always the same work, and so show how
much the machine itself changed its speed meanwhile. In the end the long study and a young one go
on in turn, trial by trial.

    uv run python benchmarks/overhead.py --trials 2000
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice, pairwise

import numpy as np
import optuna

from busi_search.home import open_home
from busi_search.search import objective
from busi_search.search.cross_validation import NUM_CURVE_POINTS, DevelopmentSet
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.samplers import SeededSampler
from busi_search.training import metrics

TRIAL_SECONDS = 5.0
# Trials of an early and of a late study that are run in turn.
ALTERNATING = 150
SPENT = {"sampler": 0.0, "evaluation": 0.0}


def no_training(
    data: DevelopmentSet, hyperparameters, *, trial_number, first_fold, **_
) -> Generator[Look | FoldResult]:
    """Give every fold random predictions, better ones near a learning rate of .003."""
    rng = np.random.default_rng(trial_number)
    skill = 2.0 - abs(np.log10(hyperparameters.learning_rate / 3e-3))
    epochs, num_looks = hyperparameters.epochs, NUM_CURVE_POINTS
    looks = [max(1, round(epochs * (look + 1) / num_looks)) for look in range(num_looks)]
    for turn in range(len(data.folds)):
        index = (first_fold + turn) % len(data.folds)
        started = time.perf_counter()
        truth = data.labels[data.folds[index].validation]
        logits = rng.normal(size=(len(truth), data.num_classes))
        logits[np.arange(len(truth)), truth] += skill
        log_probabilities = np.log(metrics.softmax(logits)).astype(np.float32)
        figures = metrics.compute_metrics(np.exp(log_probabilities), truth, positive=1)
        result = FoldResult(
            fold=index,
            log_probabilities=log_probabilities,
            metrics=figures,
            train_loss=tuple(rng.random(epochs)),
            val_epochs=tuple(looks),
            val_auc=(figures["auc"],) * num_looks,
            image_passes=0,
            seconds=0.0,
        )
        SPENT["evaluation"] += time.perf_counter() - started
        for look, epoch in enumerate(looks[:-1]):
            yield Look(index, epoch, epochs, result.val_auc[: look + 1])
        yield result


def searched(folder: str, pruner: str, num_trials: int) -> Generator[tuple[float, float, float]]:
    """Yield what each trial takes: seconds in all, of the sampler, of the evaluation."""
    context = prepare_study(
        "quickstart",
        home=open_home(folder),
        overrides=(f"pruner='{pruner}'", "recipes=[]"),
        device="cpu",
    )
    search = run_search(
        context, InlineExecutor(), Tracker(context), num_trials=num_trials, num_workers=1
    )
    with closing(search):
        while True:
            before, started = dict(SPENT), time.perf_counter()
            if next(search, None) is None:
                return
            whole = time.perf_counter() - started
            yield whole, *(SPENT[key] - before[key] for key in SPENT)


def show(what: str, trials: Sequence[tuple[float, float, float]]) -> None:
    """Print the medians of a window of trials."""
    whole, sampler, evaluation = (statistics.median(column) for column in zip(*trials, strict=True))
    rest = statistics.median(trial[0] - trial[1] - trial[2] for trial in trials)
    print(
        f"{what:>10} | {whole:.3f} | {sampler:.3f} | {evaluation:.3f} | {rest:.3f} | "
        f"{100 * rest / TRIAL_SECONDS:.1f} %",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--pruner", default="none")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    objective.cross_validate = no_training
    for name in (
        "before_trial",
        "infer_relative_search_space",
        "sample_relative",
        "sample_independent",
        "after_trial",
    ):
        original = getattr(SeededSampler, name)

        def timed(self, *args, _original=original):
            started = time.perf_counter()
            try:
                return _original(self, *args)
            finally:
                SPENT["sampler"] += time.perf_counter() - started

        setattr(SeededSampler, name, timed)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        print("trials | seconds a trial (median) | sampler | evaluation | the rest | rest of 5 s")
        long = searched(one, options.pruner, options.trials + ALTERNATING)
        bounds = [bound for bound in (0, 50, 100, 200, 500, 1000, 1500) if bound < options.trials]
        for low, high in pairwise([*bounds, options.trials]):
            show(f"{low}–{high}", list(islice(long, high - low)))
        # The machine changes its speed meanwhile: how much a trial grows is seen in turn.
        short = searched(other, options.pruner, 50 + ALTERNATING)
        list(islice(short, 50))
        turns = list(zip(islice(short, ALTERNATING), islice(long, ALTERNATING), strict=True))
        early, late = zip(*turns, strict=True)
        show("50 on", early)
        show(f"{options.trials} on", late)
        rests = [
            statistics.median(whole - sampler - evaluation for whole, sampler, evaluation in trials)
            for trials in (early, late)
        ]
        # Before their folders are gone.
        short.close()
        long.close()
        print(f"growth {100 * (rests[1] / rests[0] - 1):.0f} %, the two in turn")


if __name__ == "__main__":
    main()
