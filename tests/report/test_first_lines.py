"""What a page says first: the sealed test once it was opened, in words that figures bear out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from busi_search.release.curves import drawn_curves
from busi_search.release.external import FIGURES
from busi_search.release.positive_figures import positive_figures
from busi_search.release.winner import Winner
from busi_search.report.elsewhere import judged_places, leading
from busi_search.report.flow import make_flow
from busi_search.report.in_words import found_and_spared
from busi_search.report.model_card import make_model_card
from busi_search.report.study_page import render_report
from busi_search.report.study_view import reopen_winner
from busi_search.report.summary import Summary, summarise
from busi_search.run import StudyResult
from busi_search.spec import About


@pytest.fixture(scope="module")
def winner(tiny_result: StudyResult) -> Winner:
    return reopen_winner(tiny_result.context.home, tiny_result.context.name)


def _figures(num_images: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_images)
    scores = np.clip(0.2 + 0.5 * (labels == 1) + rng.normal(0, 0.2, num_images), 0.01, 0.99)
    groups, truth = np.arange(num_images), labels == 1
    found = positive_figures(scores, truth, groups, threshold=0.5, min_groups=2).to_json()
    curves = drawn_curves(
        scores, labels, groups, class_names=("benign", "malignant", "normal"), positive=1,
        called=scores >= 0.5,
    )  # fmt: skip
    assert curves is not None
    return found | {"curves": curves.to_json()}


def _tested(winner: Winner, version: str) -> dict[str, Any]:
    figures = _figures(len(winner.context.partition.test), 3)
    curves = figures.pop("curves")
    shown = ("sensitivity", "specificity", "auc", "num_images")
    limits = {f"{name}_ci95": figures[f"{name}_ci95"] for name in shown[:3]}
    own = {name: figures[name] for name in shown} | limits
    entry = {"kind": "figures", "version": version, "accuracy": 0.7, "of_positive": figures}
    return {**entry, **own, "curves": curves, "subgroups": []}


def _elsewhere(version: str) -> dict[str, Any]:
    figures = _figures(150, 4)
    curves = figures.pop("curves")
    data = {"name": "another hospital", "fingerprint": "f", "num_images": 155}
    out = {"in_development": 5, "in_own_test": 0, "contradictory": 0, "sealed": 0, "by_class": {}}
    return {
        "kind": FIGURES,
        "version": version,
        "data": data | {"num_evaluated": 150, "num_groups": 150},
        "left_out": out,
        "figures": figures,
        "subgroups": [],
        "local_data": [],
        "wanted_sensitivity": 0.9,
        "curves": curves,
    }


def _summary(winner: Winner, *ledger: Mapping[str, Any], openings: int = 0) -> Summary:
    places = judged_places(winner, ledger, "1")
    return summarise(winner, About(), places, openings=openings)


def test_before_the_test_it_says_so_and_leads_with_cross_validation(winner: Winner) -> None:
    found = _summary(winner)
    assert not found.tested
    assert found.how_good[0].startswith("The sealed test has not been opened")
    places = judged_places(winner, [], "1")
    assert leading(places).kind == "development"
    value = winner.cross_fitted_point[0].value
    assert f"it found {100 * value:.0f} %" in found.how_good[1]
    assert f"{winner.estimate.value:.3f}" in found.how_good[1]
    assert any("not evaluated on images from another hospital" in text for text in found.how_sure)
    # Somebody asked about a sealed image, and no figures came of it.
    assert "were opened 1 time," in _summary(winner, openings=1).how_good[0]
    assert "simulated" in found.not_for[0]
    assert any("not a medical device" in text for text in found.not_for)


def test_after_it_the_test_leads_everywhere(winner: Winner) -> None:
    entry = _tested(winner, "1")
    found = _summary(winner, entry, _elsewhere("1"), openings=2)
    number = len(winner.context.partition.test)
    said = found_and_spared(entry, "malignant")
    assert found.how_good[0].startswith(f"On {number} unseen images")
    assert said in found.how_good[0]
    assert f"{100 * entry['sensitivity']:.0f} % (95 % interval" in said
    assert found.how_good[1].startswith("In cross-validation on")
    assert "opened 2 times" in found.how_sure[0]
    assert any("another hospital" in text and "it found" in text for text in found.how_sure)
    assert not any("tested on none" in text for text in found.not_for)
    names = [name for name, _ in make_model_card(winner, [entry], "1")]
    assert names.index("Sealed test") < names.index("Cross-validated performance")
    assert said in dict(make_model_card(winner, [entry], "1"))["Sealed test"]


def test_a_test_of_another_version_is_not_taken_for_this_one(winner: Winner) -> None:
    entry = _tested(winner, "7")
    found = _summary(winner, entry, openings=1)
    assert not found.tested
    assert "opened for version 7, another model" in found.how_good[0]
    places = judged_places(winner, [entry], "1")
    assert [place.kind for place in places] == ["development", "other version"]
    assert "not for this model" in make_flow(winner, places).test.lines[-1]


def test_the_boxes_of_the_diagram_add_up(winner: Winner) -> None:
    flow = make_flow(winner, judged_places(winner, [_elsewhere("1")], "1"))
    parts = (flow.development, flow.test, flow.left_out)
    assert sum(box.num_images for box in parts) == flow.source.num_images
    assert flow.source.num_images == winner.context.counts["num_images"]
    (other,) = flow.elsewhere
    assert other.num_images == 150
    assert "5 that show scans that the model was developed on" in other.lines[1]


def test_the_page_holds_all_of_it(winner: Winner) -> None:
    ledger = [_tested(winner, "1"), _elsewhere("1")]
    page = render_report(
        winner,
        make_model_card(winner, ledger, "1"),
        ledger=ledger,
        maps={},
        growth=None,
        version="1",
        versions={"torch": "2"},
    )
    text = page[page.index("<body>") :]
    order = ["What it must not be used for", "from the folder to the test", "How well it does",
             "Decision curve", "Calls at the operating point: own sealed test, version 1",
             "Missed: ", "False alarms: ", "The winner, as found and corrected</h2>"]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "Opened 0" not in text
    assert "has not been opened" not in text
    assert "another hospital, version 1" in text
    assert "this report was made on" in text
    assert page.count("Plotly.newPlot") >= 8
    # One Plotly for all charts.
    assert page.count("plotly.js v") <= 2
