"""From image files to answers, with a registered model."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.geometry import Box, Geometry, PixelBox, bring_to_size
from busi_search.data.images import GreyImage
from busi_search.errors import InputError
from busi_search.models.answering_model import AnsweringModel, describe_sealed_test
from busi_search.models.answers import NotJudged, Prediction
from busi_search.models.asked_files import find_images
from busi_search.models.judging import (
    answer_all,
    answer_each,
    ask_module,
    find_sealed_files,
)
from busi_search.models.lesion_places import LesionPlaces, find_places
from busi_search.models.out_of_distribution import OutOfDistributionCheck
from busi_search.models.seal_watch import SealedImageWarning, SealWatch, sealed_sentence
from busi_search.models.verdict import OperatingPoint

# What is not stored in a model but known of its version.
_ADDED_WHEN_LOADED = frozenset({"name", "version", "run_id", "tags", "weights_sha256"})


class Classifier:
    """A registered model, ready to predict.

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
    def operating_point(self) -> OperatingPoint:
        """The probability from which an image is called positive."""
        return OperatingPoint.of_model(self.metadata)

    @property
    def about(self) -> AnsweringModel:
        """Which model it is, and what it scored on its sealed test."""
        return AnsweringModel(
            name=self.name,
            version=self.version,
            run_id=self.run_id,
            study=self.tags.get("busi.study") or str(self.metadata.get("study") or ""),
            dataset=self.tags.get("busi.dataset", ""),
            simulated=self.simulated,
            sealed_test=describe_sealed_test(self.tags),
        )

    @property
    def module(self) -> torch.nn.Module:
        """The exported program: (N, K, S, S) float32 in [0, 255] to (N, C) probabilities.

        For checks and exports: it does not recognise sealed images, so no opening is counted.
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
        """Return an (H, W) uint8 image as the model sees it: (S, S), or (2, S, S) of two regions.

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
        """Predict image files, decoded as in training.

        Of a DICOM file with several frames, five evenly spaced ones are predicted.

        An image that a study of the home has sealed, whatever its name, size or format, opens that
        study's test: the opening is written into its ledger, and a
        :class:`~busi_search.models.seal_watch.SealedImageWarning` says so.

        Args:
            paths: image files, folders of them, or one of either.
            boxes: where the lesions are, for a model that must be told: a table with the columns
                file, x, y, width and height, or (x, y, width, height) by file, in pixels of the
                file. An image without one needs a mask beside it, such as ``NAME_mask.png``.
            keep_sealed: refuse sealed images rather than count the opening.
            how: how the model is used; ``predict`` is the command, which reports openings itself.

        Raises:
            InputError: a file is not a readable image, it is not known where its lesion is, or
                ``keep_sealed`` and one is sealed; none is answered then.
            BusiSearchError: the ledger of a study concerned was tampered with.
        """
        files = find_images([paths] if isinstance(paths, str | Path) else paths)
        answers, found = answer_all(self, files, self._places(files, boxes))
        names = [answer.path for answer in answers]
        sealed_by = self.settle_sealed(found, names, keep_sealed=keep_sealed, how=how)
        self._warn(sealed_by)
        return [replace(a, sealed_by=by) for a, by in zip(answers, sealed_by, strict=True)]

    def predict_each(
        self,
        files: Sequence[Path],
        *,
        boxes: str | Path | Mapping[str | Path, PixelBox] | None = None,
        keep_sealed: bool = False,
        how: str = "python",
    ) -> Iterator[Prediction | NotJudged]:
        """Predict image files one after the other, and continue after bad files.

        However many files there are, only about a thousand images are in memory. An opening of a
        sealed test is counted once, before the first prediction that it concerns.

        Args:
            files: image files, as :func:`.find_images` gives them.
            boxes: as of :meth:`predict`.
            keep_sealed: refuse sealed images rather than count the opening; all files are read for
                it before the first is answered.
            how: how the model is used, for the ledgers.

        Raises:
            InputError: it is not known where the lesion of an image is, or ``keep_sealed`` and an
                image is sealed; none is answered then.
            BusiSearchError: the ledger of a study concerned was tampered with.
        """
        places = self._places(files, boxes)
        if keep_sealed:
            names, found = find_sealed_files(self, files)
            self.settle_sealed(found, names, keep_sealed=True, how=how)
        yield from answer_each(self, files, places, how=how)

    def _places(
        self, files: Sequence[Path], boxes: str | Path | Mapping[str | Path, PixelBox] | None
    ) -> LesionPlaces | None:
        if boxes is not None and not self.geometry.needs_lesion:
            does = (
                "finds lesions itself"
                if self.geometry.place == "found"
                else "looks at whole images"
            )
            raise InputError(f"{self.uri} {does} and takes no boxes; leave them out.")
        return find_places(files, boxes) if self.geometry.needs_lesion else None

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
        opening: str | None = None,
    ) -> list[tuple[str, ...]]:
        """Count the opening, or refuse; see :meth:`.SealWatch.settle`."""
        if self._watch is None:
            return [()] * len(found)
        return self._watch.settle(found, names, keep_sealed=keep_sealed, how=how, opening=opening)

    def _warn(self, sealed_by: Sequence[tuple[str, ...]]) -> None:
        if any(sealed_by):
            text = f"{sealed_sentence(sealed_by)}: this opening was counted."
            warnings.warn(text, SealedImageWarning, stacklevel=3)
