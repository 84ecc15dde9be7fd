"""Which model answers, and what it scored on its sealed test."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from busi_search.models.evaluations import TEST_FIGURES
from busi_search.search.seal_ledger import OPENINGS_TAG


@dataclass(frozen=True)
class SealedTestFigures:
    """What a version scored on its sealed test.

    Attributes:
        opened: whether it was evaluated there.
        openings: how often that test had been opened by then; None: not known.
        num_images: of the test; None: not known.
        auc, auc_ci95: with the limits of its 95 % interval; None: not known.
        sensitivity, specificity: at the operating point; None: not known.
        text: this in words.
    """

    opened: bool
    openings: int | None
    num_images: int | None
    auc: float | None
    auc_ci95: tuple[float, float] | None
    sensitivity: float | None
    specificity: float | None
    text: str


@dataclass(frozen=True)
class AnsweringModel:
    """Which model answers.

    Attributes:
        name, version, run_id: of the registered version.
        study: that found it; empty: not known.
        dataset: that it was trained on; empty: not known.
        simulated: whether these images are phantoms.
        sealed_test: its figures.
    """

    name: str
    version: str
    run_id: str
    study: str
    dataset: str
    simulated: bool
    sealed_test: SealedTestFigures

    @property
    def text(self) -> str:
        """Which model it is, in words."""
        study = f", study {self.study}" if self.study else ""
        dataset = f", trained on {self.dataset}" if self.dataset else ""
        return f"{self.name} version {self.version}{study}{dataset}"

    def to_json(self) -> dict[str, Any]:
        """Return the model as JSON shows it."""
        return {**asdict(self), "text": self.text}


def describe_sealed_test(tags: Mapping[str, str]) -> SealedTestFigures:
    """Return what the tags of a version say of its sealed test."""
    kept: dict[str, Any] = json.loads(tags.get(TEST_FIGURES, "{}"))
    if "auc" not in kept:
        # Versions of earlier days have tags for people alone.
        names = ("auc", "sensitivity", "specificity")
        kept = {n: float(tags[f"busi.test_{n}"]) for n in names if f"busi.test_{n}" in tags}
    if "auc" not in kept:
        study = tags.get("busi.study") or "STUDY"
        text = (
            "This version was not evaluated on its sealed test yet: its figures are from "
            f"cross-validation only (busi-search evaluate {study})."
        )
        return SealedTestFigures(False, None, None, None, None, None, None, text)
    low, high = kept.get("auc_low"), kept.get("auc_high")
    interval = None if low is None or high is None else (float(low), float(high))
    count = int(kept["num_images"]) if kept.get("num_images") is not None else None
    openings = tags.get(OPENINGS_TAG, "")
    shown = [f"AUC {kept['auc']:.3f}"]
    if interval is not None:
        shown[0] += f" (95 % CI {interval[0]:.3f} to {interval[1]:.3f})"
    shown += [
        f"{name} {kept[name]:.0%}" for name in ("sensitivity", "specificity")
        if kept.get(name) is not None
    ]  # fmt: skip
    images = "the sealed test" if count is None else f"the {count} images of the sealed test"
    return SealedTestFigures(
        opened=True,
        openings=int(openings) if openings.isdecimal() else None,
        num_images=count,
        auc=float(kept["auc"]),
        auc_ci95=interval,
        sensitivity=kept.get("sensitivity"),
        specificity=kept.get("specificity"),
        text=f"On {images}: {', '.join(shown)}.",
    )
