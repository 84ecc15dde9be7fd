"""From image files to class probabilities, with a registered model."""

import csv
import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.containers import frames_to_judge
from busi_search.data.geometry import Box, Geometry, bring_to_size
from busi_search.data.images import GreyImage, decode_for_model
from busi_search.data.known_images import small_copy
from busi_search.data.layouts.files import is_image_file, is_mask
from busi_search.errors import BusiSearchError, InputError
from busi_search.files import user_path
from busi_search.home import Home, create_tracking_store, open_home, quiet_mlflow
from busi_search.models.lesion_places import PixelBox, find_places
from busi_search.models.out_of_distribution import OutOfDistributionCheck
from busi_search.models.registry import CHAMPION, MODEL_NAME, RegisteredVersion, find_version
from busi_search.models.seal_watch import SealedImageWarning, SealWatch, sealed_sentence
from busi_search.training.inputs import place_pixels

BATCH_SIZE = 64
# Sealed images are looked for among so many at once: the twin finder is slow to begin.
LOOKUP_SIZE = 1024
# What is not stored in a model but known of its version.
_ADDED_WHEN_LOADED = frozenset({"name", "version", "run_id", "tags", "weights_sha256"})


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        path: the file; of a DICOM file of several frames also which, as ``clip.dcm#3``.
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
        geometry: what of an image it sees, and how that becomes a square.
        simulated: whether it was trained on phantoms.
        weights_sha256: hash of the exported program, weights included.
        positive_class: name of the class (malignant) the operating point is about.
        operating_threshold: probability of that class from which an image is called positive.
        operating_rule: what the threshold was chosen to reach, in words; None for models of earlier
            versions.
        operating_sensitivity, operating_specificity: of that rule on out-of-fold predictions, each
            fold by the threshold of the others; of earlier versions, on those it was chosen on;
            None for models that do not say.
        familiarity: what its training images looked like; None for models that do not say.
        white_level: value of white in image files of more than 8 bits, as in its training images;
            None: they had 8 bits, or it does not say.
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
        self.geometry = Geometry.from_json(metadata.get("geometry"))
        self.simulated = bool(metadata["simulated"])
        self.positive_class = str(metadata["positive_class"])
        self.white_level: float | None = metadata.get("white_level")
        self.preprocessing = str(metadata.get("preprocessing", ""))
        self.weights_sha256 = str(metadata["weights_sha256"])
        self.operating_threshold = float(metadata["operating_threshold"])
        self.operating_rule: str | None = metadata.get("operating_rule")
        self.operating_sensitivity: float | None = metadata.get("operating_sensitivity")
        self.operating_specificity: float | None = metadata.get("operating_specificity")
        stored = metadata.get("familiarity")
        self.familiarity = OutOfDistributionCheck.from_json(stored) if stored else None
        self.tags: dict[str, str] = dict(metadata.get("tags", {}))

    @property
    def module(self) -> torch.nn.Module:
        """The exported program: (N, K, S, S) float32 in [0, 255] to (N, C) probabilities.

        For checks and exports: it knows nothing of sealed tests, and nobody counts what it is
        asked.
        """
        return self._module

    def predict_pixels(
        self, pixels: npt.NDArray[np.uint8], *, keep_sealed: bool = False
    ) -> npt.NDArray[np.float32]:
        """Return (N, C) probabilities of (N, S, S) uint8 grey images of the model's own size.

        Sealed images are noticed as by :meth:`predict`, unless only a part of them is given.

        Args:
            pixels: the images, as :meth:`view` gives them; (N, 2, S, S) of two regions.
            keep_sealed: refuse sealed images rather than count the opening.

        Raises:
            InputError: they are no such images, or ``keep_sealed``, and an image belongs to a
                sealed test.
        """
        self._check_pixels(pixels)
        names = [f"image {index}" for index in range(len(pixels))]
        # Of two regions the first is the whole.
        found = self.find_sealed([image if image.ndim == 2 else image[0] for image in pixels])
        self._warn(self.settle_sealed(found, names, keep_sealed=keep_sealed))
        return ask_module(self._module, pixels)

    def view(self, image: GreyImage, lesion: Box | None = None) -> npt.NDArray[np.uint8]:
        """Return what the model sees of an (H, W) uint8 image: (S, S), or (2, S, S) of two regions.

        Args:
            image: a decoded image file.
            lesion: where the lesion is, for a model that must be told.
        """
        return bring_to_size(image, self.size_pixels, self.geometry, lesion)

    def predict(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        boxes: str | Path | Mapping[str | Path, PixelBox] | None = None,
        keep_sealed: bool = False,
        how: str = "python",
    ) -> list[Prediction]:
        """Return the class probabilities of image files, decoded as in training.

        Of a DICOM file with several frames, five evenly spaced ones are answered for.

        An image that a study of the home has sealed, whatever its name, size or format, opens that
        study's test: the opening is written into its ledger, and a
        :class:`~busi_search.models.seal_watch.SealedImageWarning` says so.

        Args:
            paths: image files, folders of them, or one of either.
            boxes: where the lesions are, for a model that must be told: a table with the columns
                file, x, y, width and height, or (x, y, width, height) by file, in pixels of the
                file. An image without one needs a mask beside it, such as ``NAME_mask.png``.
            keep_sealed: refuse sealed images rather than count the opening.
            how: the model is asked; ``predict`` is the command, which says itself what was opened.

        Raises:
            InputError: a file is not a readable image, it is not known where its lesion is, or
                ``keep_sealed`` and one is sealed; none is answered then.
            BusiSearchError: the ledger of a study concerned was tampered with.
        """
        found_files = find_images([paths] if isinstance(paths, str | Path) else paths)
        if boxes is not None and not self.geometry.needs_lesion:
            raise InputError(
                f"{self.uri} looks at whole images and takes no boxes; leave them out."
            )
        places = find_places(found_files, boxes) if self.geometry.needs_lesion else None
        files = [(path, frame) for path in found_files for frame in frames_to_judge(path)]
        rows: list[npt.NDArray[np.float32]] = []
        found: list[frozenset[int]] = []
        copies: list[GreyImage] = []
        for start in range(0, len(files), BATCH_SIZE):
            some = files[start : start + BATCH_SIZE]
            images = [
                decode_for_model(path, frame=frame, white=self.white_level) for path, frame in some
            ]
            copies += map(small_copy, images)
            if len(copies) >= LOOKUP_SIZE or start + BATCH_SIZE >= len(files):
                found += self.find_sealed(copies)
                copies = []
            views = [
                self.view(image, None if places is None else places.of(path, image))
                for (path, _), image in zip(some, images, strict=True)
            ]
            rows += list(ask_module(self._module, np.stack(views)))
        names = [str(path) if frame is None else f"{path}#{frame}" for path, frame in files]
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

    def _check_pixels(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Refuse what is no grey levels from 0 to 255: an answer about it would mean nothing."""
        size, regions = self.size_pixels, self.geometry.num_regions
        expected = (size, size) if regions == 1 else (regions, size, size)
        if pixels.shape[1:] != expected:
            raise InputError(
                f"Pixels of shape {tuple(pixels.shape)}: this model takes "
                f"(N, {', '.join(map(str, expected))})."
            )
        if pixels.dtype != np.uint8:
            raise InputError(
                f"Pixels of type {pixels.dtype}: this model takes grey levels from 0 to 255 as "
                "uint8; multiply shares from 0 to 1 by 255 first."
            )
        if len(pixels) and pixels.max() <= 1:
            raise InputError(
                "No pixel is brighter than 1 of 255: this model takes grey levels from 0 to 255; "
                "multiply shares from 0 to 1 by 255 first."
            )

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
        pixels: (N, S, S) uint8 grey images of the model's own size; (N, 2, S, S) of two regions.
    """
    inputs = place_pixels(np.require(pixels, requirements=["C", "W"]), "cpu").to(torch.float32)
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
                if is_image_file(file)
                and not is_mask(file.name)
                # As in training: what systems put beside images (`._x.png`) is none.
                and not file.name.startswith(".")
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
    uri = f"models:/{found.name}/{found.version}"
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
    metadata |= {"name": found.name, "version": found.version, "run_id": found.run_id}
    metadata["tags"] = found.tags
    return Classifier(module, metadata, uri, SealWatch(home, found.name, found.version))


def version_of_uri(home: Home, model_uri: str) -> RegisteredVersion:
    """Return the version that an address such as ``models:/busi-classifier@champion`` names.

    Raises:
        InputError: it is no such address, or there is no such version.
    """
    name, version = _parse_uri(model_uri)
    return find_version(home, version, name=name)


def _parse_uri(model_uri: str | None) -> tuple[str | None, str]:
    if model_uri is None:
        return None, CHAMPION
    rest = model_uri.removeprefix("models:/")
    for separator in ("/", "@"):
        name, found, version = rest.rpartition(separator)
        if model_uri.startswith("models:/") and found and name and version:
            return name, version
    raise InputError(
        f"{model_uri}: expected a model such as models:/{MODEL_NAME}@candidate "
        f"or models:/{MODEL_NAME}/3."
    )
