"""What each pruning rule would have saved, and lost, on searches that were run without pruning.

Run studies with ``--set pruner=none`` first; their stored folds are then replayed in the order of
the trials, and in shuffled orders, under every rule, Optuna's own pruners among them:

    uv run busi-search run --trials 60 --set pruner=none --name unpruned0
    uv run busi-search run --trials 60 --set pruner=none --set seed=1 --name unpruned1
    uv run python -m benchmarks.pruning unpruned0 unpruned1

Printed: how many times fewer epochs were trained, how often the best trial of all
was the one found, and the mean and worst loss of cv_auc against it. The sampler of the recorded
search saw every fold: what a rule does to its later proposals is not in these figures.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import optuna

from busi_search.home import Home, open_home
from busi_search.search.context import StudyContext
from busi_search.search.pruning.evidence import (
    Difference,
    Evidence,
    hoped_difference,
    paired_difference,
    weigh,
)
from busi_search.search.pruning.optuna_pruners import make_pruner
from busi_search.search.pruning.race import LEAST_INDEX, LEAST_LOOK_INDEX
from busi_search.search.reopen import reopen_study
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.open import find_study
from busi_search.spec import StudySection

# What a rule spends on trials in an order, and the score of the one it finds best.
Replay = Callable[[Sequence[int]], tuple[float, float]]


class Recording:
    """The fully evaluated trials of a study."""

    def __init__(self, home: Home, name: str) -> None:
        study = find_study(home, name)
        self.context: StudyContext = reopen_study(study, home=home)
        self.num_folds = len(self.context.partition.folds)
        found = [stored_folds(t, self.num_folds) for t in study.get_trials(deepcopy=False)]
        self.trials = [
            [f[i] for i in range(self.num_folds)] for f in found if len(f) == self.num_folds
        ]
        self.scores = np.array([[f.metrics["auc"] for f in folds] for folds in self.trials])
        held = [fold.validation for fold in self.context.partition.folds]
        self._labels = [self.context.development.labels[indices] for indices in held]
        self._groups = [self.context.groups[indices] for indices in held]
        self._differences: dict[tuple[int, int, int], Difference] = {}
        self._hopes: dict[tuple[int, int, int, int], Difference | None] = {}

    def difference(self, trial: int, best: int, fold: int) -> Difference:
        """Compare two trials on a fold that both finished."""
        key = (trial, best, fold)
        if key not in self._differences:
            self._differences[key] = paired_difference(
                self.trials[trial][fold],
                self.trials[best][fold],
                self._labels[fold],
                self._groups[fold],
                metric="auc",
                positive=self.context.development.positive,
            )
        return self._differences[key]

    def hope(self, trial: int, best: int, fold: int, look: int) -> Difference | None:
        """Compare a fold that a trial has begun with the best one's."""
        key = (trial, best, fold, look)
        if key not in self._hopes:
            own, rival = self.trials[trial][fold], self.trials[best][fold]
            self._hopes[key] = hoped_difference(
                own.val_auc[: look + 1],
                rival,
                own.val_epochs[look] / len(own.train_loss),
                self._labels[fold],
                best_epochs=len(rival.train_loss),
                positive=self.context.development.positive,
            )
        return self._hopes[key]

    def by_evidence(
        self,
        given_up: Callable[[Evidence], bool],
        *,
        look_index: float = 0.0,
        in_turn: bool = True,
    ) -> Replay:
        """Give a trial up by its evidence against the best one so far.

        Args:
            given_up: whether to, after a fold.
            look_index: within a fold, the index below which to; 0: never.
            in_turn: whether each trial begins with the fold after its predecessor's, as the pruner
                has it, or all with the same.
        """

        def spent(trial: int, best: int, folds: Sequence[int]) -> float | None:
            """Folds until a trial is given up; None if it is not."""
            done: list[Difference] = []
            for fold in folds:
                own = self.trials[trial][fold]
                for look, epoch in enumerate(own.val_epochs[:-1] if look_index > 0 else ()):
                    hoped = self.hope(trial, best, fold, look)
                    if hoped is None:
                        continue
                    if weigh(done, self.num_folds, hoped=hoped).overtaking_index < look_index:
                        return len(done) + epoch / len(own.train_loss)
                done.append(self.difference(trial, best, fold))
                if len(done) < self.num_folds and given_up(weigh(done, self.num_folds)):
                    return float(len(done))
            return None

        def replay(order: Sequence[int]) -> tuple[float, float]:
            best, used = None, 0.0
            for number, trial in enumerate(order):
                start = number if in_turn else 0
                folds = [(start + turn) % self.num_folds for turn in range(self.num_folds)]
                ended = None if best is None else spent(trial, best, folds)
                used += self.num_folds if ended is None else ended
                if ended is None and (
                    best is None or self.scores[trial].mean() > self.scores[best].mean()
                ):
                    best = trial
            assert best is not None
            return used, float(self.scores[best].mean())

        return replay

    def by_optuna(self, pruner: str) -> Replay:
        """Ask one of Optuna's pruners, as a search with ``pruner`` does."""
        section = StudySection.model_validate({"pruner": pruner})

        def replay(order: Sequence[int]) -> tuple[float, float]:
            rule = make_pruner(section, self.num_folds)
            study = optuna.create_study(direction="maximize", pruner=rule)
            used = 0
            for number in order:
                trial, scores = study.ask(), self.scores[number]
                for fold, score in enumerate(scores):
                    used += 1
                    value = score if pruner == "wilcoxon" else scores[: fold + 1].mean()
                    trial.report(float(value), fold)
                    if fold < self.num_folds - 1 and trial.should_prune():
                        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                        break
                else:
                    study.tell(trial, float(scores.mean()))
            return used, study.best_value

        return replay

    def rules(self) -> dict[str, Replay]:
        """Every rule of the table."""
        found = {name: self.by_optuna(name) for name in ("none", "median", "hyperband", "wilcoxon")}
        for alpha in (0.1, 0.2, 0.3):
            found[f"p < {alpha}"] = self.by_evidence(lambda e, a=alpha: e.p_value < a)  # type: ignore[misc]
        for index in (0.1, 0.2, 0.25, 0.3, 0.35):
            found[f"index < {index}"] = self.by_evidence(lambda e, c=index: e.overtaking_index < c)  # type: ignore[misc]
            found[f"{index}, same fold"] = self.by_evidence(
                lambda e, c=index: e.overtaking_index < c,  # type: ignore[misc]
                in_turn=False,
            )
            for look_index in (0.1, 0.15, 0.2):
                found[f"{index}, looks {look_index}"] = self.by_evidence(
                    lambda e, c=index: e.overtaking_index < c,  # type: ignore[misc]
                    look_index=look_index,
                )
        found["evidence"] = self.by_evidence(
            lambda e: e.overtaking_index < LEAST_INDEX, look_index=LEAST_LOOK_INDEX
        )
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("--orders", type=int, default=20, help="shuffled orders of every study")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recordings = [Recording(open_home(options.home), name) for name in options.studies]
    for name, recording in zip(options.studies, recordings, strict=True):
        best = recording.scores.mean(axis=1).max()
        print(f"{name}: {len(recording.trials)} trials, best cv_auc {best:.4f}")
    print(f"{'':18s}  {'as searched':^33s}  {f'{options.orders} shuffled orders of each':^33s}")
    heads = f"{'fewer':>6s} {'found':>6s} {'loss':>8s} {'worst':>8s}  "
    print(f"{'rule':18s}  {heads}  {heads}")
    for rule in recordings[0].rules():
        cells = []
        for shuffled in (False, True):
            rng = np.random.default_rng(0)
            savings, losses = [], []
            for recording in recordings:
                num_trials = len(recording.trials)
                orders = (
                    [rng.permutation(num_trials).tolist() for _ in range(options.orders)]
                    if shuffled
                    else [list(range(num_trials))]
                )
                replay = recording.rules()[rule]
                outcomes = [replay(order) for order in orders]
                total = num_trials * recording.num_folds
                savings += [total / used for used, _ in outcomes]
                truth = recording.scores.mean(axis=1).max()
                losses += [truth - score for _, score in outcomes]
            found = 100 * np.mean(np.array(losses) < 1e-9)
            cells.append(
                f"{np.mean(savings):5.2f}x {found:4.0f} % {np.mean(losses):8.4f} "
                f"{np.max(losses):8.4f}  "
            )
        print(f"{rule:18s}  {cells[0]}  {cells[1]}", flush=True)


if __name__ == "__main__":
    main()
