import os
from pathlib import Path

import pytest

from busi_search.errors import InputError
from busi_search.files import write_atomically
from busi_search.home import open_home, without_password
from busi_search.seeding import derive_seed


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="--home"):
        open_home(blocked / "home")


def test_passwords_are_never_shown() -> None:
    assert without_password("postgresql+psycopg://me:secret@host:1/db") == (
        "postgresql+psycopg://me:***@host:1/db"
    )
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_write_atomically_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.txt"
    write_atomically(target, b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_seeds_depend_on_every_argument_and_on_nothing_else() -> None:
    seeds = {
        derive_seed(study, trial, fold, purpose)
        for study in (0, 1)
        for trial in (0, 1, 12)
        for fold in (-1, 0, 2)
        for purpose in ("fit", "sampler")
    }
    assert len(seeds) == 2 * 3 * 3 * 2
    assert derive_seed(0, 12, 3, "fit") == 1387563106
