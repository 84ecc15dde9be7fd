"""From a study file and its images to all that a trial needs to know."""

from dataclasses import dataclass, replace

import numpy as np

from busi_search.data.adequacy import check_division, few_test_images_warning
from busi_search.data.classes import infer_positive, positive_class
from busi_search.data.dataset import ImageDataset
from busi_search.data.geometry import Box, geometry_of
from busi_search.data.known_images import KnownImages
from busi_search.data.lesions import check_lesions, find_lesions
from busi_search.data.partition import make_partition
from busi_search.data.screen_crop import find_screen_crop
from busi_search.data.shortcuts import check_files
from busi_search.data.sources import load_dataset
from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.search.context import StudyContext, membership_of, wants_masks
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import find_study
from busi_search.search.store.study_identity import Identity
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import StudySpec


def make_context(
    spec: StudySpec,
    spec_text: str,
    *,
    home: Home,
    name: str | None,
    device: str,
    origin: str,
    notes: tuple[str, ...] = (),
) -> StudyContext:
    """Read and divide the data and say how the study is called.

    Args:
        spec: the checked study.
        spec_text: its file, verbatim.
        home: where things are kept.
        name: the study's name, or None for one made from ``origin`` and the dataset.
        device: PyTorch's name of the device.
        origin: name of the study file.
        notes: sentences about how the images were recognised.

    Raises:
        InputError: the data is not usable, or too little for the figures of a study.
    """
    dataset = load_dataset(spec.dataset, cache=home.cache, positive_needed=False)
    stem = origin.removesuffix(".toml").rsplit("/", 1)[-1]
    name = name or (stem if stem == dataset.name else f"{stem}-{dataset.name}")
    begun = _record_of(home, name)
    dataset, remark = _with_positive(dataset, spec, begun)
    remarks = [*notes, *check_files(dataset, home.cache), *([] if remark is None else [remark])]
    if begun is not None:
        spec = begun.identity.with_earlier_rules(spec)
    partition = make_partition(
        dataset,
        spec.dataset,
        seed=spec.study.seed,
        cache=home.cache,
        began_with=None if begun is None else begun.identity.partition,
    )
    if len(partition.folds) != spec.dataset.num_folds:
        # As many as there are sites, or as the authors give.
        folded = spec.dataset.model_copy(update={"num_folds": len(partition.folds)})
        spec = spec.model_copy(update={"dataset": folded})
    if begun is None:
        check_division(dataset, partition)
    if (few := few_test_images_warning(dataset, partition)) is not None:
        remarks.append(few)
    known = KnownImages(home)
    known.add_images(dataset)
    developed = known.developed_elsewhere(membership_of(name, partition))
    development = dataset.subset(partition.development)
    place = spec.dataset.lesions
    seen = [geometry_of(found, place=place) for found in spec.configurations("region")]
    needs_lesion = any(geometry.needs_lesion for geometry in seen)
    finds_lesion = any(geometry.finds_lesion for geometry in seen)
    if needs_lesion:
        remarks += check_lesions(development, find_lesions(development, home.cache))
    screen = None
    if any(found.crop == "auto" for found in spec.configurations("crop")):
        screen = find_screen_crop(development, home.cache)
        remarks.append(_said_of_screen(screen))
    context = StudyContext(
        name=name,
        spec=spec,
        spec_text=spec_text,
        home=home,
        device=device,
        partition=partition,
        development=development,
        counts=partition.counts() | {"num_test_not_independent": len(developed)},
        origin=origin,
        developed_by=tuple(sorted({study for studies in developed.values() for study in studies})),
        remarks=tuple(remarks),
        screen=screen,
        lesions_digest=development.lesions_digest if needs_lesion or finds_lesion else None,
        class_counts={
            class_name: int(np.sum(dataset.labels == label))
            for label, class_name in enumerate(dataset.class_names)
        },
    )
    if finds_lesion:
        context.found_lesions.check_masks(seen[0])
    # Decoding here names a damaged image before any trial starts.
    context.images(*context.model_input(spec.resolve({})))
    if wants_masks(spec) and context.development.masks_digest is None:
        raise InputError(
            f"mask_weight needs lesion masks, and {dataset.name} has none (BUSI's stand beside the "
            "images as NAME_mask.png, a table names them in its column mask); set mask_weight = 0."
        )
    return context


@dataclass(frozen=True)
class _Begun:
    """What a study that has begun holds to: its identity, and the class that is its disease."""

    identity: Identity
    positive: str


def _record_of(home: Home, name: str) -> _Begun | None:
    """Return what a study began with; None if it has not begun.

    An unreachable or damaged storage is not reported here; the search itself reports it.
    """
    if home.has_local_storage and not (home.root / "optuna.db").exists():
        return None
    try:
        with storage_errors(home):
            record = StudyRecord(find_study(home, name))
            identity = record.identity
    except BusiSearchError:
        return None
    return None if identity is None else _Begun(identity, record.positive)


def _with_positive(
    dataset: ImageDataset, spec: StudySpec, begun: _Begun | None
) -> tuple[ImageDataset, str | None]:
    """The dataset with the class that the study is about, and a sentence if it may surprise.

    Raises:
        InputError: the study has not begun, states no class, and the names do not tell.
    """
    names = dataset.class_names
    if spec.dataset.positive is not None or dataset.simulated:
        return dataset, None
    if begun is None or begun.positive not in names:
        positive = positive_class(names, None, where=spec.dataset.path or dataset.name)
        return replace(dataset, positive=positive), None
    positive = names.index(begun.positive)
    found = replace(dataset, positive=positive)
    if positive == infer_positive(names):
        return found, None
    return found, (
        f"The study has treated '{begun.positive}' as the disease from its beginning and keeps it; "
        "for another class, start another study with dataset.positive and --name NEW."
    )


def _said_of_screen(screen: Box | None) -> str:
    if screen is None:
        return 'crop = "auto" found nothing that all images have in common, so nothing is cut away.'
    edges = {"left": screen.left, "above": screen.top, "right": 1 - screen.right,
             "below": 1 - screen.bottom}  # fmt: skip
    cut = ", ".join(f"{share:.1%} {edge}" for edge, share in edges.items() if share > 0)
    return f'crop = "auto" cuts away what all images have in common: {cut}.'
