"""What each pruning rule would have saved, and lost, on searches that were run without pruning.

Run a study with ``--set pruner=none`` first; its stored folds are then replayed in the order of the
trials, and in shuffled orders, under every rule:

    uv run busi-search run --trials 60 --set pruner=none --name unpruned
    uv run python benchmarks/pruning.py unpruned

Printed: folds trained per trial, how often the best trial of all was the one found, and the mean
and worst loss of cv_auc against it.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import wilcoxon

from busi_search.home import open_home
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.fold_result import FoldResult
from busi_search.search.pruning import paired_evidence
from busi_search.search.records import stored_folds
from busi_search.search.storage import find_study

Rule = Callable[[list[FoldResult], list[FoldResult], list[list[float]]], bool]


def evidence(context: StudyContext, alpha: float) -> Rule:
    def rule(done: list[FoldResult], best: list[FoldResult], _: list[list[float]]) -> bool:
        held = [context.partition.folds[fold.fold].validation for fold in done]
        found = paired_evidence(
            done,
            best[: len(done)],
            [context.development.labels[indices] for indices in held],
            [context.groups[indices] for indices in held],
            metric="auc",
            positive=context.development.positive,
        )
        return found.p_value < alpha

    return rule


def median(done: list[FoldResult], _: list[FoldResult], seen: list[list[float]]) -> bool:
    """Optuna's MedianPruner on the running mean, after ten trials."""
    others = [np.mean(row[: len(done)]) for row in seen if len(row) >= len(done)]
    if len(others) < 10:
        return False
    return bool(np.mean([fold.metrics["auc"] for fold in done]) < np.median(others))


def fold_wilcoxon(done: list[FoldResult], best: list[FoldResult], _: list[list[float]]) -> bool:
    """Optuna's WilcoxonPruner: a signed-rank test over the folds' scores, p < .26."""
    if len(done) < 2:
        return False
    gaps = [b.metrics["auc"] - d.metrics["auc"] for d, b in zip(done, best, strict=False)]
    return sum(gaps) > 0 and wilcoxon(gaps, alternative="greater").pvalue < 0.26


def replay(trials: list[list[FoldResult]], rule: Rule | None) -> tuple[int, float]:
    """Return how many folds were trained and the mean score of the trial found best."""
    folds_used, best, best_score = 0, None, -1.0
    seen: list[list[float]] = []
    for results in trials:
        done: list[FoldResult] = []
        for result in results:
            done.append(result)
            folds_used += 1
            last = len(done) == len(results)
            if rule and best and not last and rule(done, best, seen):
                break
        else:
            score = float(np.mean([fold.metrics["auc"] for fold in results]))
            if score > best_score:
                best, best_score = results, score
        seen.append([fold.metrics["auc"] for fold in done])
    return folds_used, best_score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("--orders", type=int, default=20)
    options = parser.parse_args()
    home = open_home(options.home)
    study = find_study(home, options.study)
    context = reopen_study(study, home=home)
    num_folds = len(context.partition.folds)
    trials = [
        list(folds.values())
        for trial in study.get_trials(deepcopy=False)
        if len(folds := stored_folds(trial, num_folds)) == num_folds
    ]
    truth = max(float(np.mean([f.metrics["auc"] for f in folds])) for folds in trials)
    rules: dict[str, Rule | None] = {"none": None, "median": median, "wilcoxon": fold_wilcoxon}
    rules |= {f"evidence {a}": evidence(context, a) for a in (0.2, 0.1, 0.05, 0.02, 0.01)}
    rng = np.random.default_rng(0)
    orders = [np.arange(len(trials))]
    orders += [rng.permutation(len(trials)) for _ in range(options.orders - 1)]
    print(f"{len(trials)} trials, {options.orders} orders; best cv_auc of all {truth:.4f}")
    print("rule            folds/trial  found the best  mean loss  worst loss")
    for name, rule in rules.items():
        outcomes = [replay([trials[i] for i in order], rule) for order in orders]
        used = np.mean([folds for folds, _ in outcomes]) / len(trials)
        losses = truth - np.array([score for _, score in outcomes])
        found = np.mean(losses < 1e-9)
        print(
            f"{name:15s} {used:11.2f}  {100 * found:12.0f} %  {losses.mean():9.4f}  "
            f"{losses.max():10.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
