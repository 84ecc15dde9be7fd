"""Words that people read, put together in one way; light to import."""


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as ``1 file`` and ``1,234 files``.

    Args:
        number: how many there are.
        noun: what for one of them.
        plural: what for several, where that is not the noun with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def verb(number: int, one: str, several: str) -> str:
    """Return the form of a verb that fits a number, such as ``is`` or ``are``."""
    return one if number == 1 else several


def duration(seconds: float | None) -> str:
    """Return ``m:ss`` or ``h:mm:ss``; ``–`` where nothing is known."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
