"""What a sampler finds, in simulated searches whose landscape is that of recorded ones.

A Gaussian process is fitted to the folds of recorded studies of one space (random and not pruned,
so that it knows the whole space); searches of it are simulated, with the noise of a fold and with
pruning by evidence, by two workers, until they have spent a number of folds. Hundreds of searches
take minutes.

    uv run busi-search run STUDY.toml --trials 100 --name random \\
        --set sampler=random --set pruner=none --set recipes=[]
    uv run python -m benchmarks.samplers random --samplers tpe,joint,random

Samplers: ``tpe``, ``gp`` and ``random`` as `busi-search run` has them; ``joint``, Optuna's own TPE,
for all hyperparameters at once. Printed after some numbers of folds: the best score as found, the
true value of that configuration (mean and worst tenth of the searches).
"""

import argparse
import heapq
import math
from collections.abc import Sequence
from multiprocessing import get_context
from typing import NamedTuple

import joblib
import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from busi_search.home import open_home
from busi_search.search.pruning.evidence import Difference, weigh
from busi_search.search.pruning.race import LEAST_INDEX, LEAST_LOOK_INDEX
from busi_search.search.reopen import reopen_study
from busi_search.search.samplers import SeededSampler, make_sampler
from busi_search.search.store.fold_records import fold_key, stored_folds
from busi_search.search.store.open import find_study
from busi_search.search.store.records import HYPERPARAMETERS, UNFINISHED_FOLD, UnfinishedFold
from busi_search.spec import StudySpec

# From searches of BUSI at 64 px. Standard deviations: of the AUC of a fold when a configuration is
# trained with other seeds, of a paired difference on a fold, of the AUC of a fold without pairs, of
# what a look says about the end of the fold.
FOLD_NOISE = 0.015
PAIRED_ERROR = 0.022
AUC_ERROR = 0.03
LOOK_NOISE = 0.02
# A fold is looked at once, early; its AUC is then so much lower than in the end.
NUM_EPOCHS, LOOK_EPOCH, LOOK_DEFICIT = 10, 4, 0.045
FOLD_SPREAD = 0.02
NUM_FOLDS = 5
NUM_WORKERS = 2
LEARNING_TRIALS = 300
MOST_TRIALS = 2_000


class Landscape(NamedTuple):
    """A space and its expected scores."""

    space: dict[str, BaseDistribution]
    process: GaussianProcessRegressor
    mean: float

    def value(self, params: dict[str, object]) -> float:
        """Return the expected score of a configuration."""
        row = encode(params, self.space)
        return self.mean + float(self.process.predict(np.array([row]))[0])


def encode(params: dict[str, object], space: dict[str, BaseDistribution]) -> list[float]:
    """Return a configuration as numbers in [0, 1]; choices by their place in the list."""
    row = []
    for name, distribution in space.items():
        value = params[name]
        if isinstance(distribution, CategoricalDistribution):
            place = distribution.choices.index(value)
            row.append(place / max(1, len(distribution.choices) - 1))
        else:
            low, high, at = distribution.low, distribution.high, float(value)
            if distribution.log:
                low, high, at = math.log(low), math.log(high), math.log(at)
            row.append((at - low) / (high - low))
    return row


def learn(names: Sequence[str]) -> tuple[Landscape, StudySpec]:
    """Fit a landscape to the trials of recorded studies, each fold without its own level."""
    space: dict[str, BaseDistribution] = {}
    rows, values, counts = [], [], []
    for name in names:
        home = open_home()
        study = find_study(home, name)
        spec = reopen_study(study, home=home).spec
        finished = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        scores = [_scores(trial) for trial in finished]
        whole = np.array([list(found.values()) for found in scores if len(found) == NUM_FOLDS])
        level = whole.mean(axis=0) - whole.mean()
        for trial, found in zip(finished, scores, strict=True):
            space = space or dict(trial.distributions)
            if found and trial.params.keys() == space.keys():
                rows.append(encode(trial.params, space))
                values.append(np.mean([score - level[fold] for fold, score in found.items()]))
                counts.append(len(found))
    chosen = np.random.default_rng(0).permutation(len(rows))[:LEARNING_TRIALS]
    targets, mean = np.array(values)[chosen], float(np.mean(np.array(values)[chosen]))
    process = GaussianProcessRegressor(
        ConstantKernel(0.003, (1e-4, 1)) * RBF([0.5] * len(space), (0.1, 10)),
        alpha=FOLD_NOISE**2 / np.array(counts)[chosen],
        n_restarts_optimizer=1,
        random_state=0,
    )
    process.fit(np.array(rows)[chosen], targets - mean)
    return Landscape(space, process, mean), spec


def _scores(trial: FrozenTrial) -> dict[int, float]:
    folds = stored_folds(trial, NUM_FOLDS)
    return {fold: folds[fold].metrics["auc"] for fold in sorted(folds)}


def make(sampler: str, spec: StudySpec, seed: int) -> SeededSampler:
    """Return a sampler of a name for one simulated search."""
    chosen = "tpe" if sampler == "joint" else sampler
    changes = {"seed": seed, "sampler": chosen, "pruner": "evidence", "objectives": ("cv_auc",)}
    section = spec.study.model_copy(update=changes)
    found = make_sampler(spec.model_copy(update={"study": section}))
    assert isinstance(found, SeededSampler)
    if sampler == "joint":
        # Seeds and what is seen of pruned trials stay the same.
        startup = section.startup_trials
        found._make = lambda s, _: optuna.samplers.TPESampler(seed=s, n_startup_trials=startup)
    return found


def simulate(
    landscape: Landscape, spec: StudySpec, sampler: str, seed: int, budget: float
) -> list[tuple[float, float, float]]:
    """Return folds spent, best score as found and its true value, after every trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = np.random.default_rng(seed)
    level = rng.normal(0, FOLD_SPREAD, NUM_FOLDS)
    study = optuna.create_study(direction="maximize", sampler=make(sampler, spec, seed))
    rival: np.ndarray | None = None
    spent, best, truth, now = 0.0, 0.0, 0.0, 0.0
    curve = []
    # By the time of its end; a worker asks when its trial has ended, with the others' under way.
    under_way: list[tuple[float, int, float, optuna.Trial, np.ndarray, float]] = []
    for number in range(MOST_TRIALS):
        if len(under_way) == NUM_WORKERS:
            now, _, taken, trial, own, value = heapq.heappop(under_way)
            score = float(own[1].mean())
            spent += taken
            if taken < NUM_FOLDS:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, score)
                if rival is None or score > rival[1].mean():
                    rival, best, truth = own, score - float(level.mean()), value
            curve.append((spent, best, truth))
            if spent >= budget:
                break
        trial = study.ask(landscape.space)
        value = landscape.value(trial.params)
        scores = np.minimum(value + level + rng.normal(0, FOLD_NOISE, NUM_FOLDS), 1.0)
        looks = scores - LOOK_DEFICIT + rng.normal(0, LOOK_NOISE, NUM_FOLDS)
        own = np.array([looks, scores])
        taken = race(trial, number, own, rival)
        heapq.heappush(under_way, (now + taken, number, taken, trial, own, value))
    return curve


def race(trial: optuna.Trial, number: int, own: np.ndarray, rival: np.ndarray | None) -> float:
    """Return how many folds a trial gets before it is given up.

    Args:
        trial: is told what a real one is.
        number: of the trial.
        own: (2, 5) AUC at the look and at the end of each fold.
        rival: the same of the best trial, or None.
    """
    trial.set_user_attr(HYPERPARAMETERS, {"epochs": NUM_EPOCHS})
    done: list[Difference] = []
    for turn in range(NUM_FOLDS):
        fold = (number + turn) % NUM_FOLDS
        look, score = own[:, fold].tolist()
        if rival is not None:
            hope = Difference(look - float(rival[0, fold]), AUC_ERROR**2)
            if weigh(done, NUM_FOLDS, hoped=hope).overtaking_index < LEAST_LOOK_INDEX:
                trial.set_user_attr(
                    UNFINISHED_FOLD, UnfinishedFold(fold, LOOK_EPOCH, look).encode()
                )
                return turn + LOOK_EPOCH / NUM_EPOCHS
        trial.report(score, fold)
        curve = {"val_epochs": [LOOK_EPOCH, NUM_EPOCHS], "val_auc": [look, score]}
        trial.set_user_attr(fold_key(fold), curve)
        if rival is not None and turn + 1 < NUM_FOLDS:
            done.append(Difference(score - float(rival[1, fold]), PAIRED_ERROR**2))
            if weigh(done, NUM_FOLDS).overtaking_index < LEAST_INDEX:
                return turn + 1.0
    return float(NUM_FOLDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--samplers", default="tpe,joint,random")
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--folds", type=int, nargs="+", default=[50, 100, 200, 300])
    options = parser.parse_args()
    landscape, spec = learn(options.studies)
    rng = np.random.default_rng(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [study.ask(landscape.space).params for _ in range(2_000)]
    values = np.array([landscape.value(points[i]) for i in rng.permutation(len(points))])
    shown = ", ".join(f"{share:.0%} {np.quantile(values, share):.4f}" for share in (0.5, 0.9, 0.99))
    print(f"true values in the space: {shown}, best of {len(values)} {values.max():.4f}")
    with get_context("fork").Pool(joblib.cpu_count()) as pool:
        for sampler in options.samplers.split(","):
            arguments = [
                (landscape, spec, sampler, seed, max(options.folds))
                for seed in range(options.searches)
            ]
            curves = pool.starmap(simulate, arguments, chunksize=1)
            for folds in options.folds:
                ends = [next(point for point in c if point[0] >= folds) for c in curves]
                found, true = ([end[i] for end in ends] for i in (1, 2))
                error = np.std(true) / math.sqrt(len(true))
                print(
                    f"{sampler:>8} after {folds} folds: found {np.mean(found):.4f}, true "
                    f"{np.mean(true):.4f} ± {error:.4f}, worst tenth {np.quantile(true, 0.1):.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
