"""A study, prepared again from what it stored about itself, with its images where they are now."""

import os
from pathlib import Path

import optuna

from busi_search.data.known_images import KnownImages
from busi_search.errors import InputError
from busi_search.files import user_path
from busi_search.home import Home
from busi_search.search.assemble import make_context
from busi_search.search.context import StudyContext
from busi_search.search.store.study_identity import CHANGED_DIVISION
from busi_search.search.store.study_parts import ImagesAt
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import StudySpec


def reopen_study(
    study: optuna.Study, *, home: Home, device: str = "cpu", data: str | None = None
) -> StudyContext:
    """Prepare a study again from what it stored about itself.

    Args:
        study: the study.
        home: where things are kept on this machine.
        device: PyTorch's name of the device trials run on.
        data: where its images are on this machine, if not where the study file says.

    Raises:
        InputError: it was named but never begun, its images are gone, unusable or changed, or they
            are not divided any more as they were.
    """
    record = StudyRecord(study)
    identity = record.identity
    if identity is None:
        raise InputError(f"Study '{study.study_name}' has not begun; run it first.")
    spec = at_place(identity.load_spec(), record, home, data=data)
    place = spec.dataset.path
    if place is not None and not user_path(place).exists():
        raise InputError(
            f"{place}: no such folder or file; if the images of study '{study.study_name}' were "
            "moved, name their place with --data PATH (`busi-search report` and `evaluate` take "
            "it, and it is remembered)."
        )
    context = make_context(
        spec,
        record.spec_text,
        home=home,
        name=study.study_name,
        device=device,
        origin=record.origin,
    )
    if (changed := identity.change_of_images(context.partition.fingerprint)) is not None:
        raise InputError(
            f"The images of study '{study.study_name}' at {_places(spec)} {changed}; restore "
            "them, or name the folder with those it began with (--data PATH)."
        )
    if (changed := identity.change_of_lesions(context.lesions_digest or "")) is not None:
        raise InputError(f"Study '{study.study_name}': {changed}; restore them.")
    if context.partition.digest() != identity.partition:
        made_by = record.versions.get("busi-search", "an earlier version")
        raise InputError(
            f"Study '{study.study_name}' {CHANGED_DIVISION}; restore the file of groups that it "
            f"began with, or open it with what it was made by, busi-search {made_by}."
        )
    # Studies that began before there was a register, or on another machine.
    KnownImages(home).add(context.membership)
    if data is not None:
        note_place(study, context)
    return context


def at_place(
    spec: StudySpec, record: StudyRecord, home: Home, *, data: str | None = None
) -> StudySpec:
    """Return a study file with the place where its images are on this machine.

    Args:
        spec: the study file.
        record: what the study keeps about itself, the place where its images were last found too.
        home: the home, with which the images may have been moved.
        data: the place, if somebody names it.

    Raises:
        InputError: one place is named for a study of several sources.
    """
    if spec.dataset.sources and data is not None:
        raise InputError(
            f"This study has {len(spec.dataset.sources)} sources, and --data names one place; put "
            f"their images back where the study file says ({_places(spec)})."
        )
    written, noted = spec.dataset.path, record.images_at
    if data is None and noted is not None and written is not None:
        candidates = [noted.absolute, str(home.root / noted.from_home), written]
        data = next((path for path in candidates if user_path(path).exists()), None)
    update = {} if data is None else {"path": data}
    if noted is not None and noted.groups is not None and Path(noted.groups).is_file():
        update["groups"] = noted.groups
    return spec.model_copy(update={"dataset": spec.dataset.model_copy(update=update)})


def _places(spec: StudySpec) -> str:
    """Where a study's images are, for a sentence."""
    section = spec.dataset
    return ", ".join(entry.path for entry in section.sources) or str(section.path)


def note_place(study: optuna.Study, context: StudyContext) -> None:
    """Keep where a study's images were found; a place that is noted is not written again."""
    if context.spec.dataset.path is None:
        return
    absolute = user_path(context.spec.dataset.path).resolve()
    try:
        from_home = os.path.relpath(absolute, context.home.root)
    except ValueError:  # On another drive of Windows.
        from_home = str(absolute)
    groups = user_path(context.spec.dataset.groups)
    is_file = context.spec.dataset.groups not in ("auto", "none")
    place = ImagesAt(str(absolute), from_home, str(groups.resolve()) if is_file else None)
    record = StudyRecord(study)
    if record.images_at != place:
        record.set_images_at(place)
