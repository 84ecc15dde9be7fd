"""The key with which a home hashes the PatientIDs of DICOM files."""

import os
import secrets
import tempfile
from pathlib import Path

from busi_search.errors import InputError
from busi_search.files import disk_errors

SALT_FILE = "patient_salt"
_NUM_BYTES = 32


def load_patient_salt(file: Path | None) -> bytes:
    """Return the salt of a home, made at random when it is first needed.

    Groups do not depend on it: equal PatientIDs have equal hashes under any salt.

    Args:
        file: where the home keeps it; None: a salt of this call, kept nowhere.

    Raises:
        InputError: the file is damaged.
        BusiSearchError: it cannot be written.
    """
    if file is None:
        return secrets.token_bytes(_NUM_BYTES)
    if not file.exists():
        with disk_errors(file.parent):
            _create(file)
    try:
        salt = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        salt = b""
    if len(salt) != _NUM_BYTES:
        raise InputError(f"{file}: the salt of this home is damaged; restore it, or remove it.")
    return salt


def _create(file: Path) -> None:
    """Write a salt that only this user can read, unless another process was first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Its mode is 600 from the beginning.
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(_NUM_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(temporary, file)
        except FileExistsError:
            return
        except OSError:
            # A file system without links.
            if not file.exists():
                os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)
