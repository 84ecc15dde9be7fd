"""Every command in the README and the docs is one that works."""

import re
import shlex
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from busi_search.cli import main
from busi_search.data.layouts.table import table_of_folder
from busi_search.data.phantom import Phantom, simulate_phantom, write_phantom
from tests.command import call_here

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a page's reader waits for or has elsewhere: who tests it instead.
ELSEWHERE = {
    "ui": "tests/release/test_browser.py",
    "serve": "tests/release/test_app.py",
    "worker": "tests/topology",
}
TINY = ("epochs=1", "num_folds=3", "image_size_pixels=28", "recipes=[]", "recipe=[]",
        "weights='none'", "space.architecture=['small_cnn']", "startup_trials=2")  # fmt: skip


def _lines(page: Path) -> list[list[str]]:
    """The words after ``busi-search`` of every line of code that begins with it."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    found = re.findall(
        r"^(?: {4,}|\$ )(?:pip install uv && )?(?:uv run (?:--extra \w+ )?)?busi-search (.+)$",
        text,
        re.MULTILINE,
    )
    return [shlex.split(line, comments=True) for line in found]


EVERY = [(page, words) for page in PAGES for words in _lines(page)]


def test_the_commands_are_found() -> None:
    assert len(EVERY) >= 20
    assert {"run", "evaluate", "promote", "predict"} <= {words[0] for _, words in EVERY}


@pytest.mark.parametrize(
    "words", [words for _, words in EVERY], ids=[f"{p.stem}-{' '.join(w)}" for p, w in EVERY]
)
def test_every_command_is_understood(words: list[str]) -> None:
    assert isinstance(main, click.Group)
    group: click.Group = main
    context = group.make_context("busi-search", list(words))
    while isinstance(group, click.Group):
        name, command, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None
        context = command.make_context(name, rest, parent=context)
        if not isinstance(command, click.Group):
            return
        group = command


def write_busbra(root: Path, phantom: Phantom) -> None:
    """Write the benign and malignant phantoms as BUS-BRA lies on disk."""
    (root / "Images").mkdir(parents=True)
    (root / "Masks").mkdir()
    rows, folds = ["ID,Case,Pathology"], ["ID,Pathology,kFold,valid_1,valid_2"]
    for case, (image, label) in enumerate(zip(phantom.images, phantom.labels, strict=True)):
        name = phantom.class_names[label]
        if name != "normal":
            Image.fromarray(image).save(root / "Images" / f"bus_{case:04d}-l.png")
            mask = Image.fromarray(phantom.masks[case].astype(np.uint8) * 255)
            mask.save(root / "Masks" / f"mask_{case:04d}-l.png")
            rows.append(f"bus_{case:04d}-l,{case},{name}")
            folds.append(f"bus_{case:04d}-l,{name},{1 + case % 3},1,NaN")
    (root / "bus_data.csv").write_text("\n".join(rows) + "\n")
    (root / "5-fold-cv.csv").write_text("\n".join(folds) + "\n")


@pytest.mark.slow
def test_every_command_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    phantom = simulate_phantom(90, size_pixels=64, seed=3)
    files = write_phantom(tmp_path / "Dataset_BUSI_with_GT", phantom)
    shutil.copytree(tmp_path / "Dataset_BUSI_with_GT", tmp_path / "busi")
    shutil.copytree(tmp_path / "Dataset_BUSI_with_GT", tmp_path / "EXPORT")
    table_of_folder(tmp_path / "Dataset_BUSI_with_GT", tmp_path / "labels.csv")
    write_busbra(tmp_path / "BUSBRA", phantom)
    # Another hospital: other patients.
    write_phantom(tmp_path / "HOSPITAL", simulate_phantom(90, size_pixels=64, seed=5))
    for name in ("benign (1).png", "some image.png"):
        shutil.copy(next(f for f in files if "mask" not in f.name), tmp_path / name)
    malignant = (phantom.labels == phantom.class_names.index("malignant")).astype(np.int64)
    parts = {"train": slice(0, 50), "val": slice(50, 70), "test": slice(70, 90)}
    arrays = {}
    for part, chosen in parts.items():
        arrays[f"{part}_images"] = phantom.images[chosen]
        arrays[f"{part}_labels"] = 1 - malignant[chosen, None]
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    done: set[tuple[str, ...]] = set()
    # First what searches, then what looks at it, both in the order of the pages.
    for words in sorted((w for _, w in EVERY), key=lambda w: w[0] != "run"):
        # Lines that differ only in what is changed below are one.
        changed = ("--trials", "--workers")
        line = tuple(word for word in words if not word.isdigit() and word not in changed)
        if words[0] in ELSEWHERE or "--ray" in words or line in done:
            continue
        done.add(line)
        typed = list(words)
        if words[0] == "run":
            typed = [*words, "--trials", "2", "--workers", "1", "--quiet"]
            typed += [word for setting in TINY for word in ("--set", setting)]
            # The same study by other words is refused, as it must be; here each is its own.
            known = (tmp_path / "mlruns/studies/busi").exists()
            first = "Dataset_BUSI_with_GT" in words and not known
            typed += ["--name", "busi" if first else f"study{len(done)}"]
        if words[0] == "audit":
            typed = [*words, "--repeats", "1", "--trials", "1", "--workers", "1"]
        # In this process: a new one takes seconds to import what it needs.
        answer = call_here(*typed)
        if words[0] == "promote" and answer.returncode == 3:
            # So few images show little, and the gate says so.
            answer = call_here(*typed, "--force", "--reason", "the next lines need a champion")
        assert answer.returncode == 0, f"{typed}: {answer.stderr}"
    assert len(done) >= 10
