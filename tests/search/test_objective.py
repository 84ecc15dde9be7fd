"""What an objective makes of looks and folds; nothing is trained."""

from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from busi_search.home import Home
from busi_search.search import objective as objective_module
from busi_search.search.context import StudyContext
from busi_search.search.cross_validation import DevelopmentSet
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.objective import Objective, TrialTaken
from busi_search.search.prepare import prepare_study
from busi_search.search.store.fold_records import stored_folds, unfinished_fold
from busi_search.search.store.open import find_study
from busi_search.search.store.queue import Claim, this_worker
from busi_search.search.store.records import PRUNE_REASON, WORKER, UnfinishedFold
from busi_search.training.metrics import compute_metrics, softmax
from tests.conftest import TINY

Steps = Generator[Look | FoldResult]
LOOKS = (2, 4, 6)


def _context(home: Home, *overrides: str) -> StudyContext:
    chosen = *TINY, "epochs=8", "recipes=[]", "pruner='evidence'", *overrides
    return prepare_study("quickstart", home=home, overrides=chosen, device="cpu")


def _steps(data: DevelopmentSet, index: int, *, auc_on_the_way: float = 0.9) -> Steps:
    """Looks and a good result of one fold, the same for every trial."""
    truth = data.labels[data.folds[index].validation]
    logits = np.random.default_rng(index).normal(size=(len(truth), 3))
    logits[np.arange(len(truth)), truth] += 2.0
    rows = np.log(softmax(logits)).astype(np.float32)
    for epoch in LOOKS:
        yield Look(index, epoch, 8, (auc_on_the_way,) * (epoch // 2))
    yield FoldResult(
        index, rows, compute_metrics(np.exp(rows.astype(float)), truth),
        (0.0,) * 8, (*LOOKS, 8), (0.9,) * 4, 0, 0.0,
    )  # fmt: skip


def _claim(study: optuna.Study, storage: BaseStorage) -> Claim:
    trial_id = storage.create_new_trial(storage.get_study_id_from_name(study.study_name))
    storage.set_trial_user_attr(trial_id, WORKER, this_worker())
    return Claim(optuna.Trial(study, trial_id), storage, trial_id, this_worker())


@pytest.fixture
def scored(home: Home) -> tuple[Objective, Callable[[], Claim], optuna.Study]:
    """An objective, what claims the next trial, and their study, which lies in memory."""
    context, storage = _context(home), InMemoryStorage()
    study = optuna.create_study(storage=storage, direction="maximize")
    return Objective(context, study), lambda: _claim(study, storage), study


def _with_a_bad_second_fold(
    data: DevelopmentSet, _: object, *, trial_number: int, first_fold: int, **__: object
) -> Steps:
    """Trial 1 is trial 0 again, but its second fold begins badly."""
    for turn in range(3):
        bad = trial_number == 1 and turn == 1
        yield from _steps(data, (first_fold + turn) % 3, auc_on_the_way=0.5 if bad else 0.9)


def test_a_trial_is_given_up_within_a_later_fold_by_what_all_its_folds_say(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective_module, "cross_validate", _with_a_bad_second_fold)
    context = _context(home)
    search = run_search(context, InlineExecutor(), Tracker(context), num_trials=2, num_workers=1)
    *_, progress = search
    first, second = find_study(home, context.name).get_trials()
    assert first.state == TrialState.COMPLETE
    assert second.state == TrialState.PRUNED
    # It began with fold 1, which it has whole; fold 2 ended at the first look that may end it.
    assert set(stored_folds(second, 3)) == {1}
    assert unfinished_fold(second) == UnfinishedFold(fold=2, epochs=4, auc=0.5)
    assert "in epoch 4 of 8 of fold 2" in second.user_attrs[PRUNE_REASON]
    assert progress.folds_trained == 3 + 2


def test_a_trial_that_is_given_up_is_not_iterated_any_further(
    scored: tuple[Objective, Callable[[], Claim], optuna.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, claim_next, study = scored
    taken: list[tuple[int, str]] = []

    def watched(*args: object, **options: object) -> Steps:
        number = options["trial_number"]
        try:
            for step in _with_a_bad_second_fold(*args, **options):  # type: ignore[arg-type]
                taken.append((number, type(step).__name__))
                yield step
        finally:
            taken.append((number, "closed"))

    monkeypatch.setattr(objective_module, "cross_validate", watched)
    first, second = claim_next(), claim_next()
    study.tell(first.trial, objective(first))
    with pytest.raises(optuna.TrialPruned, match="in epoch 4 of 8 of fold 2"):
        objective(second)
    assert [what for number, what in taken if number == 1] == [
        "Look", "Look", "Look", "FoldResult", "Look", "Look", "closed",
    ]  # fmt: skip


@pytest.mark.parametrize(("num_steps", "num_stored"), [(4, 0), (6, 1)])
def test_what_another_worker_has_taken_over_is_left_to_it(
    scored: tuple[Objective, Callable[[], Claim], optuna.Study],
    monkeypatch: pytest.MonkeyPatch,
    num_steps: int,
    num_stored: int,
) -> None:
    """Taken over before the first fold was stored, and before a look gave the trial up."""
    objective, claim_next, study = scored
    first, second = claim_next(), claim_next()

    def overtaken(*args: object, **options: object) -> Steps:
        for count, step in enumerate(_with_a_bad_second_fold(*args, **options), start=1):  # type: ignore[arg-type]
            if options["trial_number"] == 1 and count == num_steps:
                second.storage.set_trial_user_attr(second.trial_id, WORKER, "elsewhere/1.2")
            yield step

    monkeypatch.setattr(objective_module, "cross_validate", overtaken)
    study.tell(first.trial, objective(first))
    with pytest.raises(TrialTaken):
        objective(second)
    left = second.frozen()
    assert len(stored_folds(left, 3)) == num_stored
    assert PRUNE_REASON not in left.user_attrs
    assert unfinished_fold(left) is None


def test_a_trial_goes_on_with_the_folds_that_are_stored(
    scored: tuple[Objective, Callable[[], Claim], optuna.Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, claim_next, study = scored
    known: list[set[int]] = []

    def interrupted(data: DevelopmentSet, _: object, **options: dict[int, FoldResult]) -> Steps:
        finished = options["finished"]
        known.append(set(finished))
        for index in range(3):
            if index in finished:
                yield finished[index]
            elif len(known) == 1 and index == 2:
                raise KeyboardInterrupt
            else:
                yield from _steps(data, index)

    monkeypatch.setattr(objective_module, "cross_validate", interrupted)
    claim = claim_next()
    with pytest.raises(KeyboardInterrupt):
        objective(claim)
    before = claim.frozen().intermediate_values
    again = replace(claim, trial=optuna.Trial(study, claim.trial_id))
    (value,) = objective(again)
    assert known == [set(), {0, 1}]
    stored = stored_folds(claim.frozen(), 3)
    assert value == np.mean([stored[index].metrics["auc"] for index in range(3)])
    after = claim.frozen().intermediate_values
    assert set(after) == {0, 1, 2}
    assert {fold: after[fold] for fold in before} == before
