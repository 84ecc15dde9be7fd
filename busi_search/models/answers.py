"""What a model says of one image, in the same words everywhere: command line, page, JSON, Python.

First the verdict at the operating point, then the probabilities, then whether the image is unlike
the training images, then which model says so and what it scored on its sealed test.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from busi_search.models.answering_model import AnsweringModel
from busi_search.models.likeness import Likeness
from busi_search.models.verdict import Verdict


@dataclass(frozen=True)
class Prediction:
    """A model's answer for one image.

    Attributes:
        path: the file; of a DICOM file of several frames also which, as ``clip.dcm#3``.
        label: the verdict's class: the positive one where its probability reaches the operating
            point, otherwise the most probable of the others.
        probabilities: of every class, by name, calibrated; they sum to 1.
        sealed_by: names of the studies whose sealed test the image belongs to; the prediction
            opened these tests.
        verdict: what the operating point says.
        out_of_distribution: whether the image is unlike the training images.
        file_notes: sentences on frames or pages of the file that were not classified.
        model: the model that predicted.
    """

    path: str
    label: str
    probabilities: dict[str, float]
    sealed_by: tuple[str, ...] = ()
    verdict: Verdict | None = field(default=None, repr=False)
    out_of_distribution: Likeness | None = field(default=None, repr=False)
    file_notes: tuple[str, ...] = ()
    model: AnsweringModel | None = field(default=None, repr=False)

    @property
    def most_likely(self) -> str:
        """The class with the highest probability, whatever the operating point says."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    @property
    def unlike(self) -> bool:
        """Whether the image is known to be unlike the training images."""
        return self.out_of_distribution is not None and self.out_of_distribution.unlike is True

    def to_json(self) -> dict[str, Any]:
        """Return the answer as ``busi-search predict --json`` prints it, without the model."""
        like = self.out_of_distribution
        return {
            "path": self.path,
            "verdict": None if self.verdict is None else self.verdict.to_json(),
            "label": self.label,
            "most_likely": self.most_likely,
            "probabilities": self.probabilities,
            "out_of_distribution": None if like is None else like.to_json(),
            "file_notes": list(self.file_notes),
            "sealed_by": list(self.sealed_by),
        }

    def to_text(self) -> str:
        """Return the answer as a line of ``busi-search predict``, separated by tabs."""
        shares = "  ".join(f"{name} {p:.3f}" for name, p in self.probabilities.items())
        parts = [self.path, self.label, shares]
        if self.unlike:
            parts.append("UNLIKE the training images")
        return "\t".join(parts)


@dataclass(frozen=True)
class NotJudged:
    """A file that no answer could be given about.

    Attributes:
        path: the file.
        reason: why, as a sentence that names it.
    """

    path: str
    reason: str


def csv_row(item: Prediction) -> dict[str, str]:
    """Return the cells of an answer's line of CSV, by column.

    ``path``, ``label`` (the verdict's class), ``positive`` (1 or 0), ``threshold``, a column of
    probabilities per class, ``most_likely``, ``unlike`` (1, 0 or empty: not known), ``distance``,
    ``limit``, ``model``, ``version``, ``study``, ``test_auc`` (of the sealed test, or empty).
    """
    verdict, like, model = item.verdict, item.out_of_distribution, item.model
    unlike = None if like is None else like.unlike
    auc = None if model is None else model.sealed_test.auc
    return {
        "path": item.path,
        "label": item.label,
        "positive": "" if verdict is None else str(int(verdict.positive)),
        "threshold": "" if verdict is None else f"{verdict.threshold:.6f}",
        **{f"probability_{name}": f"{share:.6f}" for name, share in item.probabilities.items()},
        "most_likely": item.most_likely,
        "unlike": "" if unlike is None else str(int(unlike)),
        "distance": "" if like is None or like.distance is None else f"{like.distance:.3f}",
        "limit": "" if like is None or like.limit is None else f"{like.limit:.3f}",
        "model": "" if model is None else model.name,
        "version": "" if model is None else model.version,
        "study": "" if model is None else model.study,
        "test_auc": "" if auc is None else f"{auc:.4f}",
    }


def csv_line(cells: Iterable[str]) -> str:
    """Return cells as one line of CSV."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def predictions_csv(predictions: Sequence[Prediction]) -> str:
    """Return predictions as one CSV table, with a line of column names, see :func:`csv_row`.

    Args:
        predictions: at least one; all of one model.
    """
    rows = [csv_row(item) for item in predictions]
    return "".join([csv_line(rows[0].keys()), *(csv_line(row.values()) for row in rows)])
