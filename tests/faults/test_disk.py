"""Full, read-only and damaged disks: one sentence, nothing half-written, and the way out works."""

import os
import resource
import shutil
import sqlite3
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from busi_search.data.groups import find_groups
from busi_search.data.image_cache import load_images
from busi_search.errors import BusiSearchError
from busi_search.files import write_atomically
from busi_search.home import Home, damage_of, open_home
from busi_search.models.loading import load_champion
from busi_search.report.study_result import StudyResult
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.store.open import find_study
from busi_search.upkeep.doctor import examine
from busi_search.upkeep.sync import sync_studies
from tests.command import BUSI_SEARCH, call_here, one_sentence
from tests.faults.checks import check_copy, check_storage

TINY = ("epochs=1", "phantom_num_images=60", "num_folds=2", "architecture='small_cnn'",
        "image_size_pixels=28", "pruner='none'", "sampler='random'")  # fmt: skip
NAME = "quickstart-phantom"


def words(home: Path, num_trials: int) -> list[str]:
    settings = [word for override in TINY for word in ("--set", override)]
    common = ["--home", str(home), "run", "--trials", str(num_trials), "--workers", "1"]
    return [*common, "--quiet", "--device", "cpu", *settings]


def search(home: Home, num_trials: int) -> None:
    context = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")
    tracker = Tracker(context)
    list(run_search(context, InlineExecutor(), tracker, num_trials=num_trials, num_workers=1))


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Let the system refuse writes beyond a size, as a quota or a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of six megabytes, where the system lets a test make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
    return filler


@pytest.mark.slow
def test_no_disk_space_at_the_start_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BUSI_SEARCH, *words(tmp_path / "home", 2)], check=False, capture_output=True, text=True,
        timeout=300, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, -1)),
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    leftovers = [p for p in (tmp_path / "home" / "cache").rglob("*") if p.suffix == ".tmp"]
    assert leftovers == []


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_search_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busi_search.files.SPARE_BYTES", 0)
    home = open_home(small_disk / "home")
    search(home, 2)
    context = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")
    steps = run_search(context, InlineExecutor(), Tracker(context), num_trials=40, num_workers=1)
    next(steps)
    filler = fill(small_disk)
    with pytest.raises(BusiSearchError) as caught:
        list(steps)
    assert len(str(caught.value).splitlines()) == 1
    assert "full" in str(caught.value)
    filler.unlink()
    kept = [t for t in find_study(home, NAME).get_trials() if t.state.is_finished()]
    assert len(kept) >= 3
    values = {t.number: t.value for t in kept}
    search(home, len(kept) + 2)
    trials = find_study(home, NAME).get_trials()
    assert {t.number: t.value for t in trials if t.number in values} == values
    check_storage(home, NAME, len(kept) + 2)
    check_copy(home, NAME, len(kept) + 2)


def test_a_read_only_home_is_one_sentence(small_disk: Path) -> None:
    (small_disk / "home").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for line in (words(small_disk / "home", 2), ["--home", small_disk / "home", "doctor"]):
        answer = call_here(*line)
        assert answer.returncode == 2
        assert one_sentence(answer)
        assert "--home DIR" in answer.stderr


def test_a_cache_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home(tmp_path / "home")
    context = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")
    cache = tmp_path / "other"
    with largest_file(10_000), pytest.raises(BusiSearchError, match="nothing half-written"):
        load_images(context.development, 64, cache)
    assert [p.suffix for p in (cache / "images").iterdir()] in ([], [".lock"])
    whole = np.array(load_images(context.development, 64, cache))

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(BusiSearchError, match="are needed and 0 MB are free"):
        load_images(context.development, 96, cache)
    assert not list((cache / "images").glob("*-96.npy"))
    np.testing.assert_array_equal(whole, load_images(context.development, 64, cache))


def test_truncated_caches_are_made_anew(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home")
    context = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")
    whole = np.array(load_images(context.development, 28, home.cache))
    (images,) = (home.cache / "images").glob("*-28.npy")
    (groups,) = (home.cache / "groups").glob("*.json")
    for path in (images, groups):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")
    assert again.partition.digest() == context.partition.digest()
    np.testing.assert_array_equal(whole, load_images(again.development, 28, home.cache))
    groups.write_text('{"not": "a list"}')
    np.testing.assert_array_equal(
        find_groups(context.development, "auto", home.cache).twins,
        find_groups(context.development, "auto", tmp_path / "fresh").twins,
    )


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_atomically(target, b"old")
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        write_atomically(target, bytes(5000))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def damage(database: Path) -> None:
    """Overwrite pages in the middle, as a failing disk does; the first page stays."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    with database.open("r+b") as stream:
        stream.seek(4096 * 2)
        stream.write(os.urandom(database.stat().st_size // 2))


@pytest.fixture
def searched(tmp_path: Path, tiny_result: StudyResult) -> Home:
    """A copy of a finished home, to be damaged; its stores are addressed where they lie now."""
    shutil.copytree(tiny_result.context.home.root, tmp_path / "home")
    return open_home(tmp_path / "home")


@pytest.mark.parametrize("whole_header", [True, False])
def test_a_damaged_storage_is_refused_with_the_way_out(
    whole_header: bool, searched: Home, tmp_path: Path
) -> None:
    database = searched.root / "optuna.db"
    assert damage_of(database) is None
    if whole_header:
        damage(database)
    else:
        database.write_bytes(b"this was a database" * 400)
    before = database.read_bytes()
    for line in (words(searched.root, 6), ["--home", searched.root, "status", NAME]):
        answer = call_here(*line)
        assert answer.returncode == 1
        assert one_sentence(answer), answer.stderr
    assert database.read_bytes() == before
    answer = call_here("--home", searched.root, "doctor")
    assert answer.returncode == 1
    assert "restore it from a backup" in answer.stdout
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    search(searched, 1)


def test_a_damaged_tracking_database_is_written_again(searched: Home) -> None:
    assert searched.tracking_database is not None
    damage(searched.tracking_database)
    (finding,) = [f for f in examine(searched) if f.about == "tracking"]
    assert finding.state == "problem"
    assert "busi-search sync" in str(finding.mend)
    searched.tracking_database.rename(searched.root / "mlflow.db.damaged")
    (synced,) = sync_studies(searched)
    assert (synced.num_sent, synced.problem) == (4, None)
    check_copy(searched, NAME, 4)


def test_a_truncated_model_is_refused(tiny_result: StudyResult) -> None:
    home = tiny_result.context.home
    (model,) = (home.root / "artifacts").rglob("model.pt2")
    whole = model.read_bytes()
    try:
        for content in (whole[: len(whole) // 2], b"", b"\x80\x04cos\nsystem\n"):
            model.write_bytes(content)
            with pytest.raises(BusiSearchError) as caught:
                load_champion(home, "models:/busi-classifier@candidate")
            assert len(str(caught.value).splitlines()) == 1
    finally:
        model.write_bytes(whole)
    assert load_champion(home, "models:/busi-classifier@candidate").class_names


def test_what_a_killed_process_left_is_found_and_removed(searched: Home) -> None:
    # The home is a copy: its artifacts' addresses follow it.
    assert {found.about for found in examine(searched) if found.state == "mended"} == {"places"}
    assert all(found.state in ("ok", "note") for found in examine(searched))
    left = searched.cache / "images" / "abc.123.tmp"
    left.write_bytes(bytes(1000))
    os.utime(left, (0, 0))
    fresh = searched.cache / "images" / "abd.124.tmp"
    fresh.write_bytes(b"being written")
    (found,) = [f for f in examine(searched) if f.about == "leftovers"]
    assert found.state == "problem"
    assert left.exists()
    (mended,) = [f for f in examine(searched, fix=True) if f.about == "leftovers"]
    assert mended.state == "mended"
    assert not left.exists()
    assert fresh.exists()
