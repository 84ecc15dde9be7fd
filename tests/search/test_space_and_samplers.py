from itertools import pairwise
from pathlib import Path

import optuna
import pytest
from optuna.samplers._tpe.sampler import default_gamma
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from busi_search.errors import InputError
from busi_search.search import sampler_view as expectations
from busi_search.search.sampler_view import as_finished
from busi_search.search.samplers import make_sampler, num_possible_trials
from busi_search.search.space import grid_points, recipe_trials, suggest_hyperparameters
from busi_search.search.store.fold_records import fold_key
from busi_search.search.store.records import HYPERPARAMETERS, UNFINISHED_FOLD, UnfinishedFold
from busi_search.spec import StudySpec
from busi_search.study_files import parse_spec

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "dropout": {"low": 0.0, "high": 0.6},
    "architecture": ["small_cnn", "resnet18"],
    "weights": ["none", "imagenet"],
    "freeze_depth": {"low": 1, "high": 5, "only_if": {"weights": ["imagenet", "file"]}},
}


def _spec(**changes: object) -> StudySpec:
    raw = {"dataset": {"source": "busi"}, "space": SPACE, **changes}
    return parse_spec(raw, origin="test")


def _optimise(spec: StudySpec, num_trials: int, storage: str | None = None) -> optuna.Study:
    meeting_place = InMemoryStorage() if storage is None else optuna.storages.get_storage(storage)
    study = optuna.create_study(
        sampler=make_sampler(spec, meeting_place),
        storage=meeting_place,
        study_name="s",
        load_if_exists=True,
    )

    def objective(trial: optuna.Trial) -> float:
        chosen = suggest_hyperparameters(trial, spec)
        return abs(chosen.dropout - 0.3) + chosen.learning_rate

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study.optimize(objective, n_trials=num_trials)
    return study


def test_conditional_parameters_are_sampled_only_where_they_mean_something() -> None:
    spec = _spec(study={"sampler": "random"})
    study = optuna.create_study(sampler=make_sampler(spec))
    kinds = set()
    for _ in range(40):
        trial = study.ask()
        chosen = suggest_hyperparameters(trial, spec)
        assert ("freeze_depth" in trial.params) == (chosen.weights == "imagenet")
        assert chosen.freeze_depth == trial.params.get("freeze_depth", 0)
        assert 1e-4 <= chosen.learning_rate <= 1e-2
        kinds.add(chosen.weights)
        study.tell(trial, 0.0)
    assert kinds == {"none", "imagenet"}


def test_a_weights_file_switches_freezing_on() -> None:
    space = {key: value for key, value in SPACE.items() if key != "weights"}
    spec = _spec(space=space, hyperparameters={"weights": "my/w.pth"})
    trial = optuna.create_study(sampler=make_sampler(spec)).ask()
    suggest_hyperparameters(trial, spec)
    assert "freeze_depth" in trial.params


def test_conditions_in_a_circle_are_refused() -> None:
    space = {
        "dropout": {"low": 0, "high": 0.5, "only_if": {"epochs": [1]}},
        "epochs": {"low": 1, "high": 5, "only_if": {"dropout": [0.1]}},
    }
    spec = _spec(space=space)
    with pytest.raises(InputError, match="circle"):
        suggest_hyperparameters(optuna.create_study().ask(), spec)


def test_the_refusal_names_the_circle_and_what_depends_on_it() -> None:
    space = {
        "shift": {"low": 0, "high": 0.2},
        "erasing": {"low": 0, "high": 0.5, "only_if": {"dropout": [0.1]}},
        "dropout": {"low": 0, "high": 0.5, "only_if": {"epochs": [1]}},
        "epochs": {"low": 1, "high": 5, "only_if": {"dropout": [0.1], "shift": [0.1]}},
        "zoom": {"low": 0, "high": 0.2, "only_if": {"shift": [0.1]}},
    }
    with pytest.raises(InputError, match=r"of erasing, dropout, epochs form a circle"):
        suggest_hyperparameters(optuna.create_study().ask(), _spec(space=space))


def test_hyperparameters_are_sampled_in_the_files_order_after_their_conditions() -> None:
    """The order decides which random number becomes which value: it must never change."""
    space = {
        "focal_gamma": {"low": 1.0, "high": 2.0, "only_if": {"loss": ["focal"]}},
        "zoom": {"choices": [0.1], "only_if": {"weights": ["none"], "loss": ["focal"]}},
        "shift": {"low": 0.0, "high": 0.2, "only_if": {"zoom": [0.1]}},
        "weights": ["none"],
        "dropout": {"low": 0.0, "high": 0.5},
        "erasing": {"low": 0.0, "high": 0.5, "only_if": {"head": ["linear"]}},
        "loss": ["focal"],
    }
    trial = optuna.create_study().ask()
    suggest_hyperparameters(trial, _spec(space=space))
    assert list(trial.params) == [
        *("weights", "dropout", "erasing", "loss"),
        *("focal_gamma", "zoom"),
        "shift",
    ]


def test_recipes_are_tried_as_written_and_taught_to_the_sampler() -> None:
    recipe = [{"name": "known", "learning_rate": 1e-3, "dropout": 0.9, "optimizer": "sgd"}]
    spec = _spec(recipe=recipe)
    ((parameters, attributes),) = recipe_trials(spec)
    assert attributes["recipe"] == "known"
    assert "dropout" not in parameters  # outside the space
    study = optuna.create_study(sampler=make_sampler(spec))
    study.enqueue_trial(parameters, user_attrs=attributes)
    trial = study.ask()
    chosen = suggest_hyperparameters(trial, spec)
    assert (chosen.learning_rate, chosen.dropout, chosen.optimizer) == (1e-3, 0.9, "sgd")
    assert trial.params["learning_rate"] == 1e-3
    assert "dropout" not in trial.params


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_an_interrupted_search_proposes_what_an_undisturbed_one_does(
    sampler: str, tmp_path: Path
) -> None:
    """Even a new process with a new sampler object goes on where the old one stopped."""
    space = {"learning_rate": SPACE["learning_rate"], "dropout": SPACE["dropout"]}
    spec = _spec(study={"sampler": sampler, "startup_trials": 4}, space=space)
    whole = _optimise(spec, 9)
    storage = f"sqlite:///{tmp_path}/o.db"
    for count in (5, 1, 3):
        broken = _optimise(spec, count, storage)
    for resumed, undisturbed in zip(broken.trials, whole.trials, strict=True):
        assert resumed.params == pytest.approx(undisturbed.params)


def test_a_grid_is_finite_or_refused() -> None:
    finite = {"dropout": {"low": 0.0, "high": 0.4, "step": 0.2}, "architecture": ["small_cnn"],
              "freeze_depth": {"low": 0, "high": 2}}  # fmt: skip
    spec = _spec(study={"sampler": "grid"}, space=finite)
    assert num_possible_trials(spec) == 9
    study = _optimise(spec, 9)
    assert len({tuple(sorted(t.params.items())) for t in study.trials}) == 9
    with pytest.raises(InputError, match="learning_rate"):
        grid_points(_spec())


def test_a_grid_repeats_nothing_where_hyperparameters_are_conditional() -> None:
    space = {"loss": ["cross_entropy", "focal"], "focal_gamma": {
        "choices": [1.0, 2.0, 3.0], "only_if": {"loss": ["focal"]}},
        "freeze_depth": {"low": 0, "high": 2, "only_if": {"weights": ["imagenet"]}}}  # fmt: skip
    spec = _spec(study={"sampler": "grid"}, space=space)
    assert num_possible_trials(spec) == 4
    study = _optimise(spec, 4)
    seen = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(seen)) == 4
    assert sum(trial.params["loss"] == "focal" for trial in study.trials) == 3


def _trial(means: list[float], value: float | None = None) -> FrozenTrial:
    return create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        intermediate_values=dict(enumerate(means)),
    )


def _numbered(*trials: FrozenTrial) -> list[FrozenTrial]:
    for number, trial in enumerate(trials):
        trial.number = number
    return list(trials)


def test_pruned_trials_count_at_the_value_to_be_expected_of_them() -> None:
    """The first fold is the easy one: both finished trials fell by .1 after it."""
    trials = _numbered(
        _trial([0.8, 0.75, 0.7], 0.7),
        _trial([0.9, 0.85, 0.8], 0.8),
        _trial([0.85]),
        _trial([0.9, 0.9]),
        _trial([]),
    )
    seen = as_finished(trials, minimise=False, running_means=True)
    assert [t.state for t in seen] == [TrialState.COMPLETE] * 5
    assert [t.value for t in seen] == pytest.approx([0.7, 0.8, 0.75, 0.85, 0.7])
    assert [t.value for t in as_finished(trials, minimise=True, running_means=True)][
        4
    ] == pytest.approx(0.85)
    assert trials[2].state == TrialState.PRUNED
    assert trials[2].values is None
    # Scores of single folds: the finished trials have .7 on average on fold 2, .8 on fold 0.
    finished = [_trial([0.9, 0.9, 0.6], 0.8), _trial([0.7, 0.9, 0.8], 0.8)]
    begun_elsewhere = _trial([])
    begun_elsewhere.intermediate_values = {2: 0.75, 0: 0.8}
    single = as_finished(_numbered(*finished, begun_elsewhere), minimise=False)
    assert single[2].value == pytest.approx(0.8 + (0.05 + 0.0) / 2)
    # Given up within fold 1, a quarter of the way, where they had .7 and .74: .9 came later.
    for trial, epochs, then in zip(finished, (24, 12), (0.7, 0.74), strict=True):
        looks = {"val_epochs": [epochs // 4, epochs], "val_auc": [then, 0.9]}
        trial.user_attrs = {HYPERPARAMETERS: {"epochs": epochs}, fold_key(1): looks}
    begun_elsewhere.user_attrs = {
        HYPERPARAMETERS: {"epochs": 12},
        UNFINISHED_FOLD: UnfinishedFold(1, 3, 0.69).encode(),
    }
    broken_off = as_finished(_numbered(*finished, begun_elsewhere), minimise=False)
    assert broken_off[2].value == pytest.approx(0.8 + (0.05 + 0.0 - 0.03) / 3)
    # Given up, but its worker was killed before that was told, and the next one finished the fold.
    begun_elsewhere.user_attrs[fold_key(1)] = {}
    begun_elsewhere.intermediate_values[1] = 0.9
    finished_after_all = as_finished(_numbered(*finished, begun_elsewhere), minimise=False)
    assert finished_after_all[2].value == pytest.approx(0.8 + (0.05 + 0.0 + 0.0) / 3)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_sampler_learns_from_pruned_trials(sampler: str) -> None:
    """Six bad trials are finished, all later ones pruned: Optuna's TPE stays with the six."""
    far: dict[bool, list[float]] = {True: [], False: []}
    spec = _spec(
        study={"sampler": sampler, "startup_trials": 6},
        space={"dropout": {"low": 0.0, "high": 0.9}},
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for seed in range(4):
        for ours in (True, False):
            plain = optuna.samplers.TPESampler(seed=seed, n_startup_trials=6)
            study = optuna.create_study(
                direction="maximize", sampler=make_sampler(spec) if ours else plain
            )
            for number in range(50):
                if number < 6:
                    study.enqueue_trial({"dropout": 0.5 + 0.06 * number + 0.01 * seed})
                trial = study.ask()
                off = abs(trial.suggest_float("dropout", 0.0, 0.9) - 0.2)
                trial.report(1.0 - off, 0)
                if number < 6:
                    study.tell(trial, 1.0 - off)
                else:
                    study.tell(trial, state=TrialState.PRUNED)
                if number >= 20:
                    far[ours].append(off)
    assert sum(far[True]) < 0.5 * sum(far[False])


def _asked(spec: StudySpec, study: optuna.Study) -> optuna.Trial:
    trial = study.ask()
    suggest_hyperparameters(trial, spec)
    return trial


def test_tpe_models_each_hyperparameter_by_itself() -> None:
    spec = _spec(study={"sampler": "tpe", "startup_trials": 5})
    study = _optimise(spec, 12)
    assert study.ask().relative_params == {}


def test_a_gaussian_process_models_together_what_every_trial_has() -> None:
    """A known system outside of the space, as to dropout, does not take dropout out of it."""
    recipe = {"architecture": "resnet18", "dropout": 0.9}
    spec = _spec(study={"sampler": "gp", "startup_trials": 5}, recipe=[recipe])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=make_sampler(spec))
    ((inside, attributes),) = recipe_trials(spec)
    study.enqueue_trial(inside, user_attrs=attributes)
    for number in range(12):
        trial = _asked(spec, study)
        assert ("dropout" in trial.params) == (number > 0)
        study.tell(trial, 0.1 * number)
    together = study.ask().relative_params.keys()
    assert together == {"learning_rate", "dropout", "architecture", "weights"}


def test_a_gaussian_process_knows_of_trials_under_way() -> None:
    spec = _spec(
        study={"sampler": "gp", "startup_trials": 5},
        space={"dropout": {"low": 0.0, "high": 0.9}},
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=make_sampler(spec))
    for _ in range(8):
        trial = _asked(spec, study)
        study.tell(trial, -((trial.params["dropout"] - 0.4) ** 2))
    workers = [_asked(spec, study).params["dropout"] for _ in range(3)]
    gaps = [abs(a - b) for i, a in enumerate(workers) for b in workers[:i]]
    assert min(gaps) > 0.01


def test_tpe_goes_on_where_a_gaussian_process_would_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("busi_search.search.samplers.MOST_GP_TRIALS", 10)
    spec = _spec(study={"sampler": "gp", "startup_trials": 5})
    study = _optimise(spec, 10)
    assert study.trials[9].system_attrs != {}
    assert study.ask().relative_params == {}


@pytest.mark.parametrize("minimise", [False, True])
def test_of_many_trials_the_best_and_a_part_of_the_others_are_shown(
    minimise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busi_search.search.sampler_view.MOST_SHOWN_TRIALS", 24)
    monkeypatch.setattr("busi_search.search.sampler_view.MOST_GOOD_TRIALS", 4)
    sign = -1 if minimise else 1
    # The best four are next to each other; one of them was given up. Two are under way.
    finished = [_trial([sign * 0.1], sign * 0.1) for _ in range(61)]
    finished[30:34] = [_trial([sign * 0.9], sign * 0.9) for _ in range(3)] + [_trial([sign * 0.8])]
    under_way = [create_trial(state=TrialState.RUNNING) for _ in range(2)]
    trials = _numbered(*finished, *under_way)
    shown = [trial.number for trial in as_finished(trials, minimise=minimise)]
    assert shown == sorted(shown)
    assert {30, 31, 32, 33, 61, 62} < set(shown)
    others = [number for number in shown if number not in range(30, 34) and number < 61]
    assert len(others) == 20
    assert (others[0], others[-1]) == (0, 60)
    # Three in a row have one of them, the best four aside.
    assert max(b - a for a, b in pairwise([n for n in others if n < 30])) <= 3
    assert [t.number for t in as_finished(trials[40:], minimise=minimise)] == list(range(40, 63))


def test_tpe_takes_the_trials_for_good_that_it_is_shown_as_the_best() -> None:
    taken = default_gamma(expectations.MOST_SHOWN_TRIALS)
    assert taken == expectations.MOST_GOOD_TRIALS == default_gamma(100_000)
