"""The verdict leads, the table says it all, and a model says what it scored."""

import csv
import io
import json

import numpy as np
import pytest

from busi_search.models.answering_model import AnsweringModel, describe_sealed_test
from busi_search.models.answers import Prediction, predictions_csv
from busi_search.models.evaluations import TEST_FIGURES
from busi_search.models.likeness import Likeness
from busi_search.models.verdict import OperatingPoint, judge

POINT = OperatingPoint(("benign", "malignant", "normal"), "malignant", 0.3)
FIGURES = {"auc": 0.9, "auc_low": 0.84, "auc_high": 0.95, "num_images": 110,
           "sensitivity": 0.85, "specificity": 0.8}  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "label", "begins"),
    [
        ((0.6, 0.35, 0.05), "malignant", "Called malignant"),
        ((0.6, 0.3, 0.1), "malignant", "Called malignant"),
        ((0.6, 0.1, 0.3), "benign", "Not called malignant"),
        ((0.3, 0.1, 0.6), "normal", "Not called malignant"),
    ],
)
def test_the_label_is_the_verdict_and_not_the_highest_probability(
    shares: tuple[float, ...], label: str, begins: str
) -> None:
    verdict = judge(POINT, np.array(shares, np.float32).astype(np.float64))
    assert verdict.label == label
    assert verdict.positive is (label == "malignant")
    assert verdict.text.startswith(begins)
    assert verdict.limits == "This model does not record how often this rule is right."


def test_a_rule_says_how_often_it_was_right() -> None:
    known = {"rule": "a sensitivity of 0.9", "sensitivity": 0.88, "specificity": 0.75}
    said = OperatingPoint(("a", "b"), "b", 0.5, **known).limits
    assert "found 88% of the b images and called 25% of the others b" in said
    assert "It was set for a sensitivity of 0.9" in said
    moved = OperatingPoint(("a", "b"), "b", 0.5, **known, recalibrated_on="HOSPITAL").limits
    assert "The rule was chosen on images of HOSPITAL" in moved


def test_what_was_scored_on_the_sealed_test_is_said() -> None:
    found = describe_sealed_test({TEST_FIGURES: json.dumps(FIGURES), "busi.test_openings": "2"})
    assert found.text == (
        "On the 110 images of the sealed test: AUC 0.900 (95 % CI 0.840 to 0.950), "
        "sensitivity 85%, specificity 80%."
    )
    assert (found.opened, found.auc_ci95) == (True, (0.84, 0.95))
    # Versions of earlier days have rounded figures alone; intervals may not exist.
    old = describe_sealed_test({"busi.test_auc": "0.9000", "busi.test_sensitivity": "0.8500"})
    assert old.text == "On the sealed test: AUC 0.900, sensitivity 85%."
    without = FIGURES | {"auc_low": None, "auc_high": None}
    assert "CI" not in describe_sealed_test({TEST_FIGURES: json.dumps(without)}).text
    unopened = describe_sealed_test({"busi.study": "mine"})
    assert not unopened.opened
    assert "busi-search evaluate mine" in unopened.text


def test_a_table_holds_the_whole_answer() -> None:
    verdict = judge(POINT, np.array([0.6, 0.35, 0.05], np.float32))
    model = AnsweringModel("m", "3", "r", "study", "busi", False,
                           describe_sealed_test({TEST_FIGURES: json.dumps(FIGURES)}))  # fmt: skip
    shares = {"benign": 0.6, "malignant": 0.35, "normal": 0.05}
    like = Likeness(True, 7.25, 4.5, 0.0, "This image is unlike the training images.")
    whole = Prediction("a,b.png", "malignant", shares, (), verdict, like, (), model)
    bare = Prediction("c.png", "benign", shares)
    rows = list(csv.DictReader(io.StringIO(predictions_csv([whole, bare]))))
    assert list(rows[0])[:2] == ["path", "label"]
    assert rows[0] | {"threshold": "0.300000", "unlike": "1", "positive": "1"} == rows[0]
    wanted = {"path": "a,b.png", "label": "malignant", "most_likely": "benign",
              "model": "m", "version": "3", "study": "study", "test_auc": "0.9000"}  # fmt: skip
    assert rows[0] | wanted == rows[0]
    assert (rows[1]["unlike"], rows[1]["positive"], rows[1]["test_auc"]) == ("", "", "")
    assert whole.to_text().endswith("\tUNLIKE the training images")
    assert whole.to_text().split("\t")[:2] == ["a,b.png", "malignant"]
    json.dumps(whole.to_json(), allow_nan=False)
