"""One registered model per task: what it is called, and what it tells apart."""

import hashlib
import re
from collections.abc import Iterable

from busi_search.models.registry import MODEL_NAME, PHANTOM_MODEL

# What a registry may show of a name, and what fits into one.
_MOST_LETTERS = 120
_USUAL_CLASSES = frozenset({"benign", "malignant", "normal"})


def task_in_words(class_names: Iterable[str], *, simulated: bool) -> str:
    """Return what a model tells apart, such as ``benign, malignant``.

    Args:
        class_names: of its dataset.
        simulated: whether the images are phantoms.
    """
    text = ", ".join(sorted(name.replace(", ", " or ") for name in class_names))
    return f"{text} (simulated phantoms)" if simulated else text


def registered_name(
    class_names: Iterable[str], *, simulated: bool, chosen: str | None = None
) -> str:
    """Return the registered model that a study's winner belongs to.

    ``busi-classifier`` has BUSI's three classes; other classes stand in the name, in alphabetical
    order. Phantoms have a model of their own: they never take an alias from real images.

    Args:
        class_names: of the study's dataset.
        simulated: whether the images are phantoms.
        chosen: name in the study file, if it has one.
    """
    if chosen is not None:
        return chosen
    if simulated:
        return PHANTOM_MODEL
    names = sorted(class_names)
    if frozenset(name.lower() for name in names) == _USUAL_CLASSES:
        return MODEL_NAME
    parts = [_plain(name.replace(", ", " or ")) for name in names]
    name = "-".join([MODEL_NAME, *parts])
    if len(name) <= _MOST_LETTERS and all(parts):
        return name
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    return f"{name[:_MOST_LETTERS].strip(chr(45))}-{digest}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
