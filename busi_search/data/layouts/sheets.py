"""Tables of text: CSV files, whatever separates their columns, and Excel sheets."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from busi_search.errors import InputError, reason_of

MAX_SHEET_BYTES = 200_000_000
SHEET_SUFFIXES = frozenset({".csv", ".tsv", ".xlsx"})
Row = dict[str, str]


def read_sheet(path: Path) -> list[Row]:
    """Read a table: its first line names the columns.

    Args:
        path: a .csv file (comma, semicolon or tab between its columns; UTF-8, with or without a
            byte order mark, or else Latin-1) or an .xlsx file, whose first sheet counts.

    Returns:
        A dictionary per row, without surrounding blanks; missing cells are empty. Whole numbers of
        an Excel sheet are written without a decimal point.

    Raises:
        InputError: the file cannot be read, is too large, or names a column twice.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_SHEET_BYTES:
            raise InputError(f"{path}: {num_bytes / 1e6:.0f} MB is too large for a table.")
        table = _excel(path) if path.suffix.lower() == ".xlsx" else _text(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except Exception as error:
        # Readers raise whatever they like on damaged input: BadZipFile, KeyError, csv.Error …
        raise InputError(f"{path}: not a readable table ({reason_of(error)}).") from None
    table = [cells for cells in table if any(cells)]
    if len(table) < 2:
        raise InputError(f"{path}: the table has no rows below the names of its columns.")
    names = table[0]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: two columns are named '{twice}'; rename one.")
    long = next((i for i, cells in enumerate(table, start=1) if any(cells[len(names) :])), None)
    if long is not None:
        raise InputError(f"{path}: line {long} has more cells than there are columns.")
    return [
        {name: cells[i] if i < len(cells) else "" for i, name in enumerate(names) if name}
        for cells in table[1:]
    ]


def _text(path: Path) -> list[list[str]]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    first = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    return [[cell.strip() for cell in row] for row in rows]


def _excel(path: Path) -> list[list[str]]:
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True, data_only=True)
    try:
        return [[_cell(value) for value in row] for row in book.worksheets[0].values]
    finally:
        book.close()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def column(rows: Sequence[Row], *names: str) -> str | None:
    """Return the name of the first column that has one of the names, whatever case and marks."""
    for name in names:
        for present in rows[0]:
            if _plain(present) == _plain(name):
                return present
    return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
