"""From image files to class probabilities, with a registered model."""

import csv
import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.images import GreyImage, decode_image, resize_image
from busi_search.data.known_images import small_copy
from busi_search.data.layouts.files import IMAGE_SUFFIXES, is_mask
from busi_search.errors import BusiSearchError, InputError
from busi_search.files import user_path
from busi_search.home import Home, create_tracking_store, open_home, quiet_mlflow
from busi_search.models.out_of_distribution import OutOfDistributionCheck
from busi_search.models.registry import CHAMPION, MODEL_NAME, RegisteredVersion, find_version
from busi_search.models.seal_watch import SealedImageWarning, SealWatch, sealed_sentence

BATCH_SIZE = 64
# Sealed images are looked for among so many at once: the twin finder is slow to begin.
LOOKUP_SIZE = 1024
# What is not stored in a model but known of its version.
_ADDED_WHEN_LOADED = frozenset({"name", "version", "run_id", "tags", "weights_sha256"})


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        path: the file.
        label: name of the most probable class.
        probabilities: of every class, by name; they sum to 1.
        sealed_by: names of the studies whose sealed test the image belongs to; asking about it
            opened that test.
    """

    path: str
    label: str
    probabilities: dict[str, float]
    sealed_by: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the answer as ``busi-search predict --json`` prints it."""
        return asdict(self)


class Classifier:
    """A registered model, ready to look at images.

    Attributes:
        name, version, run_id: which model it is.
        class_names: C names.
        size_pixels: side S of its input.
        simulated: whether it was trained on phantoms.
        weights_sha256: hash of the exported program, weights included.
        positive_class: name of the class (malignant) the operating point is about.
        operating_threshold: probability of that class from which an image is called positive.
        operating_sensitivity, operating_specificity: of that rule, on the out-of-fold predictions
            it was chosen on; None for models that do not say.
        familiarity: what its training images looked like; None for models that do not say.
        preprocessing: what is done with an image file before the model sees it, in words.
        tags: of the registered version, its figures among them.
        metadata: all that is stored inside the model, JSON-ready.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        metadata: dict[str, Any],
        uri: str,
        watch: SealWatch | None = None,
    ) -> None:
        self._module, self._watch = module, watch
        self.metadata = {
            key: value for key, value in metadata.items() if key not in _ADDED_WHEN_LOADED
        }
        self.uri = uri
        self.name = str(metadata.get("name", ""))
        self.version = str(metadata.get("version", ""))
        self.run_id = str(metadata.get("run_id", ""))
        self.class_names = tuple(metadata["class_names"])
        self.size_pixels = int(metadata["image_size_pixels"])
        self.simulated = bool(metadata["simulated"])
        self.positive_class = str(metadata["positive_class"])
        self.preprocessing = str(metadata.get("preprocessing", ""))
        self.weights_sha256 = str(metadata["weights_sha256"])
        self.operating_threshold = float(metadata["operating_threshold"])
        self.operating_sensitivity: float | None = metadata.get("operating_sensitivity")
        self.operating_specificity: float | None = metadata.get("operating_specificity")
        stored = metadata.get("familiarity")
        self.familiarity = OutOfDistributionCheck.from_json(stored) if stored else None
        self.tags: dict[str, str] = dict(metadata.get("tags", {}))

    @property
    def module(self) -> torch.nn.Module:
        """The exported program: (N, 1, S, S) float32 in [0, 255] to (N, C) probabilities.

        For checks and exports: it knows nothing of sealed tests, and nobody counts what it is
        asked.
        """
        return self._module

    def predict_pixels(
        self, pixels: npt.NDArray[np.uint8], *, keep_sealed: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return (N, C) probabilities of (N, S, S) uint8 grey images of the model's own size.

        Sealed images are noticed as by :meth:`predict`.

        Args:
            pixels: the images.
            keep_sealed: refuse sealed images rather than count the opening.

        Raises:
            InputError: ``keep_sealed``, and an image belongs to a sealed test.
        """
        names = [f"image {index}" for index in range(len(pixels))]
        found = self.find_sealed(list(pixels))
        self._warn(self.settle_sealed(found, names, keep_sealed=keep_sealed))
        return ask_module(self._module, pixels)

    def predict(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        keep_sealed: bool = False,
        how: str = "python",
    ) -> list[Prediction]:
        """Return the class probabilities of image files, decoded as in training.

        An image that a study of the home has sealed, whatever its name, size or format, opens that
        study's test: the opening is written into its ledger, and a
        :class:`~busi_search.models.seal_watch.SealedImageWarning` says so.

        Args:
            paths: image files, folders of them, or one of either.
            keep_sealed: refuse sealed images rather than count the opening.
            how: the model is asked; ``predict`` is the command, which says itself what was opened.

        Raises:
            InputError: a file is not a readable image, or ``keep_sealed`` and one is sealed; none
                is answered then.
            BusiSearchError: the ledger of a study concerned was tampered with.
        """
        files = find_images([paths] if isinstance(paths, str | Path) else paths)
        rows: list[npt.NDArray[np.float32]] = []
        found: list[frozenset[int]] = []
        copies: list[GreyImage] = []
        for start in range(0, len(files), BATCH_SIZE):
            images = [decode_image(path) for path in files[start : start + BATCH_SIZE]]
            copies += map(small_copy, images)
            if len(copies) >= LOOKUP_SIZE or start + BATCH_SIZE >= len(files):
                found += self.find_sealed(copies)
                copies = []
            pixels = np.stack([resize_image(image, self.size_pixels) for image in images])
            rows += list(ask_module(self._module, pixels))
        names = [str(path) for path in files]
        sealed_by = self.settle_sealed(found, names, keep_sealed=keep_sealed, how=how)
        if how == "python":
            self._warn(sealed_by)
        return [
            Prediction(
                path=name,
                label=self.class_names[row.argmax()],
                probabilities=dict(zip(self.class_names, map(float, row), strict=True)),
                sealed_by=studies,
            )
            for name, row, studies in zip(names, rows, sealed_by, strict=True)
        ]

    def find_sealed(self, images: Sequence[GreyImage]) -> list[frozenset[int]]:
        """Return for each grey image (H, W) the sealed scans of the home that it shows."""
        return [frozenset()] * len(images) if self._watch is None else self._watch.find(images)

    def settle_sealed(
        self,
        found: Sequence[frozenset[int]],
        names: Sequence[str],
        *,
        keep_sealed: bool,
        how: str = "python",
    ) -> list[tuple[str, ...]]:
        """Count the opening, or refuse; see :meth:`.SealWatch.settle`."""
        if self._watch is None:
            return [()] * len(found)
        return self._watch.settle(found, names, keep_sealed=keep_sealed, how=how)

    def _warn(self, sealed_by: Sequence[tuple[str, ...]]) -> None:
        if any(sealed_by):
            text = f"{sealed_sentence(sealed_by)}: this opening was counted."
            warnings.warn(text, SealedImageWarning, stacklevel=3)


@torch.inference_mode()
def ask_module(module: torch.nn.Module, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return (N, C) probabilities without a look at sealed tests, for this program's own use.

    The release writes into the ledger itself, and checks an export on development images.

    Args:
        module: of a :class:`Classifier`.
        pixels: (N, S, S) uint8 grey images of the model's own size.
    """
    inputs = (
        torch.from_numpy(np.require(pixels, requirements=["C", "W"])).unsqueeze(1).to(torch.float32)
    )
    rows = [module(batch) for batch in torch.split(inputs, BATCH_SIZE)]
    result: npt.NDArray[np.float32] = torch.cat(rows).numpy()
    return result


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files that are named or lie in named folders (masks left out).

    Raises:
        InputError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for named in paths:
        path = user_path(named)
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in IMAGE_SUFFIXES and not is_mask(file.name)
            )
            if not inside:
                raise InputError(f"{path}: no image in this folder.")
            for file in inside:
                if not file.resolve().is_relative_to(path.resolve()):
                    raise InputError(
                        f"{file}: a link to a file outside {path} is refused; name it itself."
                    )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file.")
    return found


def predictions_csv(predictions: Sequence[Prediction]) -> str:
    """Return predictions as CSV: ``path``, ``label``, and a column of probabilities per class.

    Args:
        predictions: at least one; all of one model.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    names = list(predictions[0].probabilities)
    writer.writerow(["path", "label", *(f"probability_{name}" for name in names)])
    for item in predictions:
        shares = [f"{item.probabilities[name]:.6f}" for name in names]
        writer.writerow([item.path, item.label, *shares])
    return table.getvalue()


def load_champion(
    home: Home | str | Path | None = None, model_uri: str | None = None
) -> Classifier:
    """Load a registered model; no pickle is ever opened.

    Example::

        import busi_search as bs
        bs.load_champion().predict("images")

    Args:
        home: where the registry is (default ``./mlruns``).
        model_uri: such as ``models:/busi-classifier/3`` or ``models:/busi-classifier@candidate``;
            default the champion.

    Raises:
        InputError: no such model, or no champion yet.
        BusiSearchError: the model is damaged, is not a pt2 export, or was not made by busi-search.
    """
    home = home if isinstance(home, Home) else open_home(home)
    name, version = _parse_uri(model_uri)
    found = find_version(home, version, name=name)
    uri = f"models:/{name}/{found.version}"
    create_tracking_store(home)
    quiet_mlflow()
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow.pytorch
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    try:
        folder = download_artifacts(uri)
        description = Model.load(folder)
        metadata = dict((description.metadata or {}).get("busi_search") or {})
        if not metadata or not (Path(folder) / "data" / "model.pt2").is_file():
            raise BusiSearchError(f"{uri} is not a pt2 model made by busi-search; it is refused.")
        weights = Path(folder) / "data" / "model.pt2"
        metadata["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        module = mlflow.pytorch.load_model(folder)
    except BusiSearchError:
        raise
    except (MlflowException, OSError, RuntimeError, ValueError) as error:
        raise BusiSearchError(
            f"{uri} cannot be loaded ({str(error).splitlines()[0]}); "
            "promote or name another version."
        ) from error
    metadata |= {"name": name, "version": found.version, "run_id": found.run_id}
    metadata["tags"] = found.tags
    return Classifier(module, metadata, uri, SealWatch(home, name, found.version))


def version_of_uri(home: Home, model_uri: str) -> RegisteredVersion:
    """Return the version that an address such as ``models:/busi-classifier@champion`` names.

    Raises:
        InputError: it is no such address, or there is no such version.
    """
    name, version = _parse_uri(model_uri)
    return find_version(home, version, name=name)


def _parse_uri(model_uri: str | None) -> tuple[str, str]:
    if model_uri is None:
        return MODEL_NAME, CHAMPION
    rest = model_uri.removeprefix("models:/")
    for separator in ("@", "/"):
        name, found, version = rest.partition(separator)
        if model_uri.startswith("models:/") and found and name and version:
            return name, version
    raise InputError(
        f"{model_uri}: expected a model such as models:/{MODEL_NAME}@candidate "
        f"or models:/{MODEL_NAME}/3."
    )
