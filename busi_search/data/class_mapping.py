"""The mapping from the classes of other data to those of a model."""

from collections.abc import Mapping, Sequence

from busi_search.errors import InputError

# What stands for a class whose images are not evaluated.
LEAVE_OUT = "leave out"


def parse_class_map(written: Sequence[str]) -> dict[str, str]:
    """Return the stated mapping, from a name of the other data to a name of the model.

    Args:
        written: pieces such as ``normal or benign=benign``, or several in one, with semicolons.

    Raises:
        InputError: a piece is not of this form, or a class is mapped twice.
    """
    found: dict[str, str] = {}
    for piece in (part.strip() for text in written for part in text.split(";")):
        if not piece:
            continue
        theirs, equals, ours = (word.strip() for word in piece.partition("="))
        if not (theirs and equals and ours):
            raise InputError(
                f'--map "{piece}": expected a class of the images and a class of the model, such '
                'as --map "normal or benign=benign".'
            )
        if found.setdefault(theirs, ours) != ours:
            raise InputError(f"--map: '{theirs}' is mapped twice; keep one.")
    return found


def map_classes(
    theirs: Sequence[str],
    ours: Sequence[str],
    stated: Mapping[str, str],
    *,
    where: str,
    in_study_file: bool = False,
) -> list[int | None]:
    """Return for each class of the data the index of the model's class; None: left out.

    Equal names need not be stated; upper and lower case do not matter.

    Args:
        theirs: names of the data's classes.
        ours: C names of the model's classes.
        stated: as :func:`parse_class_map` gives it.
        where: what the data is, for the errors.
        in_study_file: the mapping is in a study file, not in ``--map``.

    Raises:
        InputError: a class is not mapped, or the mapping names a class that is not there; the
            sentence holds what to type.
    """
    present, known = _listed(theirs), _listed(ours)
    option, owner = ("map", "study") if in_study_file else ("--map", "model")
    index = {_key(name): number for number, name in enumerate(ours)}
    chosen = {_key(name): target for name, target in stated.items()}
    for name in stated:
        if _key(name) not in {_key(other) for other in theirs}:
            raise InputError(
                f"{where}: there is no class '{name}' ({option}); its classes: {present}."
            )
    found: list[int | None] = []
    for name in theirs:
        target = chosen.get(_key(name), name)
        if _key(target) == LEAVE_OUT:
            found.append(None)
        elif _key(target) in index:
            found.append(index[_key(target)])
        elif _key(name) in chosen:
            raise InputError(
                f"{option}: the {owner} has no class '{target}'; its classes: {known}."
            )
        else:
            raise InputError(
                f"{where}: '{name}' is none of the {owner}'s classes ({known}); say which one it "
                f"counts as, such as {_stated(name, ours[0], in_study_file)}, or leave its images "
                f"out: {_stated(name, LEAVE_OUT, in_study_file)}."
            )
    return found


def _stated(theirs: str, ours: str, in_study_file: bool) -> str:
    """A mapping as it is written."""
    return f'map = {{ "{theirs}" = "{ours}" }}' if in_study_file else f'--map "{theirs}={ours}"'


def _key(name: str) -> str:
    return " ".join(name.lower().split())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
