"""What MLflow's own model server answers with: per image the verdict, the probabilities, unlike.

This file and those it imports are copied into every registered model, so that MLflow serves it
where busi-search is not installed. They import each other and numpy, pandas, Pillow and MLflow.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .likeness import compare
from .out_of_distribution import OutOfDistributionCheck
from .verdict import OperatingPoint, judge

if TYPE_CHECKING:
    import pandas as pd
    import torch

# Files that a registered model carries, beside this one.
CARRIED = ("served", "likeness", "out_of_distribution", "verdict")
_BATCH_SIZE = 64


def column_types(class_names: tuple[str, ...]) -> dict[str, str]:
    """Return MLflow's type of every column of an answer, by the column's name, in their order.

    Names and meaning are those of a line of CSV of ``busi-search predict --to``; ``verdict`` and
    ``likeness`` say it in words. ``unlike``, ``distance`` and ``limit`` may be empty: not known.
    """
    return {
        "verdict": "string",
        "label": "string",
        "positive": "boolean",
        "threshold": "double",
        **{f"probability_{name}": "double" for name in class_names},
        "most_likely": "string",
        "unlike": "boolean",
        "distance": "double",
        "limit": "double",
        "likeness": "string",
    }


class ServedModel:
    """A registered model as MLflow's ``pyfunc`` loads it."""

    def __init__(self, module: "torch.nn.Module", metadata: dict[str, Any]) -> None:
        """Take the exported program, and what busi-search stored about it."""
        self._module = module
        self._point = OperatingPoint.of_model(metadata)
        stored = metadata.get("familiarity")
        self._check = OutOfDistributionCheck.from_json(stored) if stored else None

    def predict(self, pixels: npt.NDArray[np.float32], params: object = None) -> "pd.DataFrame":
        """Return one row per image, with the columns of :func:`column_types`.

        Args:
            pixels: (N, K, S, S) grey levels from 0 to 255, or shares of white from 0 to 1 (an image
                without a value above 1).
            params: MLflow's; there are none.
        """
        import pandas as pd

        pixels = np.asarray(pixels, dtype=np.float32)
        shares = pixels.max(axis=(1, 2, 3), keepdims=True, initial=0) <= 1
        levels = np.where(shares, pixels * 255, pixels).round().clip(0, 255).astype(np.uint8)
        views = levels[:, 0] if levels.shape[1] == 1 else levels
        names = self._point.class_names
        rows = []
        likenesses = compare(self._check, views, [0.0] * len(views))
        for row, like in zip(self._ask(pixels), likenesses, strict=True):
            verdict = judge(self._point, row)
            probabilities = [float(share) for share in row]
            values = [verdict.text, verdict.label, verdict.positive, verdict.threshold]
            values += [*probabilities, names[int(row.argmax())]]
            rows.append([*values, like.unlike, like.distance, like.limit, like.text])
        # Of objects: what is not known stays None, which JSON has, and does not become NaN.
        return pd.DataFrame(rows, columns=list(column_types(names)), dtype=object)

    def _ask(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            parts = torch.split(torch.from_numpy(np.array(pixels)), _BATCH_SIZE)
            found: npt.NDArray[np.float32] = torch.cat([self._module(p) for p in parts]).numpy()
            return found


def _load_pyfunc(path: str) -> ServedModel:
    """Load a model from its folder; MLflow asks for this name."""
    import mlflow.pytorch
    from mlflow.models import Model

    metadata = (Model.load(path).metadata or {})["busi_search"]
    return ServedModel(mlflow.pytorch.load_model(path), metadata)
