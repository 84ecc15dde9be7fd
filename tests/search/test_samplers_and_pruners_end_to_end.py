"""Every sampler and pruner of the contract through a whole study on phantoms."""

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.progress import SearchProgress
from busi_search.search.store.fold_records import stored_folds, unfinished_fold
from busi_search.search.store.open import find_study
from busi_search.search.store.records import PRUNE_REASON
from busi_search.study_files import load_spec
from tests.conftest import TINY

FINITE = "learning_rate=[0.001,0.01]", "dropout=0.0", "weight_decay=0.0", "batch_size=16"


def _run(home: Home, *overrides: str, trials: int = 5) -> StudyResult:
    """Search and release."""
    return run_study(
        "quickstart",
        trials=trials,
        home=home.root,
        overrides=(*TINY, "epochs=1", "recipes=[]", *overrides),
        device="cpu",
        inline=True,
    )


def _search(home: Home, *overrides: str, trials: int = 5) -> SearchProgress:
    """Search only."""
    chosen = (*TINY, "epochs=1", "recipes=[]", *overrides)
    context = prepare_study("quickstart", home=home, overrides=chosen, device="cpu")
    search = run_search(
        context, InlineExecutor(), Tracker(context), num_trials=trials, num_workers=1
    )
    *_, progress = search
    return progress


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "cmaes"])
def test_samplers(sampler: str, home: Home) -> None:
    assert _search(home, f"sampler='{sampler}'", "pruner='none'").complete == 5
    study = find_study(home, "quickstart-phantom")
    rates = {trial.params["learning_rate"] for trial in study.get_trials()}
    # A sampler may come back to a value at the border.
    assert len(rates) >= 3


def test_a_grid_is_searched_once_and_an_infinite_one_is_refused(home: Home) -> None:
    with pytest.raises(InputError, match="finite space"):
        _search(home, "sampler='grid'")
    other = ("sampler='grid'", "pruner='none'", "augmentation_strength=0.0", *FINITE)
    assert _search(home, *other, trials=9).complete == 2
    study = find_study(home, "quickstart-phantom")
    assert sorted(t.params["learning_rate"] for t in study.get_trials()) == [0.001, 0.01]


@pytest.mark.parametrize("pruner", ["median", "hyperband", "wilcoxon", "evidence"])
def test_pruners(pruner: str, home: Home) -> None:
    """Trials that cannot learn are given up, and never the whole study."""
    progress = _search(
        home,
        f"pruner='{pruner}'",
        # Drawn by seed alone: trials 1 and 2 learn, trial 3 cannot and is far below both.
        "sampler='random'",
        "learning_rate=[1e-8,0.01]",
        "phantom_num_images=160",
        "batch_size=8",
        "augmentation_strength=0.0",
        "startup_trials=1",
    )
    trials = find_study(home, "quickstart-phantom").get_trials()
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert 3 in [trial.number for trial in pruned]
    assert trials[3].params["learning_rate"] == 1e-8
    assert progress.pruned == len(pruned)
    assert progress.complete == 5 - len(pruned) >= 1
    for trial in pruned:
        assert trial.user_attrs["prune_reason"]
        done = set(stored_folds(trial, 3))
        # By evidence each trial begins with the fold after its predecessor's.
        first = trial.number % 3 if pruner == "evidence" else 0
        assert done in ({first}, {first, (first + 1) % 3})


@pytest.mark.slow
def test_the_hopeless_are_given_up_in_their_first_fold_but_never_a_known_system(
    home: Home,
) -> None:
    result = _run(
        home,
        "epochs=8",
        "phantom_num_images=160",
        "sampler='random'",
        "learning_rate=[1e-8,0.01]",
        "augmentation_strength=0.0",
        "recipes=['recipes/004-balanced-resnet50']",
        "recipe_epochs=8",
        trials=7,
    )
    study = find_study(home, "quickstart-phantom")
    broken_off = {t.number: f for t in study.get_trials() if (f := unfinished_fold(t)) is not None}
    assert broken_off
    for number, fold in broken_off.items():
        trial = study.trials[number]
        assert trial.state == TrialState.PRUNED
        assert trial.params["learning_rate"] == 1e-8
        assert not stored_folds(trial, 3)
        assert fold.fold == number % 3
        assert 3 <= fold.epochs < 8
        assert fold.auc < study.best_value
        assert f"in epoch {fold.epochs} of 8 of fold {fold.fold}" in trial.user_attrs[PRUNE_REASON]
    (known,) = [t for t in study.get_trials() if "recipe" in t.user_attrs]
    assert stored_folds(known, 3)
    assert result.cost["epochs"] == sum(
        len(fold.train_loss) for t in study.get_trials() for fold in stored_folds(t, 3).values()
    ) + sum(fold.epochs for fold in broken_off.values())
    assert result.cost["epochs"] < 8 * 3 * 7


def test_several_objectives_give_a_front_and_a_stated_winner(home: Home) -> None:
    result = _run(
        home,
        "objective=['cv_auc','num_parameters','latency_ms']",
        "winner='one_standard_error'",
        "architecture=['small_cnn','mobilenet_v3_small']",
        trials=6,
    )
    study = find_study(home, "quickstart-phantom")
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert all(len(trial.values) == 3 for trial in complete)
    sizes = {t.params["architecture"]: t.values[1] for t in complete}
    assert sizes["small_cnn"] < 30_000
    assert all(trial.values[2] > 0 for trial in complete)
    assert result.release is not None
    best = max(complete, key=lambda trial: trial.values[0])
    winner = study.get_trials()[result.release.trial]
    assert winner.values[0] >= best.values[0] - best.user_attrs["standard_error"]
    near = [
        t for t in complete if t.values[0] >= best.values[0] - best.user_attrs["standard_error"]
    ]
    assert winner.values[1] == min(t.values[1] for t in near)
    client = MlflowClient(home.tracking_uri)
    runs = client.search_runs([result.experiment_id], "tags.`busi.pareto` = 'true'")
    front = {trial.number for trial in study.best_trials}
    assert {int(run.data.tags["optuna.number"]) for run in runs} == front
    path = client.download_artifacts(result.run_id, "report.html", str(home.root))
    page = Path(path).read_text(encoding="utf-8")
    assert "Pareto front" in page
    json.dumps(result.to_json())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("objective=['cv_auc','cv_speed']",), "cv_speed"),
        (("objective=['num_parameters']",), "objective must be"),
        (("objective=['cv_auc','cv_auc']",), "twice"),
        (("objective=['cv_auc','cv_f1']", "pruner='median'"), "one objective"),
        (("objective=['cv_auc','cv_f1']", "sampler='cmaes'"), "one objective"),
    ],
)
def test_wrong_objectives_are_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_spec("quickstart", overrides)


def test_conditional_hyperparameters_are_sampled_only_where_they_mean_something(
    home: Home,
) -> None:
    _search(
        home,
        "pruner='none'",
        "sampler='random'",
        "loss=['cross_entropy','focal']",
        "focal_gamma={low=1.0,high=3.0,only_if={loss=['focal']}}",
        trials=6,
    )
    trials = find_study(home, "quickstart-phantom").get_trials()
    kinds = {trial.params["loss"] for trial in trials}
    assert kinds == {"cross_entropy", "focal"}
    for trial in trials:
        assert ("focal_gamma" in trial.params) == (trial.params["loss"] == "focal")
        assert "freeze_depth" not in trial.params


def test_recipes_stand_beside_the_winner(home: Home) -> None:
    names = '["recipes/003a-custom-cnn","recipes/000-frozen-resnet18"]'
    result = _run(home, f"recipes={names}", trials=4)
    trials = find_study(home, "quickstart-phantom").get_trials()
    assert [t.user_attrs.get("recipe") for t in trials[:3]] == [
        "003a-custom-cnn", "000-frozen-resnet18", None,
    ]  # fmt: skip
    assert trials[0].user_attrs["hyperparameters"]["head"] == "mlp"
    assert trials[1].user_attrs["hyperparameters"]["dropout"] == 0.85
    path = MlflowClient(home.tracking_uri).download_artifacts(
        result.run_id, "report.html", str(home.root)
    )
    page = Path(path).read_text(encoding="utf-8")
    section = page[page.index("Known systems against the winner") :]
    assert section.index("winner (trial") < section.index("003a-custom-cnn (trial 0)")
    assert "test accuracy .924" in section
    assert re.search(r"[+-]0\.\d{3} \([+-]0\.\d{3} to [+-]0\.\d{3}\)", section)


def test_a_configuration_whose_loss_explodes_is_given_up_with_its_reason(home: Home) -> None:
    progress = _search(
        home,
        "learning_rate=[10.0,0.001]",
        "optimizer='sgd'",
        "weight_decay=10.0",
        "epochs=30",
        trials=6,
    )
    assert progress.failed == 0
    trials = find_study(home, "quickstart-phantom").get_trials()
    exploded = [t for t in trials if "loss became" in t.user_attrs.get("prune_reason", "")]
    assert exploded
    assert all(trial.state == TrialState.PRUNED for trial in exploded)


def test_a_study_without_a_space_is_its_one_configuration(home: Home) -> None:
    context = prepare_study(
        "recipes/003a-custom-cnn",
        home=home,
        overrides=("dataset.source='phantom'", *TINY[1:3], "epochs=1", "image_size_pixels=28"),
    )
    assert not context.spec.space
    result = run_study(
        "recipes/003a-custom-cnn", trials=50, home=home.root, inline=True, device="cpu",
        overrides=("dataset.source='phantom'", *TINY[1:3], "epochs=1", "image_size_pixels=28"),
    )  # fmt: skip
    assert result.progress.finished == 1
    assert result.release is not None
