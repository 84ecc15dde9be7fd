"""Whether all that was is still there: what was added counts for nothing, what is gone counts."""

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

SEPARATOR = " > "


def changes(
    old: Any, new: Any, permitted: Mapping[str, str], path: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield a line for everything in ``old`` that is missing from ``new`` or is not the same there.

    Keys may be added to objects. Lists must be of one length. Numbers must agree to the last bit,
    and a whole number must stay one.

    Args:
        old: a JSON value.
        new: another.
        permitted: patterns of paths, such as ``"* > seconds"``, whose values may differ, each with
            the reason. The key must still be there.
        path: where ``old`` and ``new`` stand; keys and indices.
    """
    place = SEPARATOR.join(path)
    if any(fnmatchcase(place, pattern) for pattern in permitted):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key in new:
                yield from changes(value, new[key], permitted, (*path, key))
            else:
                yield f"{place}{SEPARATOR}{key} is missing; it was {_short(value)}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from changes(one, other, permitted, (*path, str(index)))
    # As text, for 1 equals 1.0 and True, and no NaN another.
    elif json.dumps(old) != json.dumps(new):
        yield f"{place} was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
