import numpy as np
import pytest
from scipy.special import expit, logit

from benchmarks.external import Hospital, simulate
from busi_search.release.local_data import (
    Recalibration,
    fit_recalibration,
    local_data_curve,
    local_threshold,
)
from busi_search.release.local_setting import Setting, cross_validated, fit_setting


def test_a_threshold_finds_the_wanted_share_and_no_more_than_it_must() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    truth = np.array([0, 0, 1, 0, 1, 0, 1, 1, 1, 0], dtype=bool)
    for wanted, least in ((1.0, 0.3), (0.8, 0.5), (0.6, 0.7), (0.1, 0.9)):
        found = local_threshold(scores, truth, wanted)
        assert found is not None
        assert np.mean(scores[truth] >= found) >= wanted
        assert found <= least < found + 0.1
    assert local_threshold(scores, np.zeros(10, dtype=bool), 0.9) is None


def test_a_known_shift_is_undone_and_few_images_move_little() -> None:
    rng = np.random.default_rng(0)
    right = expit(rng.normal(size=20_000) * 1.5)
    truth = rng.random(20_000) < right
    shifted = expit((logit(right) + 0.9) / 0.6)
    found = fit_recalibration(shifted, truth)
    assert found.slope == pytest.approx(0.6, abs=0.03)
    assert found.intercept == pytest.approx(-0.9, abs=0.05)
    assert found.apply(shifted) == pytest.approx(right, abs=0.02)
    one_kind = fit_recalibration(shifted[:10], np.ones(10, dtype=bool))
    assert np.isfinite([one_kind.intercept, one_kind.slope]).all()
    assert one_kind.slope > 0


def test_more_local_images_help_and_misses_are_counted() -> None:
    p, ill, patient = simulate(
        Hospital(0.3, slope=0.5, intercept=-1), 400, np.random.default_rng(1)
    )
    rows = local_data_curve(p, ill, patient, threshold=0.3, wanted=0.9, num_draws=60)
    assert [row.num_groups for row in rows if row.what == "threshold"] == [10, 20, 50, 100, 200]
    spread = {
        row.num_groups: row.sensitivity_range[1] - row.sensitivity_range[0]
        for row in rows
        if row.what == "threshold"
    }
    assert spread[200] < spread[10]
    losses = {(row.what, row.num_groups): row.log_loss for row in rows}
    assert losses["calibration", 200] < losses["as it is", 200]
    assert losses["calibration", 200] < losses["calibration", 10]
    frozen = np.mean(p[ill] >= 0.3) < 0.9
    missed = {row.share_missed for row in rows if row.what == "as it is"}
    assert (max(missed) > 0.5) == frozen
    # A threshold from as many images as one likes hits the wanted sensitivity every second time.
    assert all(0.1 < row.share_missed < 0.9 for row in rows if row.what == "threshold")
    assert local_data_curve(p[:15], ill[:15], patient[:15], threshold=0.3, wanted=0.9) == []


def test_what_is_kept_stays() -> None:
    p, ill, patient = simulate(
        Hospital(0.3, slope=0.5, intercept=-1), 150, np.random.default_rng(2)
    )
    before = Setting(Recalibration(), 0.3)
    only_threshold = fit_setting(p, ill, before, keep="calibration", wanted=0.9)
    assert only_threshold.recalibration == Recalibration()
    assert np.mean(p[ill] >= only_threshold.threshold) >= 0.9
    only_calibration = fit_setting(p, ill, before, keep="threshold", wanted=0.9)
    assert only_calibration.threshold == 0.3
    both = fit_setting(p, ill, before, keep="nothing", wanted=0.9)
    assert both.recalibration == only_calibration.recalibration
    called = both.recalibration.apply(p) >= both.threshold
    assert np.array_equal(called, p >= only_threshold.threshold)
    held_out = cross_validated(p, ill, patient, before, keep="threshold", wanted=0.9)
    assert held_out["log_loss"] < held_out["log_loss_before"]
