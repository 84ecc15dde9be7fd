"""What class names mean: which one is the disease, and which are no classes at all."""

import re
from collections.abc import Sequence

from busi_search.errors import InputError

# "abnormal" and "unhealthy" hold words of health in the middle of another word.
_DISEASE = re.compile(
    r"malign|cancer|carcinom|tumou?r|positiv|abnormal|unhealthy|diseas|krebs|lesion|suspicio|"
    r"patholog|b(?:oe|ö)sartig"
)
_HEALTH = re.compile(
    r"(?<![a-z])(?:normal|benign|healthy|negativ|controls?(?![a-z])|gutartig|gesund)"
)
_NOT = re.compile(
    r"(?:^|[\s_-])(?:no|non|not|none|never|without|free|absent|excluded|exclusion|ruled[\s_-]*out|"
    r"kein|keine|nicht|ohne|sans|sin)(?:[\s_-]|$)|^non|free$"
)
_KIND = (
    r"(?:images?|imgs?|pictures?|masks?|gt|ground[\s_-]?truth|originals?|labels?|annotations?|"
    r"segmentations?|segs?|contours?|overlays?|rois?|bbox(?:es)?|train(?:ing)?|val(?:id|idation)?|"
    r"test(?:ing)?|sets?|folds?|splits?|data|datasets?|raw|png|jpe?g|dicom|dcm|unlabell?ed)"
)
_NO_CLASS = re.compile(rf"{_KIND}(?:[\s_-]*{_KIND})*[\s_-]*\d*")


class UnknownPositive(InputError):
    """The names of classes do not tell which one is the disease.

    Attributes:
        class_names: the names.
    """

    def __init__(self, sentence: str, class_names: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.class_names = tuple(class_names)


def denies(name: str) -> bool:
    """Return whether a class name says that the disease is not there: "normal", "non-malignant".

    A negated word of health ("not benign") denies nothing, and states no disease either.
    """
    text = _words(name)
    healthy, negated = _HEALTH.search(text) is not None, _NOT.search(text) is not None
    if healthy and negated:
        return _DISEASE.search(text) is not None
    return healthy or negated


def is_diagnosis(name: str) -> bool:
    """Return whether a name is that of a finding, such as "benign" or "cancer"."""
    return denies(name) or _DISEASE.search(_words(name)) is not None


def is_no_class(name: str) -> bool:
    """Return whether a folder's name says what kind of file lies in it, not which class."""
    return _NO_CLASS.fullmatch(name.strip().lower()) is not None


def infer_positive(class_names: Sequence[str]) -> int | None:
    """Return the index of the class that is the disease; None where the names do not tell.

    "Normal", "benign" and negated names such as "non-malignant" are never it. Among the others, it
    is the only one that is malignant, or else the only one that names a disease.
    """
    left = [index for index, name in enumerate(class_names) if not denies(name)]
    for word in ("malign", _DISEASE):
        named = [index for index in left if re.search(word, _words(class_names[index]))]
        if len(named) == 1:
            return named[0]
    return None


def earlier_positive(class_names: Sequence[str]) -> int:
    """Return the index of the class that the first version took for the disease, right or wrong.

    It was the first whose name holds "malignant", or the last class where none does. Studies that
    began so are continued so.
    """
    named = (index for index, name in enumerate(class_names) if "malignant" in name.lower())
    return next(named, len(class_names) - 1)


def positive_class(
    class_names: Sequence[str], stated: str | None, *, where: str, needed: bool = True
) -> int:
    """Return the index of the class that AUC, sensitivity and operating point are about.

    Args:
        class_names: C names.
        stated: the study's ``dataset.positive``; None: told from the names.
        where: what the class names are of, for the error.
        needed: refuse names that do not tell; otherwise :func:`earlier_positive` is returned, for
            those who only look at images.

    Raises:
        InputError: no class has the stated name.
        UnknownPositive: none is stated, and the names do not tell.
    """
    if stated is not None:
        if stated in class_names:
            return list(class_names).index(stated)
        raise InputError(
            f"{where}: there is no class '{stated}' (dataset.positive); the classes are "
            f"{_listed(class_names)}."
        )
    found = infer_positive(class_names)
    if found is None and not needed:
        return earlier_positive(class_names)
    if found is None:
        raise UnknownPositive(
            f"{where}: the names of the classes ({_listed(class_names)}) do not tell which one is "
            "the disease; state its name: --set 'dataset.positive=\"NAME\"', or positive = "
            '"NAME" under [dataset] in the study file.',
            class_names,
        )
    return found


def untold_positive_note(class_names: Sequence[str]) -> str | None:
    """Return a sentence for who only looks at images if the names do not tell the disease."""
    if infer_positive(class_names) is not None:
        return None
    return (
        f"The names of the classes ({_listed(class_names)}) do not tell which one is the disease: "
        'a study needs positive = "NAME" under [dataset], or --set \'dataset.positive="NAME"\'.'
    )


def _words(name: str) -> str:
    """A name in small letters, "NotMalignant" as two words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.strip()).lower()


def _listed(class_names: Sequence[str]) -> str:
    """The names in quotes; of many the first ones."""
    shown = ", ".join(f"'{name}'" for name in class_names[:10])
    return shown if len(class_names) <= 10 else f"{shown} and {len(class_names) - 10} more"
