"""What studies and trials keep about themselves: the names of old studies, in one place."""

import re
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

import busi_search
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.search.reopen import reopen_study
from busi_search.search.store.records import (
    FINISHED,
    is_finished,
    num_finished,
    prune_reason,
    recipe_attributes,
    recipe_name,
    recipe_settings,
    stored_costs,
    worker_of,
)
from busi_search.search.store.study_identity import Identity
from busi_search.search.store.study_parts import Cost, Explanations, Released, Tracked
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import StudySpec, spec_json

PACKAGE = Path(busi_search.__file__).parent
SPEC = StudySpec.model_validate({"dataset": {"source": "phantom"}})
OTHER = StudySpec.model_validate({"dataset": {"source": "phantom"}, "study": {"seed": 3}})
IDENTITY = Identity(spec_json(SPEC), "images", "division")
ESTIMATE = {"value": 0.8, "low": 0.7, "high": 0.9, "naive": 0.85}


def test_attributes_are_read_and_written_in_the_store_only() -> None:
    elsewhere = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"user_attr(?!s? = _is_not_shown)", path.read_text())
        and PACKAGE / "search/store" not in path.parents
    }
    # What a sampler is shown of a study is a storage that names every method of one, and has few.
    assert elsewhere == set()


def test_a_study_that_was_only_named_has_nothing_to_say() -> None:
    study = optuna.create_study()
    record = StudyRecord(study)
    assert not record.has_begun
    assert (record.identity, record.target, record.tracked, record.released) == (None,) * 4
    assert record.explanations is None
    assert record.cost == Cost(0.0, 0.0, 0.0)
    assert (record.forgiven, record.versions, record.simulated) == (frozenset(), {}, False)
    with pytest.raises(InputError, match="has not begun"):
        reopen_study(study, home=Home(Path("nowhere"), "", ""))


def test_a_study_keeps_what_it_is_under_the_names_of_old_studies() -> None:
    study = optuna.create_study()
    record = StudyRecord(study)
    record.describe(
        spec_text="[study]",
        origin="quickstart",
        counts={"num_images": 3},
        class_names=("benign", "malignant"),
        simulated=True,
        versions={"torch": "2.11"},
    )
    assert not record.has_begun
    record.set_identity(IDENTITY)
    record.set_target(9)
    record.forgive([1, 4])
    record.set_missing(2)
    record.set_tracked(Tracked("7", "abc"))
    record.set_cost(Cost(3.0, 2.0, 1.0))
    record.set_released(Released(8, 5, "3", {"auc": ESTIMATE}, 1e-7))
    record.set_explanations(Explanations(5, {"0": [[1, 255]]}))
    assert study.user_attrs == {
        "spec_text": "[study]",
        "origin": "quickstart",
        "counts": {"num_images": 3},
        "class_names": ["benign", "malignant"],
        "simulated": True,
        "versions": {"torch": "2.11"},
        "identity": {"spec": IDENTITY.spec, "fingerprint": "images", "partition": "division"},
        "target": 9,
        "forgiven": [1, 4],
        "last_short_of": 2,
        "tracked": {"experiment_id": "7", "run_id": "abc"},
        "cost": {"seconds": 3.0, "search_seconds": 2.0, "tracking_seconds": 1.0},
        "released": {
            "finished": 8,
            "trial": 5,
            "version": "3",
            "estimates": {"auc": ESTIMATE},
            "rebuilt_difference": 1e-7,
            "model": "busi-classifier",
        },
        "explanations": {"trial": 5, "maps": {"0": [[1, 255]]}},
    }
    assert record.has_begun
    assert record.identity == IDENTITY
    assert record.identity.load_spec() == SPEC
    assert (record.identity.objective, record.identity.num_folds) == ("cv_auc", 5)
    assert (record.spec_text, record.origin, record.simulated) == ("[study]", "quickstart", True)
    assert (record.versions, record.target) == ({"torch": "2.11"}, 9)
    assert record.forgiven == {1, 4}
    assert record.tracked == Tracked("7", "abc")
    assert record.cost == Cost(3.0, 2.0, 1.0)
    assert record.released == Released(8, 5, "3", {"auc": ESTIMATE}, 1e-7)
    assert record.explanations == Explanations(5, {"0": [[1, 255]]})


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (IDENTITY, None),
        (Identity(IDENTITY.spec, "others", "division"), r"images changed .*\(images → others\)"),
        (Identity(IDENTITY.spec, "images", "another"), "another division into folds and test"),
        (
            Identity(spec_json(OTHER), "images", "division"),
            r"\(study.seed\)",
        ),
    ],
)
def test_a_study_says_in_what_it_differs(now: Identity, expected: str | None) -> None:
    found = IDENTITY.difference(now)
    assert (found is None) == (expected is None)
    assert re.search(expected or "", found or "")


def test_finished_trials_are_evaluated_or_given_up() -> None:
    states = list(TrialState)
    trials = [
        create_trial(state=s, value=0.5 if s == TrialState.COMPLETE else None) for s in states
    ]
    finished = [trial.state for trial in trials if is_finished(trial)]
    assert set(finished) == set(FINISHED) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert num_finished(trials) == 2


def test_a_trial_keeps_what_it_is_under_the_names_of_old_studies() -> None:
    study = optuna.create_study()
    study.enqueue_trial({}, user_attrs=recipe_attributes("known", {"epochs": 3}))
    trial = study.ask()
    assert trial.user_attrs == {"recipe": "known", "recipe_settings": {"epochs": 3}}
    assert recipe_name(trial) == "known"
    assert recipe_settings(trial) == {"epochs": 3}
    sampled = create_trial(
        value=0.5,
        user_attrs={
            "prune_reason": "too slow",
            "worker": "here/1.2",
            "num_parameters": 7,
        },
    )
    assert recipe_name(sampled) is None
    assert recipe_settings(sampled) == {}
    assert prune_reason(sampled) == "too slow"
    assert worker_of(sampled) == "here/1.2"
    assert stored_costs(sampled) == {"num_parameters": 7}
