"""An audit repeats a study's search on parts; nothing of the study itself changes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from busi_search.data import sealed
from busi_search.data.ledger import ledger_path
from busi_search.errors import InputError
from busi_search.home import Home, open_home
from busi_search.release import audit as audit_module
from busi_search.release.audit import AuditPlan, plan_audit, repeat_context, run_audit
from busi_search.release.audit_report import AuditReport, Repeat
from busi_search.release.audit_splits import outer_split
from busi_search.search.prepare import prepare_study
from busi_search.search.store.identity import create_study
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.worker import search_worker
from tests.command import call_here
from tests.conftest import TINY

NAME = "quickstart-phantom"
Finish = tuple[list[tuple[Repeat, ...]], AuditReport]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A study of two trials, searched and not released."""
    home = open_home(tmp_path_factory.mktemp("audited") / "home")
    chosen = *TINY, "phantom_num_images=120", "recipes=[]", "epochs=1"
    context = prepare_study("quickstart", home=home, overrides=chosen, device="cpu")
    study = create_study(context, open_storage(home))
    StudyRecord(study).set_target(2)
    for _ in search_worker(context, False, 0):
        pass
    return home


def _plan(home: Home, repeats: int = 2) -> AuditPlan:
    return plan_audit(home, NAME, num_repeats=repeats, num_trials=2)


def _finish(plan: AuditPlan) -> Finish:
    steps, seen = run_audit(plan, inline=True), []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def test_an_outer_part_is_never_trained_on_or_scored_by(searched: Home) -> None:
    context = _plan(searched).context
    everyone = np.arange(len(context.development))
    outside = np.zeros(len(everyone), dtype=int)
    for number in range(5):
        split = outer_split(context, number)
        assert sorted([*split.inner, *split.outer]) == everyone.tolist()
        assert not set(context.groups[split.inner]) & set(context.groups[split.outer])
        seen = np.concatenate([np.concatenate([f.train, f.validation]) for f in split.folds])
        assert not set(seen) & set(split.outer)
        scored = np.concatenate([fold.validation for fold in split.folds])
        assert sorted(scored) == split.inner.tolist()
        outside[split.outer] += 1
    # A round shows every image outside once; the next one draws other parts.
    assert (outside == 1).all()
    assert outer_split(context, 5).outer.tolist() != outer_split(context, 0).outer.tolist()
    assert len({outer_split(context, number).seed for number in range(8)}) == 8


def test_an_audit_leaves_the_study_as_it_is_and_goes_on_where_it_stopped(
    searched: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the sealed test was opened")

    monkeypatch.setattr(sealed, "open_sealed_test", refuse)
    before = [t.user_attrs for t in find_study(searched, NAME).get_trials()]
    # Interrupted after a trial of the first repeat.
    steps = run_audit(_plan(searched), inline=True)
    next(steps)
    next(steps)
    steps.close()
    plan = _plan(searched)
    assert plan.stored(0) is None
    begun = find_study(plan.home, plan.repeat_name(0)).get_trials()
    assert [trial.state.name for trial in begun] == ["COMPLETE"]

    _, report = _finish(plan)
    after = find_study(plan.home, plan.repeat_name(0)).get_trials()
    assert after[0].datetime_complete == begun[0].datetime_complete
    assert [repeat.number for repeat in report.repeats] == [0, 1]
    assert all(repeat.trials == 2 for repeat in report.repeats)
    assert all(repeat.rebuilt_difference < 1e-4 for repeat in report.repeats)

    trials = find_study(searched, NAME).get_trials()
    assert [t.user_attrs for t in trials] == before
    assert not ledger_path(searched, NAME).exists()
    assert not (searched.root / "mlflow.db").exists()
    assert json.dumps(report.to_json(), allow_nan=False)

    # Another study, or another number of trials, is another audit.
    assert plan_audit(searched, NAME, num_repeats=2, num_trials=1).name != plan.name


def test_a_finished_audit_is_only_read(searched: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = _finish(_plan(searched))

    def refuse(*_: object) -> Iterator[None]:
        raise AssertionError("a repeat was searched again")

    monkeypatch.setattr(audit_module, "_search", refuse)
    _, again = _finish(_plan(searched))
    assert again == first


def test_the_corrected_figures_are_of_the_inner_images_alone(searched: Home) -> None:
    plan = _plan(searched)
    _, report = _finish(plan)
    split = outer_split(plan.context, 1)
    context = repeat_context(plan, split)
    repeat = report.repeats[1]
    # By hand: the winner's mean over its folds, each of inner images only.
    trial = find_study(context.home, context.name).get_trials()[repeat.winner]
    assert repeat.corrected.naive == pytest.approx(trial.value, abs=1e-6)
    assert repeat.num_outer == len(split.outer)


def test_the_command_says_it_and_answers_in_json(searched: Home) -> None:
    typed = ("--home", str(searched.root), "audit", NAME, "--repeats", "2", "--trials", "2")
    answer = call_here(*typed)
    assert answer.returncode == 0, answer.stderr
    assert "of 2 repeats" in answer.stdout
    found = json.loads(call_here(*typed, "--json", "--quiet").stdout)
    assert found["num_repeats"] == 2
    assert {"bias", "held", "expected_share", "agrees"} == set(found["corrected"])
    wrong = call_here("--home", str(searched.root), "audit", "nothing")
    assert wrong.returncode == 2
    assert "No study 'nothing'" in wrong.stderr


def test_two_sites_are_too_few(tmp_path: Path, searched: Home) -> None:
    plan = _plan(searched)
    section = plan.context.spec.dataset.model_copy(update={"folds": "site"})
    spec = plan.context.spec.model_copy(update={"dataset": section})
    folds = plan.context.partition.folds[:2]
    context = replace(
        plan.context, spec=spec, partition=replace(plan.context.partition, folds=folds)
    )
    with pytest.raises(InputError, match="three sites or more"):
        outer_split(context, 0)
    # With three, each is the outer part once, and the others are the folds.
    three = replace(context, partition=plan.context.partition)
    for number, fold in enumerate(plan.context.partition.folds):
        split = outer_split(three, number)
        assert split.outer.tolist() == fold.validation.tolist()
        assert len(split.folds) == 2
