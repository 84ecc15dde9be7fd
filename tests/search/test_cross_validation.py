from collections.abc import Generator, Iterator

import numpy as np
import pytest

from busi_search.data.folds import make_folds
from busi_search.search.cross_validation import DevelopmentSet, TrainingDiverged, cross_validate
from busi_search.search.fold_result import FoldResult, Look, fold_results, gather_out_of_fold
from busi_search.search.store.fold_records import decode_fold, encode_fold
from busi_search.search.store.records import cv_metrics
from busi_search.spec import Hyperparameters
from busi_search.training import from_hyperparameters as assembly

LABELS = np.arange(60) % 3
GROUPS = np.arange(60)
FOLDS = make_folds(LABELS, GROUPS, num_folds=3, seed=0)


def _images() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 160, (60, 28, 28))
    return (noise + 40 * LABELS[:, None, None]).astype(np.uint8)


def _steps(trial: int = 0, **options: object) -> Generator[Look | FoldResult]:
    hyperparameters = Hyperparameters(
        epochs=4, batch_size=8, learning_rate=5e-3, augmentation_strength=0.2, speckle=0.3
    )
    if "hyperparameters" in options:
        hyperparameters = hyperparameters.model_copy(update=options.pop("hyperparameters"))
    data = DevelopmentSet(_images(), LABELS, GROUPS, FOLDS, num_classes=3, positive=1)
    return cross_validate(data, hyperparameters, study_seed=0, trial_number=trial, **options)


def _run(trial: int = 0, **options: object) -> list[FoldResult]:
    return list(fold_results(_steps(trial, **options)))


def test_a_golden_seeded_trial() -> None:
    """Seeds, folds, model, augmentation and optimizer together: a refactor must not move it."""
    figures = cv_metrics(_run())
    assert figures["cv_auc"] == pytest.approx(GOLDEN_AUC, abs=0.02)
    assert figures["cv_log_loss"] == pytest.approx(GOLDEN_LOG_LOSS, abs=0.04)


GOLDEN_AUC, GOLDEN_LOG_LOSS = 0.9762, 0.6745


def test_a_trial_depends_on_its_number_not_on_what_ran_before() -> None:
    first = _run(trial=5)
    _run(trial=6)
    again = _run(trial=5)
    other = _run(trial=7)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.log_probabilities, two.log_probabilities)
    assert not np.array_equal(first[0].log_probabilities, other[0].log_probabilities)


def test_finished_folds_are_passed_through_and_the_rest_is_the_same() -> None:
    whole = _run()
    resumed = _run(finished={0: whole[0]})
    assert resumed[0] is whole[0]
    for one, two in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one.log_probabilities, two.log_probabilities)


def test_what_a_fold_gives_does_not_depend_on_the_fold_begun_with() -> None:
    whole = _run()
    turned = _run(first_fold=2, finished={0: whole[0]})
    assert [result.fold for result in turned] == [2, 0, 1]
    for result in turned:
        expected = whole[result.fold].log_probabilities
        np.testing.assert_array_equal(result.log_probabilities, expected)


def test_stored_folds_keep_every_bit() -> None:
    result = _run()[1]
    back = decode_fold(1, encode_fold(result))
    np.testing.assert_array_equal(back.log_probabilities, result.log_probabilities)
    assert back.metrics == dict(result.metrics)
    assert back.val_auc == result.val_auc
    assert back.train_loss == result.train_loss
    assert back.image_passes == 4 * 40


def test_out_of_fold_rows_belong_to_their_images() -> None:
    results = _run()
    gathered = gather_out_of_fold(results, FOLDS)
    for result, fold in zip(results, FOLDS, strict=True):
        rows = gathered.log_probabilities[fold.validation]
        np.testing.assert_array_equal(rows, result.log_probabilities)
        assert set(gathered.fold_of[fold.validation]) == {result.fold}


def test_the_scored_fold_chooses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Early stopping watches an inner split of the training images, never the fold."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    original = assembly.fit_fold

    def spy(*args: object, **options: object) -> object:
        seen.append((options["train"], options["monitor"]))
        return original(*args, **options)

    monkeypatch.setattr(assembly, "fit_fold", spy)
    _run(hyperparameters={"early_stopping_patience": 1, "epochs": 3})
    for (train, monitor), fold in zip(seen, FOLDS, strict=True):
        assert not set(train) & set(monitor)
        assert set(train) | set(monitor) == set(fold.train)
        assert not set(fold.validation) & (set(train) | set(monitor))


def test_looks_come_before_the_result_and_show_the_same_curve() -> None:
    steps = list(_steps())
    assert [type(step) for step in steps] == [Look, Look, Look, FoldResult] * 3
    for fold in range(3):
        *looks, result = steps[4 * fold : 4 * fold + 4]
        assert [(look.fold, look.epoch, look.epochs) for look in looks] == [
            (fold, epoch, 4) for epoch in (1, 2, 3)
        ]
        assert [look.val_auc for look in looks] == [result.val_auc[:n] for n in (1, 2, 3)]
        assert result.val_epochs == (1, 2, 3, 4)


def test_nothing_is_trained_beyond_where_iterating_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    original = assembly.fit_fold

    def spy(*args: object, **options: object) -> Iterator[object]:
        for epoch in original(*args, **options):
            trained.append(epoch.epoch)
            yield epoch

    monkeypatch.setattr(assembly, "fit_fold", spy)
    steps = _steps()
    look = next(step for step in steps if step.fold == 1)
    steps.close()
    assert isinstance(look, Look)
    assert trained == [1, 2, 3, 4, 1]


def test_a_diverging_configuration_says_so() -> None:
    with pytest.raises(TrainingDiverged, match=r"fold 0"):
        _run(hyperparameters={"learning_rate": 10.0, "optimizer": "sgd", "epochs": 6,
                              "scheduler": "none", "architecture": "resnet18"})  # fmt: skip
