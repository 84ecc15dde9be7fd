from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.shortcuts import find_shortcuts, measure_files, refuse_masks
from busi_search.errors import InputError
from tests.data.layouts import mask, read

SOUND = {"width": 48, "height": 40, "mode": "L", "add": 0, "border": 0, "suffix": "png"}


def write(root: Path, name: str, **changes: object) -> None:
    form = SOUND | changes
    (root / name).mkdir(parents=True, exist_ok=True)
    for k in range(12):
        rng = np.random.default_rng([k, len(name)])
        size = (int(form["height"]), int(form["width"]))
        pixels = rng.integers(20, 180, size) + int(form["add"])
        if form["border"]:
            pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:] = 0, 0, 0, 0
        image = Image.fromarray(pixels.astype(np.uint8)).convert(str(form["mode"]))
        image.save(root / name / f"{k}.{form['suffix']}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"width": 50}, "The width alone tells"),
        ({"height": 44}, "The height alone tells"),
        ({"mode": "RGB"}, "The file type alone tells"),
        ({"suffix": "bmp"}, "The file type alone tells"),
        ({"add": 30}, "The mean grey alone tells"),
        ({"border": 1}, "The border alone tells"),
    ],
)
def test_what_tells_the_classes_apart_is_named(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    write(tmp_path, "benign")
    write(tmp_path, "malignant", **changes)
    dataset = read(tmp_path)
    found = find_shortcuts(dataset, measure_files(dataset, tmp_path / "cache"))
    assert bool(found) == bool(words)
    assert any(shortcut.text().startswith(words) for shortcut in found) or not words
    again = measure_files(dataset, tmp_path / "cache")
    assert find_shortcuts(dataset, again) == found


def test_a_class_from_one_machine_is_named(tmp_path: Path) -> None:
    write(tmp_path, "benign")
    write(tmp_path, "malignant")
    rows = ["file,label,device"]
    for k in range(12):
        rows.append(f"benign/{k}.png,benign,A")
        rows.append(f"malignant/{k}.png,malignant,{'A' if k == 0 else 'B'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    dataset = read(tmp_path / "labels.csv")
    found = find_shortcuts(dataset, measure_files(dataset, tmp_path / "cache"))
    assert {shortcut.name for shortcut in found} == {"the device"}


def test_masks_are_no_images(tmp_path: Path) -> None:
    write(tmp_path, "benign")
    for k in range(12):
        mask(tmp_path / "malignant" / f"{k}.png", left=k)
    dataset = read(tmp_path)
    files = measure_files(dataset, tmp_path / "cache")
    with pytest.raises(InputError, match="'malignant' are black and white only"):
        refuse_masks(dataset, files)
