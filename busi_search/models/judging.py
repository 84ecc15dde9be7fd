"""Image files, one after the other, become answers of a model."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.colour import coloured_share
from busi_search.data.containers import frames_to_judge, notes_of_file
from busi_search.data.images import GreyImage, decode_for_model
from busi_search.data.known_images import small_copy
from busi_search.data.progress import counted
from busi_search.errors import InputError
from busi_search.models.answers import NotJudged, Prediction
from busi_search.models.lesion_places import LesionPlaces
from busi_search.models.likeness import compare
from busi_search.models.verdict import judge
from busi_search.training.inputs import place_pixels

if TYPE_CHECKING:
    from busi_search.models.predict import Classifier

BATCH_SIZE = 64
# Images answered at once: sealed ones are looked for among so many, as the twin finder is slow to
# begin, and no more of them is in memory.
LOOKUP_SIZE = 1024


@dataclass
class _Waiting:
    """Images that are read and wait for their answers."""

    names: list[str] = field(default_factory=list)
    views: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    coloured: list[float] = field(default_factory=list)
    notes: list[tuple[str, ...]] = field(default_factory=list)

    def answer(self, classifier: "Classifier") -> list[Prediction]:
        """Return their answers, and let them go."""
        if not self.names:
            return []
        answers = answer_views(classifier, np.stack(self.views), self.coloured)
        done = [
            replace(answer, path=name, file_notes=notes)
            for answer, name, notes in zip(answers, self.names, self.notes, strict=True)
        ]
        for kept in (self.names, self.views, self.coloured, self.notes):
            kept.clear()
        return done


@dataclass(frozen=True)
class _Answered:
    """Answers about some files, the sealed scans that each image shows, and the bad files."""

    answers: list[Prediction]
    found: list[frozenset[int]]
    failed: list[NotJudged]


def answer_views(
    classifier: "Classifier", views: npt.NDArray[np.uint8], coloured: Sequence[float]
) -> list[Prediction]:
    """Return answers, without a path, about images; sealed ones are not looked for.

    Args:
        classifier: the model.
        views: (N, S, S) or (N, 2, S, S) uint8, as it sees them.
        coloured: N shares of pixels with a colour of their own, see :func:`.coloured_share`.
    """
    rows = ask_module(classifier.module, views)
    point, about = classifier.operating_point, classifier.about
    answers = []
    for row, likeness in zip(rows, compare(classifier.familiarity, views, coloured), strict=True):
        verdict = judge(point, row)
        answers.append(
            Prediction(
                path="",
                label=verdict.label,
                probabilities=dict(zip(classifier.class_names, map(float, row), strict=True)),
                verdict=verdict,
                out_of_distribution=likeness,
                model=about,
            )
        )
    return answers


def answer_all(
    classifier: "Classifier", files: Sequence[Path], places: LesionPlaces | None
) -> tuple[list[Prediction], list[frozenset[int]]]:
    """Return the answers about all files, and the sealed scans that each image shows.

    Raises:
        InputError: a file cannot be read, or the place of its lesion cannot be used.
    """
    answers: list[Prediction] = []
    found: list[frozenset[int]] = []
    for part in _in_parts(classifier, files, places, strict=True):
        answers += part.answers
        found += part.found
    return answers, found


def answer_each(
    classifier: "Classifier",
    files: Sequence[Path],
    places: LesionPlaces | None,
    *,
    how: str,
) -> Iterator[Prediction | NotJudged]:
    """Yield the answers about files, and the files that cannot be read, as they come.

    Sealed images are counted as one opening, those of a part before its first answer.

    Args:
        classifier: the model.
        files: image files.
        places: where their lesions are, for a model that must be told.
        how: how the model is used, for the ledgers.

    Raises:
        BusiSearchError: the ledger of a study concerned was tampered with.
    """
    opening = uuid.uuid4().hex
    for part in _in_parts(classifier, files, places, strict=False):
        names = [answer.path for answer in part.answers]
        sealed_by = classifier.settle_sealed(
            part.found, names, keep_sealed=False, how=how, opening=opening
        )
        for answer, studies in zip(part.answers, sealed_by, strict=True):
            yield replace(answer, sealed_by=studies)
        yield from part.failed


def find_sealed_files(
    classifier: "Classifier", files: Sequence[Path]
) -> tuple[list[str], list[frozenset[int]]]:
    """Return the names of all images that can be read, and the sealed scans that each shows."""
    names: list[str] = []
    found: list[frozenset[int]] = []
    reading = counted(files, "images compared with sealed ones", len(files))
    for _ in range(0, len(files), LOOKUP_SIZE):
        copies = []
        for path in islice(reading, LOOKUP_SIZE):
            with suppress(InputError):
                for name, image in _decode(classifier, path):
                    names.append(name)
                    copies.append(small_copy(image))
        found += classifier.find_sealed(copies)
    return names, found


def _in_parts(
    classifier: "Classifier",
    files: Sequence[Path],
    places: LesionPlaces | None,
    *,
    strict: bool,
) -> Iterator[_Answered]:
    reading = counted(files, "images judged", len(files))
    for _ in range(0, len(files), LOOKUP_SIZE):
        yield _answer_some(classifier, islice(reading, LOOKUP_SIZE), places, strict=strict)


def _answer_some(
    classifier: "Classifier",
    files: Iterable[Path],
    places: LesionPlaces | None,
    *,
    strict: bool,
) -> _Answered:
    answers: list[Prediction] = []
    copies: list[GreyImage] = []
    failed: list[NotJudged] = []
    waiting = _Waiting()
    for path in files:
        try:
            images = list(_decode(classifier, path))
            views = [
                classifier.view(image, None if places is None else places.of(path))
                for _, image in images
            ]
            coloured = coloured_share(path)
            notes = notes_of_file(path) if len(images) == 1 else ()
        except InputError as error:
            if strict:
                raise
            failed.append(NotJudged(str(path), str(error)))
            continue
        copies += [small_copy(image) for _, image in images]
        waiting.names += [name for name, _ in images]
        waiting.views += views
        waiting.coloured += [coloured] * len(images)
        waiting.notes += [notes] * len(images)
        if len(waiting.names) >= BATCH_SIZE:
            answers += waiting.answer(classifier)
    answers += waiting.answer(classifier)
    return _Answered(answers, classifier.find_sealed(copies), failed)


def _decode(classifier: "Classifier", path: Path) -> Iterator[tuple[str, GreyImage]]:
    """The images of a file that are judged, and what they are called."""
    for frame in frames_to_judge(path):
        image = decode_for_model(path, frame=frame, white=classifier.white_level)
        yield (str(path) if frame is None else f"{path}#{frame}"), image


@torch.inference_mode()
def ask_module(module: torch.nn.Module, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return (N, C) probabilities without a look at sealed tests, for this program's own use.

    The release writes into the ledger itself, and checks an export on development images.

    Args:
        module: of a :class:`Classifier`.
        pixels: (N, S, S) uint8 grey images of the model's own size; (N, 2, S, S) of two regions.
    """
    inputs = place_pixels(np.require(pixels, requirements="C"), "cpu")
    # Memory-mapped images are read batch by batch.
    rows = [module(batch.to(torch.float32)) for batch in torch.split(inputs, BATCH_SIZE)]
    result: npt.NDArray[np.float32] = torch.cat(rows).numpy()
    return result
