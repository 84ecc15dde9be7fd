import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import log_expit

from busi_search.errors import InputError
from busi_search.models.loading import load_champion
from busi_search.release.calibration import choose_operating_point, cross_fitted_calls
from busi_search.report.reopened import reopen_winner
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study
from busi_search.search.store.open import find_study
from busi_search.search.store.study_identity import Identity
from busi_search.spec import EARLIER_RULE, OperatingRule, StudySpec, spec_json
from busi_search.study_files import parse_spec
from tests.conftest import TINY

BUSI = {"dataset": {"source": "busi"}}
Bools = npt.NDArray[np.bool_]


def drawn(num: int = 200, seed: int = 1) -> tuple[npt.NDArray[np.float64], Bools]:
    rng = np.random.default_rng(seed)
    positive = np.arange(num) % 4 == 0
    return np.round(rng.normal(size=num) + positive, 1), positive


@pytest.mark.parametrize("kind", ["sensitivity", "specificity"])
@pytest.mark.parametrize("at_least", [0.5, 0.9, 0.95])
def test_the_rule_holds_and_no_threshold_does_better_in_the_other(
    kind: str, at_least: float
) -> None:
    scores, positive = drawn()
    rule = OperatingRule.model_validate({"rule": kind, "at_least": at_least})
    point = choose_operating_point(scores, positive, rule)
    for threshold in [*np.unique(scores), np.inf]:
        called = scores >= threshold
        shares = {"sensitivity": np.mean(called[positive])}
        shares["specificity"] = np.mean(~called[~positive])
        other = "specificity" if kind == "sensitivity" else "sensitivity"
        if shares[kind] >= at_least:
            assert shares[other] <= getattr(point, other)
    assert getattr(point, kind) >= at_least


def test_net_benefit_is_the_highest_there_is_and_is_near_the_probability_if_calibrated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=20_000)
    positive = rng.uniform(size=len(scores)) < scores
    for probability in (0.1, 0.3, 0.7):
        rule = OperatingRule(rule="net_benefit", threshold_probability=probability)
        point = choose_operating_point(scores, positive, rule)
        odds = probability / (1 - probability)
        benefits = [
            np.mean((scores >= t) & positive) - odds * np.mean((scores >= t) & ~positive)
            for t in (point.threshold, *np.linspace(0, 1, 101))
        ]
        assert benefits[0] == pytest.approx(max(benefits))
        assert point.threshold == pytest.approx(probability, abs=0.06)


def test_a_promise_on_its_own_images_is_too_good_and_the_cross_fitted_one_is_not() -> None:
    """Of few positives, the sensitivity on other images falls short of what was asked for."""
    rule = OperatingRule(at_least=0.9)
    rng = np.random.default_rng(0)
    promised, cross_fitted, new = [], [], []
    for _ in range(300):
        labels = (np.arange(150) % 3 == 0).astype(int)
        logits = rng.normal(size=150) + labels
        rows = np.column_stack([log_expit(-logits), log_expit(logits)])
        fold_of = np.arange(150) // 3 % 5
        point = choose_operating_point(np.exp(rows[:, 1]), labels == 1, rule)
        called = cross_fitted_calls(rows, labels, fold_of, positive=1, rule=rule)
        promised.append(point.sensitivity)
        cross_fitted.append(called[labels == 1].mean())
        new.append(np.mean(1 / (1 + np.exp(-rng.normal(1, size=1000))) >= point.threshold))
    assert np.mean(promised) > np.mean(new) + 0.01
    assert np.mean(cross_fitted) == pytest.approx(np.mean(new), abs=0.008)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"rule": "net_benefit"}, "needs threshold_probability"),
        ({"threshold_probability": 0.1}, 'belongs to rule = "net_benefit"'),
        ({"rule": "youden"}, "operating_point.rule"),
        ({"at_leest": 0.9}, "unknown key 'operating_point.at_leest'; did you mean 'at_least'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(section: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence.replace("?", r"\?")):
        parse_spec({**BUSI, "operating_point": section}, origin="study.toml")


def test_a_study_of_an_earlier_version_keeps_its_rule() -> None:
    spec = parse_spec(BUSI, origin="study.toml")
    stored = json.loads(spec_json(spec))
    assert stored.pop("operating_point") == OperatingRule().model_dump(mode="json")
    old = Identity(spec=json.dumps(stored), fingerprint="f", partition="p")
    assert old.load_spec().operating_point == OperatingRule.model_validate(EARLIER_RULE)

    def again(spec: StudySpec) -> Identity:
        return Identity(spec=spec_json(spec), fingerprint="f", partition="p")

    silent = old.with_earlier_rules(spec)
    assert silent.operating_point == OperatingRule.model_validate(EARLIER_RULE)
    assert old.difference(again(silent)) is None
    other = parse_spec({**BUSI, "operating_point": {"rule": "sensitivity"}}, origin="study.toml")
    assert old.with_earlier_rules(other) == other
    assert "operating_point.rule" in str(old.difference(again(other)))
    # A study that states its rule does not take another one for silence.
    new = again(other)
    assert new.with_earlier_rules(spec) == spec


def test_a_winner_is_registered_with_its_rule(tiny_result: StudyResult) -> None:
    context = tiny_result.context
    assert tiny_result.release is not None
    version = tiny_result.release.version
    model = load_champion(context.home, f"models:/{version.name}/{version.version}")
    winner = reopen_winner(context.home, context.name)
    point = winner.calibration.operating_point
    assert model.operating_threshold == point.threshold
    assert point.sensitivity >= 0.95
    assert model.operating_rule == "at least 95% of the malignant images found"
    found = winner.cross_fitted_point
    assert (model.operating_sensitivity, model.operating_specificity) == (
        found[0].value,
        found[1].value,
    )


def test_the_study_file_decides_and_an_old_study_goes_on_with_its_rule(tmp_path: Path) -> None:
    def run(trials: int, *more: str) -> StudyResult:
        overrides = (*TINY, "pruner='none'", *more)
        return run_study(
            "quickstart", trials=trials, home=tmp_path, overrides=overrides, device="cpu",
            inline=True,
        )  # fmt: skip

    first = run(1)
    study = find_study(first.context.home, first.context.name)
    attribute = next(key for key, value in study.user_attrs.items() if "fingerprint" in str(value))
    identity = dict(study.user_attrs[attribute])
    stored = json.loads(identity["spec"])
    del stored["operating_point"]
    study.set_user_attr(attribute, identity | {"spec": json.dumps(stored)})
    second = run(2)
    assert second.context.spec.operating_point.rule == "specificity"
    winner = reopen_winner(second.context.home, second.context.name)
    assert winner.calibration.operating_point.specificity >= 0.9
    with pytest.raises(InputError, match=r"operating_point\.rule"):
        run(2, 'operating_point.rule="sensitivity"')
