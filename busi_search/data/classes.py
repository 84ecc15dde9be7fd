"""What class names mean: which one is the disease, and which are no classes at all."""

import re
from collections.abc import Sequence

from busi_search.errors import InputError

_DISEASE = re.compile(r"malign|cancer|carcinom|tumou?r|positiv|abnormal|diseas|krebs|lesion")
_HEALTH = re.compile(r"normal|benign|healthy|negativ|control|gutartig|gesund")
_NOT = re.compile(r"(?:^|[\s_-])(?:no|non|not|without|free)(?:[\s_-]|$)|^non|free$")
_NO_CLASS = re.compile(
    r"(?:images?|imgs?|pictures?|masks?|gt|ground[\s_-]?truth|originals?|labels?|annotations?|"
    r"segmentations?|contours?|overlays?|rois?|bbox(?:es)?|train(?:ing|_?set)?|val(?:id|idation)?|"
    r"test(?:ing|_?set)?|folds?[\s_-]?\d*|data|dataset|raw|png|jpe?g|dicom|dcm)[\s_-]?\d*"
)


class UnknownPositive(InputError):
    """The names of classes do not tell which one is the disease.

    Attributes:
        class_names: the names.
    """

    def __init__(self, sentence: str, class_names: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.class_names = tuple(class_names)


def denies(name: str) -> bool:
    """Return whether a class name says that the disease is not there: "normal", "non-malignant"."""
    text = name.strip().lower()
    if "abnormal" in text:
        return _NOT.search(text) is not None
    return _HEALTH.search(text) is not None or _NOT.search(text) is not None


def is_no_class(name: str) -> bool:
    """Return whether a folder's name says what kind of file lies in it, not which class."""
    return _NO_CLASS.fullmatch(name.strip().lower()) is not None


def infer_positive(class_names: Sequence[str]) -> int | None:
    """Return the index of the class that is the disease; None where the names do not tell.

    "Normal", "benign" and negated names such as "non-malignant" are never it. Among the others, it
    is the malignant one, the one that names a disease, or, beside a single class that denies it,
    what is left.
    """
    left = [index for index, name in enumerate(class_names) if not denies(name)]
    for word in ("malign", _DISEASE):
        named = [index for index in left if re.search(word, class_names[index].lower())]
        if len(named) == 1:
            return named[0]
    return left[0] if len(left) == 1 and len(left) < len(class_names) else None


def positive_class(class_names: Sequence[str], stated: str | None, *, where: str) -> int:
    """Return the index of the class that AUC, sensitivity and operating point are about.

    Args:
        class_names: C names.
        stated: the study's ``dataset.positive``; None: told from the names.
        where: what the class names are of, for the error.

    Raises:
        InputError: no class has the stated name.
        UnknownPositive: none is stated, and the names do not tell.
    """
    listed = ", ".join(f"'{name}'" for name in class_names)
    if stated is not None:
        if stated in class_names:
            return list(class_names).index(stated)
        raise InputError(
            f"{where}: there is no class '{stated}' (dataset.positive); the classes are {listed}."
        )
    found = infer_positive(class_names)
    if found is None:
        raise UnknownPositive(
            f"{where}: the names of the classes ({listed}) do not tell which one is the disease; "
            f"state it: --set 'dataset.positive=\"{class_names[-1]}\"', or positive = "
            f'"{class_names[-1]}" under [dataset] in the study file.',
            class_names,
        )
    return found
