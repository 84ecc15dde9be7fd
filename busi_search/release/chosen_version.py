"""Which version of a study's model is meant."""

from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.loading import version_of_uri
from busi_search.models.registry import RegisteredVersion, find_version
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord


def chosen_version(
    home: Home, study: str, *, version: str | None, model_uri: str | None
) -> RegisteredVersion:
    """Return the version that is meant, which the study must have made.

    Raises:
        InputError: no such study or version, or the version is of another study.
    """
    released = StudyRecord(find_study(home, study)).released
    if version is not None and model_uri is not None:
        raise InputError("--version and --model-uri name the model twice; keep one.")
    if model_uri is not None:
        found = version_of_uri(home, model_uri)
    elif version is not None:
        found = find_version(home, version, name=released.model if released else None)
    elif released is not None:
        found = find_version(home, released.version, name=released.model)
    else:
        raise InputError(f"Study '{study}' has registered no model yet; finish it first.")
    if found.tags.get("busi.study") != study:
        raise InputError(
            f"Version {found.version} of '{found.name}' was made by study "
            f"'{found.tags.get('busi.study', '?')}', not by '{study}'; name that study."
        )
    return found
