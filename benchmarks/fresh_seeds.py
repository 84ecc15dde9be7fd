"""Was it luck? The winners of finished searches, trained again with seeds that chose nothing.

    uv run python -m benchmarks.fresh_seeds --home mlruns --seeds 4 STUDY STUDY

The same configuration on the same folds, other initial weights, order and augmentation. Printed for
each study: folds it trained, its best cv_auc as found, and mean and deviation over the fresh seeds.
What the choice among trials owes to the training's own luck is gone from these; what it owes to the
images, which are the same, is not.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

from busi_search.home import open_home
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import fold_results
from busi_search.search.reopen import reopen_study
from busi_search.search.store.fold_records import folds_begun
from busi_search.search.store.foreign import best_of_study
from busi_search.search.store.open import find_study
from busi_search.search.store.records import main_value, trial_hyperparameters

FIRST_SEED = 10_000


def train_again(home: str, name: str, seed: int) -> tuple[float, float]:
    """Return AUC and accuracy, means over the folds."""
    torch.set_num_threads(1)
    study = find_study(open_home(home), name)
    context = reopen_study(study, home=open_home(home), device="cpu")
    best = best_of_study(study)
    assert best is not None, f"{name} has no fully evaluated trial"
    hyperparameters = trial_hyperparameters(best)
    steps = cross_validate(
        development_set(context, hyperparameters),
        hyperparameters,
        study_seed=FIRST_SEED + seed,
        trial_number=0,
        cache=context.home.cache,
    )
    figures = [(fold.metrics["auc"], fold.metrics["accuracy"]) for fold in fold_results(steps)]
    auc, accuracy = np.mean(figures, axis=0)
    return float(auc), float(accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("studies", nargs="+")
    options = parser.parse_args()
    home = open_home(options.home)
    print("study | folds trained | as found | fresh seeds: auc | deviation | accuracy")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {
            name: [pool.submit(train_again, options.home, name, s) for s in range(options.seeds)]
            for name in options.studies
        }
        means = []
        for name, futures in jobs.items():
            study = find_study(home, name)
            context = reopen_study(study, home=home, device="cpu")
            best = best_of_study(study)
            found = main_value(best) if best is not None else None
            scores = np.array([future.result() for future in futures])
            trials = study.get_trials(deepcopy=False)
            folds = sum(folds_begun(t, len(context.partition.folds)) for t in trials)
            means.append((found, scores[:, 0].mean()))
            print(
                f"{name} | {folds} | {found:.4f} | {scores[:, 0].mean():.4f} | "
                f"{scores[:, 0].std():.4f} | {scores[:, 1].mean():.4f}",
                flush=True,
            )
    found, fresh = np.mean(means, axis=0)
    print(f"mean | | {found:.4f} | {fresh:.4f} | |")


if __name__ == "__main__":
    main()
