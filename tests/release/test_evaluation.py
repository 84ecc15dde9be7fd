import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from optuna.trial import FrozenTrial
from sklearn.metrics import confusion_matrix

from busi_search.data.known_images import KnownImages
from busi_search.data.ledger import ledger_path, make_entry, write_entries
from busi_search.data.partition import make_partition
from busi_search.data.sealed import open_sealed_test
from busi_search.data.sources import load_dataset
from busi_search.errors import BusiSearchError, GateRefused, InputError
from busi_search.home import Home, open_home
from busi_search.models import evaluations, registry
from busi_search.release import evaluation, replay
from busi_search.release.calibration import (
    apply_temperature,
    fit_temperature,
)
from busi_search.release.comparison import paired_difference
from busi_search.release.delong import delong_interval
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.release.figures import compute_test_figures
from busi_search.release.gate import promote_after_evaluation
from busi_search.release.gate_rule import beyond_limits
from busi_search.release.leak_gap import measure_leak_gap
from busi_search.release.replay import replay_trial
from busi_search.release.study_gate import study_gate
from busi_search.report.reopened import study_page
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study
from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult
from busi_search.search.reopen import reopen_study
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.seal_register import num_openings_of
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.open import find_study
from busi_search.spec import Gate
from busi_search.training.metrics import compute_metrics, softmax

SMALL = ("epochs=2", "architecture='small_cnn'", "image_size_pixels=28", "num_folds=3",
         "pruner='none'")  # fmt: skip


@pytest.fixture(scope="module")
def busi_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A finished search on image files, with a registered candidate."""
    from busi_search.data.phantom import simulate_phantom, write_phantom

    root = tmp_path_factory.mktemp("real")
    write_phantom(root / "images", simulate_phantom(120, size_pixels=64, seed=3))
    run_study(
        "busi", data=str(root / "images"), trials=2, home=root / "home", weights="none",
        overrides=SMALL, device="cpu", inline=True,
    )  # fmt: skip
    return open_home(root / "home")


def _rows(seed: int = 0, num_images: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(num_images) % 3
    logits = rng.normal(size=(num_images, 3))
    logits[np.arange(num_images), labels] += 1.2
    return logits, labels


def test_every_opening_is_counted_and_the_figures_are_kept(busi_home: Home) -> None:
    ledger = SealLedger(busi_home, "busi")
    before = ledger.num_openings()
    report = evaluate_sealed_test(busi_home, "busi")
    assert report.openings == before + 1 == ledger.num_openings()
    figures = report.to_json()["test"]
    assert figures["num_images"] == sum(map(sum, figures["confusion"]))
    for name in ("auc", "accuracy", "sensitivity", "ece", "calibration_error"):
        low, high = figures[f"{name}_ci95"]
        assert low <= figures[name] <= high
    assert "test_without_twins" not in report.to_json()
    assert report.openings == evaluate_sealed_test(busi_home, "busi").openings - 1
    client = MlflowClient(busi_home.tracking_uri, registry_uri=busi_home.tracking_uri)
    version = registry.find_version(busi_home, "candidate")
    assert float(version.tags["busi.test_auc"]) == pytest.approx(figures["auc"], abs=1e-4)
    kept = evaluations.evaluated_figures(busi_home, version)
    assert kept is not None
    assert kept["calibration_slope"] == figures["calibration_slope"]
    limits = [kept["calibration_error_low"], kept["calibration_error_high"]]
    assert limits == figures["calibration_error_ci95"]
    logged = client.get_run(version.run_id).data.metrics
    assert logged["test_calibration_error"] == figures["calibration_error"]
    # The page draws the curve of the test, and says what the ledger has of it.
    page = study_page(busi_home, "busi")
    assert f"sealed test, version {version.version}" in page
    assert f"Calibration: intercept {figures['calibration_intercept']:.2f}" in page
    # An evaluation from before these figures were there.
    old = {name: kept[name] for name in evaluations.TEST_TAGS}
    tags = version.tags | {evaluations.TEST_FIGURES: json.dumps(old)}
    found = evaluations.evaluated_figures(busi_home, replace(version, tags=tags))
    assert found is not None
    assert old.items() <= found.items()
    path = client.download_artifacts(version.run_id, "test_ledger.json")
    assert json.loads(Path(path).read_text()) == ledger.entries()


def test_nothing_is_evaluated_or_promoted_on_a_changed_ledger(busi_home: Home) -> None:
    evaluate_sealed_test(busi_home, "busi")
    path = ledger_path(busi_home, "busi")
    kept = path.read_bytes()
    write_entries(path.with_name("forged"), [make_entry([], "opened", {"version": "1"})])
    path.with_name("forged").replace(path)
    try:
        with pytest.raises(BusiSearchError, match="contradict each other"):
            evaluate_sealed_test(busi_home, "busi")
        with pytest.raises(BusiSearchError, match="contradict each other"):
            study_page(busi_home, "busi")
        with pytest.raises(GateRefused, match="contradict each other"):
            promote_after_evaluation(busi_home)
    finally:
        path.write_bytes(kept)


def test_changed_images_keep_the_test_shut(tmp_path: Path, busi_home: Home) -> None:
    context = reopen_study(find_study(busi_home, "busi"), home=busi_home)
    (image,) = list(Path(context.spec.dataset.path).rglob("benign (1).png"))
    content = image.read_bytes()
    ledger = SealLedger(busi_home, "busi")
    before = ledger.num_openings()
    try:
        image.write_bytes((image.parent / "benign (2).png").read_bytes())
        with pytest.raises(InputError, match="changed since"):
            evaluate_sealed_test(busi_home, "busi")
        with pytest.raises(InputError, match="changed since"):
            open_sealed_test(
                context.spec.dataset, context.partition, size_pixels=28, cache=tmp_path,
                ledger=ledger, reason={},
            )  # fmt: skip
    finally:
        image.write_bytes(content)
    assert ledger.num_openings() == before


def test_the_search_never_holds_a_test_image(tiny_result: StudyResult) -> None:
    context: StudyContext = tiny_result.context
    dataset = load_dataset(context.spec.dataset)
    partition = make_partition(dataset, context.spec.dataset, seed=0, cache=context.home.cache)
    test = {dataset.digests[index] for index in partition.test}
    assert test
    assert not test & set(context.development.digests)
    assert len(context.images(28)) == len(partition.development)


def test_the_gate(busi_home: Home) -> None:
    with pytest.raises(GateRefused, match="sensitivity"):
        promote_after_evaluation(busi_home, gate=Gate.model_construct(min_sensitivity=1.01))
    with pytest.raises(GateRefused, match="calibration"):
        promote_after_evaluation(busi_home, gate=Gate.model_construct(max_ece=-1.0))
    with pytest.raises(GateRefused, match="min_auc"):
        promote_after_evaluation(busi_home, gate=Gate(min_auc=1))
    assert registry.current_champion(busi_home) is None
    assert study_gate(busi_home, "busi") == Gate() == study_gate(busi_home, "absent")
    no_floor = Gate(min_auc=0, min_sensitivity=0, max_openings=99)
    first_decision = promote_after_evaluation(busi_home, gate=no_floor)
    assert first_decision.decision == "promoted"
    assert first_decision.evidence["best_champion"] is None
    champion = registry.current_champion(busi_home)
    path = MlflowClient(busi_home.tracking_uri).download_artifacts(
        champion.run_id, "promotion_v1.json"
    )
    record = json.loads(Path(path).read_text())
    assert record["previous_champion"] is None
    assert record["limits"]["max_openings"] == 99
    assert record["evidence"] == first_decision.evidence
    assert {"weights_sha256", "fingerprint", "code_version", "promoted_by", "promoted_at",
            "test_auc"} <= set(record)  # fmt: skip
    client = MlflowClient(busi_home.tracking_uri, registry_uri=busi_home.tracking_uri)
    mlflow.set_tracking_uri(busi_home.tracking_uri)  # where MLflow looks for the source
    first = registry.find_version(busi_home, "1")
    source = client.get_model_version(first.name, "1").source
    never = ("busi.test", "busi.promot")
    kept = {k: v for k, v in first.tags.items() if not k.startswith(never)}
    for _ in range(2):
        client.create_model_version(first.name, source, run_id=first.run_id, tags=kept)
    # The same model again: no difference on the same images, so the gate agrees. What the champion
    # answered is kept: the test is opened once.
    ledger = SealLedger(busi_home, "busi")
    before = ledger.num_openings()
    decision = promote_after_evaluation(busi_home, version="2", gate=no_floor)
    assert decision.decision == "promoted"
    assert ledger.num_openings() == before + 1 == decision.evidence["openings"]
    compared = json.loads(registry.find_version(busi_home, "2").tags["busi.against_champion"])
    assert compared["auc_difference"] == 0 == compared["standard_error"]
    # A worse one is refused with its figures, and so is one whose test is spent.
    worse = {"champion": "2", "comparable": True, "auc_difference": -0.1, "ci95": [-0.2, -0.01],
             "probability_worse": 0.98}  # fmt: skip
    client.set_model_version_tag(first.name, "3", "busi.against_champion",
                                 json.dumps(worse))  # fmt: skip
    for key, value in first.tags.items() | registry.find_version(busi_home, "2").tags.items():
        if key.startswith("busi.test"):
            client.set_model_version_tag(first.name, "3", key, value)
    with pytest.raises(GateRefused, match=r"-0\.100"):
        promote_after_evaluation(busi_home, version="3", gate=no_floor)
    with pytest.raises(GateRefused, match="it is spent") as refused:
        promote_after_evaluation(
            busi_home, version="3", gate=no_floor.model_copy(update={"max_openings": 1})
        )
    assert refused.value.evidence["margin"] == 0
    assert registry.current_champion(busi_home).version == "2"


def test_a_champion_whose_answers_were_not_kept_is_asked_again(
    busi_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 is the champion, from the test before; version 3 is the same model."""
    ledger = SealLedger(busi_home, "busi")
    before = ledger.num_openings()
    monkeypatch.setattr(evaluation, "stored_predictions", lambda *_: None)
    report = evaluate_sealed_test(busi_home, "busi", version="3")
    assert report.openings == before + 2
    assert report.against_champion is not None
    assert report.against_champion.champion == "2"
    assert report.against_champion.found.auc == 0


def test_the_gate_decides_on_all_digits(busi_home: Home) -> None:
    figures = {"sensitivity": 0.89996, "ece": 0.100001, "auc": 0.9, "auc_low": 0.84,
               "auc_high": 0.95, "num_images": 120}  # fmt: skip
    limits = Gate(min_sensitivity=0.9, max_ece=0.1)
    assert beyond_limits(figures, limits) == [
        "its sensitivity at the operating point: 0.89996 is below 0.90000 (min_sensitivity)",
        "calibration error 0.100001 is above 0.100000 (max_ece; of bins, which grows with noise)",
    ]
    assert beyond_limits({**figures, "sensitivity": 0.9, "ece": 0.1}, limits) == []
    # What is stored has all digits, and so has what was stored before versions had that tag.
    version = registry.find_version(busi_home, "1")
    exact = evaluations.evaluated_figures(busi_home, version)
    assert exact is not None
    assert exact["auc"] != round(exact["auc"], 4)
    assert exact["num_positive"] < exact["num_images"]
    tags = {key: v for key, v in version.tags.items() if key != evaluations.TEST_FIGURES}
    assert evaluations.evaluated_figures(busi_home, replace(version, tags=tags)) == exact
    tags["busi.test_sensitivity"] = "1.0000"
    assert evaluations.evaluated_figures(busi_home, replace(version, tags=tags)) == exact
    old = {name: exact[name] for name in evaluations.TEST_TAGS}
    tags[evaluations.TEST_FIGURES] = json.dumps(old)
    assert evaluations.evaluated_figures(busi_home, replace(version, tags=tags)) == exact
    assert evaluations.evaluated_figures(busi_home, replace(version, tags={})) is None


def test_replay_is_identical(tiny_result: StudyResult) -> None:
    home = tiny_result.context.home
    trials = find_study(home, "quickstart-phantom").get_trials()
    begun = [t.number for t in trials if stored_folds(t, 3)]
    for number in begun[:2]:
        found = replay_trial(home, "quickstart-phantom", number)
        assert found.agrees
        assert found.folds
        assert all(fold.identical for fold in found.folds)
        assert found.differs == {}
    with pytest.raises(InputError, match="no trial 99"):
        replay_trial(home, "quickstart-phantom", 99)


def test_a_trial_that_was_given_up_early_is_replayed_on_the_folds_it_began_with(
    tiny_result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(trial: FrozenTrial, num_folds: int) -> dict[int, FoldResult]:
        return {2: stored_folds(trial, num_folds)[2]}

    monkeypatch.setattr(replay, "stored_folds", begun)
    found = replay.replay_trial(tiny_result.context.home, "quickstart-phantom", 2)
    assert [fold.fold for fold in found.folds] == [2]
    assert found.agrees


def test_the_leak_gap_compares_like_with_like(tiny_result: StudyResult) -> None:
    assert tiny_result.release is not None
    gap = measure_leak_gap(tiny_result.context.home, "quickstart-phantom", num_seeds=2)
    assert gap.trial == tiny_result.release.trial
    # The winner's own score is the luck it was chosen for.
    assert gap.grouped["cv_log_loss"] != pytest.approx(tiny_result.release.metrics["cv_log_loss"])
    assert gap.num_split_groups > 0
    assert gap.num_seeds == 2
    for name, found in gap.gap.items():
        assert found == pytest.approx(gap.random[name] - gap.grouped[name])
    # Two seeds are two trainings, on other random folds.
    assert gap.gap_std["cv_log_loss"] > 0
    # Student's t of one degree of freedom, by the formula of a textbook.
    low, high = gap.ci95("cv_log_loss")
    assert (low + high) / 2 == pytest.approx(gap.gap["cv_log_loss"])
    assert high - low == pytest.approx(2 * 12.706 * gap.gap_std["cv_log_loss"] / 2**0.5, rel=1e-3)


def test_delong_agrees_with_a_bootstrap() -> None:
    logits, labels = _rows(num_images=240)
    probabilities = softmax(logits)
    low, high = delong_interval(probabilities, labels, np.arange(240), positive=1)
    figures = compute_test_figures(
        probabilities, labels, np.arange(240), class_names=("a", "b", "c"), positive=1,
        threshold=0.5,
    ).to_json()  # fmt: skip
    assert (low, high) == pytest.approx(tuple(figures["auc_ci95"]), abs=0.012)
    computed = compute_metrics(probabilities, labels, positive=1)
    assert {k: figures[k] for k in computed} == pytest.approx(computed)
    np.testing.assert_array_equal(
        figures["confusion"], confusion_matrix(labels, probabilities.argmax(1))
    )
    called = probabilities[:, 1] >= 0.5
    assert figures["sensitivity"] == pytest.approx(np.mean(called[labels == 1]))
    assert figures["specificity"] == pytest.approx(np.mean(~called[labels != 1]))
    at_half = next(p for p in figures["decision_curve"] if p["threshold"] == 0.5)
    truth = labels == 1
    assert at_half["net_benefit"] == pytest.approx(
        np.mean(called & truth) - np.mean(called & ~truth)
    )


def test_paired_difference_is_narrower_than_two_apart() -> None:
    logits, labels = _rows()
    better = logits.copy()
    better[np.arange(120), labels] += 0.15
    found = paired_difference(
        softmax(better), softmax(logits), labels, np.arange(120), positive=1
    )  # fmt: skip
    assert found.auc > 0
    assert found.ci95[0] > 0
    assert found.probability_worse < 0.05


def test_temperature_undoes_overconfidence() -> None:
    logits, labels = _rows(num_images=3000)
    base = fit_temperature(logits, labels)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * base, rel=0.01)
    before = compute_metrics(softmax(3 * logits), labels)
    after = compute_metrics(apply_temperature(3 * logits, 3 * base), labels)
    assert after["log_loss"] < before["log_loss"]
    assert after["ece"] < 0.5 * before["ece"]
    assert after["auc"] == pytest.approx(before["auc"], abs=0.02)


def test_images_that_another_study_developed_on_are_told_apart(busi_home: Home) -> None:
    first = reopen_study(find_study(busi_home, "busi"), home=busi_home).membership
    other = replace(
        first, study="other", partition="p", development=first.sealed[::4], sealed=first.sealed[1:2]
    )
    KnownImages(busi_home).add(other)
    try:
        report = evaluate_sealed_test(busi_home, "busi")
        openings = num_openings_of(KnownImages(busi_home), other, busi_home)
    finally:
        (busi_home.root / "known_images" / "studies" / other.file_name).unlink()
    num_test, num_shared = len(first.sealed), len(other.development)
    printed = report.to_json()
    assert printed["num_test_not_independent"] == num_shared
    assert printed["developed_by"] == ["other"]
    assert printed["test_independent"]["num_images"] == num_test - num_shared
    assert printed["test"]["num_images"] == num_test
    assert set(printed["test_independent"]) == set(printed["test"])
    version = registry.find_version(busi_home, report.version.version)
    assert version.tags["busi.test_not_independent"] == f"{num_shared} of {num_test}"
    # Both seal one image: what was opened for one was opened for the other.
    assert openings == report.openings
