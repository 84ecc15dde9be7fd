from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.sources import load_dataset
from busi_search.release.subgroups import compute_subgroups, subgroup_levels
from busi_search.spec import DatasetSection


def test_levels_are_told_from_columns_and_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["file,label,mask,site,age,birads,comment"]
    for index, (age, covered) in enumerate([("39", 2), ("040Y", 6), ("", 9), ("71", 0)]):
        pixels = rng.integers(0, 255, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        mask = np.zeros((20, 20), dtype=np.uint8)
        mask[:covered, :covered] = 255
        Image.fromarray(mask).save(tmp_path / f"m{index}.png")
        label = ("benign", "malignant")[index % 2]
        rows.append(f"{index}.png,{label},m{index}.png,{'AB'[index // 2]},{age},4a,c{index}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    section = DatasetSection(source="table", path=str(tmp_path / "t.csv"))
    found = subgroup_levels(load_dataset(section))
    # BI-RADS is the same everywhere, and a comment is no subgroup.
    assert found == {
        "site": ("A", "A", "B", "B"),
        "age": ("under 40", "40 to 49", "not known", "70 and over"),
        "lesion size": (
            "under 4 % of the image",
            "4 to 10 % of the image",
            "over 10 % of the image",
            "no lesion marked",
        ),
    }
    dataset = load_dataset(section)
    many = replace(dataset, properties={"site": tuple("ABCD"), "device": ("x",) * 4})
    assert set(subgroup_levels(many)) == {"site", "lesion size"}


def test_every_level_has_its_figures_and_small_ones_a_remark() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.4
    scores = np.clip(rng.normal(0.3 + 0.3 * truth, 0.2), 0.01, 0.99)
    levels = {"device": ("large",) * 150 + ("other",) * 140 + ("small",) * 10}
    found = compute_subgroups(
        levels, scores, truth, np.arange(300), threshold=0.4, unlike=scores > 0.9
    )
    assert [part.level for part in found] == ["large", "other", "small"]
    assert sum(part.figures.num_images for part in found) == 300
    large, _, small = found
    called = scores[:150] >= 0.4
    assert large.figures.figures["sensitivity"].value == np.mean(called[truth[:150]])
    assert large.figures.remark == ""
    assert "Too few images for any figure" in small.figures.remark
    assert small.to_json()["auc"] is None
    assert small.to_json()["net_benefit"] == []
    rows = large.to_json()["net_benefit"]
    assert [row["threshold"] for row in rows] == [0.05, 0.1, 0.2]
    acted = scores[:150] >= 0.1
    expected = np.mean(acted & truth[:150]) - np.mean(acted & ~truth[:150]) / 9
    assert rows[1]["model"] == pytest.approx(expected)
    assert small.to_json()["num_unlike"] == int(np.sum(scores[290:] > 0.9))
