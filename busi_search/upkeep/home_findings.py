"""What works on this machine and home: disk, stores, models, weights, caches."""

import json
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import optuna
import torch

from busi_search.errors import BusiSearchError
from busi_search.home import (
    TRACKING_DATABASE,
    Home,
    damage_of,
    own_temporaries,
    without_password,
)
from busi_search.models.registry import has_files, list_versions
from busi_search.relocation import addresses_elsewhere, bring_home, is_there, relocate_artifacts
from busi_search.search.mlflow.retry import brief_calls, tracking_errors
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import open_storage
from busi_search.training.known_weights import check_all
from busi_search.upkeep.finding import Finding, answering_client
from busi_search.wording import count_of, verb

LITTLE_FREE_BYTES = 1_000_000_000
# A temporary file this old belongs to a process that was killed.
STALE_SECONDS = 3600


def device() -> Finding:
    """Say what can train here: GPUs and CPU cores."""
    cores = joblib.cpu_count()
    if not torch.cuda.is_available():
        return Finding(
            "device", "ok", f"{cores} CPU cores, no usable GPU (torch {torch.__version__})"
        )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("device", "ok", f"{', '.join(names)}; {cores} CPU cores")


def disk(home: Home) -> Finding:
    """Say how much space is left where the home is."""
    free = shutil.disk_usage(home.root).free
    text = f"{free / 1e9:.1f} GB free at {home.root}"
    if free < LITTLE_FREE_BYTES:
        return Finding("disk", "problem", text, "free some, or use another disk with --home DIR")
    return Finding("disk", "ok", text)


def storage(home: Home) -> Finding:
    """Say whether the Optuna storage is there and whole."""
    database = home.root / "optuna.db"
    if home.has_local_storage and not database.exists():
        return Finding("storage", "note", "no study was run on this home yet", "busi-search run")
    damage = damage_of(database) if home.has_local_storage else None
    if damage is not None:
        aside = "restore it from a backup, or move it away with its -wal and -shm files"
        return Finding("storage", "problem", f"{database} is damaged: {damage}", aside)
    try:
        with storage_errors(home):
            names = optuna.get_all_study_names(open_storage(home))
    except BusiSearchError as error:
        return Finding("storage", "problem", str(error), "start the database, or correct --storage")
    shown = without_password(home.storage_url)
    return Finding("storage", "ok", f"{shown}: intact, {len(names)} study(ies)")


def tracking(home: Home) -> Finding:
    """Say whether MLflow's store is there, whole and answers."""
    shown, database = without_password(home.tracking_uri), home.tracking_database
    if database is not None and not database.exists():
        return Finding("tracking", "note", "nothing was written to MLflow yet", "busi-search run")
    damage = None if database is None else damage_of(database)
    if damage is not None:
        aside = (
            "restore it from a backup; or move it away and type `busi-search sync`, which writes "
            "all runs again (registered models and aliases are lost)"
        )
        return Finding("tracking", "problem", f"{database} is damaged: {damage}", aside)
    try:
        answering_client(home).search_experiments(max_results=1)
    except BusiSearchError as error:
        return Finding("tracking", "problem", str(error), "start the server; then busi-search sync")
    return Finding("tracking", "ok", f"{shown}: answers")


def pretrained() -> Iterator[Finding]:
    """Say which pretrained weights are on this machine, each file compared with its checksum."""
    rows = check_all()
    for row in rows:
        if row.problem is not None:
            yield Finding("weights", "problem", row.problem, "busi-search weights check")
    whole = [row.architecture for row in rows if row.problem is None]
    if whole:
        yield Finding("weights", "ok", f"pretrained weights at hand: {', '.join(whole)}")
    else:
        yield Finding("weights", "note", "no pretrained weights are at hand", "busi-search weights")


def places(home: Home, *, fix: bool) -> Iterator[Finding]:
    """What MLflow's database says of artifacts in another folder: the home was moved or copied."""
    database, artifacts = home.root / TRACKING_DATABASE, home.root / "artifacts"
    if not home.has_own_tracking or not database.exists() or damage_of(database) is not None:
        return
    before = addresses_elsewhere(database, artifacts)
    # As every command does that opens the database.
    if moved := relocate_artifacts(database, artifacts):
        followed = count_of(moved, "address", "addresses")
        text = f"the home was at {', '.join(sorted(before))}; {followed} followed it"
        yield Finding("places", "mended", text)
    elsewhere = addresses_elsewhere(database, artifacts)
    if not elsewhere:
        return
    number = sum(elsewhere.values())
    addresses = count_of(number, "address", "addresses")
    points = verb(number, "points", "point")
    text = f"{addresses} of artifacts in MLflow {points} to {', '.join(sorted(elsewhere))}"
    if all(map(is_there, elsewhere)):
        yield Finding("places", "note", f"{text}, which exists (usually another home)")
        return
    if not fix:
        yield Finding("places", "problem", text, "busi-search doctor --fix")
        return
    bring_home(database, artifacts)
    if left := addresses_elsewhere(database, artifacts):
        text += f"; {sum(left.values())} still do, because their files are not in this home"
        yield Finding("places", "problem", text, f"copy these files into {artifacts}")
    else:
        yield Finding("places", "mended", f"{text}: they point into this home now")


def models(home: Home) -> Iterator[Finding]:
    """Say which champion or candidate has lost its files."""
    with brief_calls(), tracking_errors(home):
        for version in list_versions(home):
            if version.aliases and not has_files(home, version):
                name = version.tags.get("busi.study", "NAME")
                yield Finding(
                    f"model {version.name} {version.version}",
                    "problem",
                    f"it is {' and '.join(version.aliases)}, and its files are gone",
                    f"put them back, or run study {shlex.quote(name)} again, which registers its "
                    "winner again",
                )


def leftovers(home: Home, *, fix: bool) -> Iterator[Finding]:
    """Temporary files of processes that were killed; lock files are no leftovers."""
    stale = [p for p in own_temporaries(home) if time.time() - p.stat().st_mtime > STALE_SECONDS]
    if not stale:
        return
    size = sum(path.stat().st_size for path in stale)
    files = count_of(len(stale), "temporary file")
    text = f"{files} of processes that were killed, {size / 1e6:.1f} MB"
    if fix:
        for path in stale:
            path.unlink(missing_ok=True)
        yield Finding("leftovers", "mended", f"{text}: removed")
    else:
        yield Finding("leftovers", "problem", text, "busi-search doctor --fix")


def caches(home: Home) -> Iterator[Finding]:
    """Say how large the caches are, and which of their files are damaged."""
    folders = [folder for folder in home.cache_folders if folder.is_dir()]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    if not files:
        return
    size = sum(path.stat().st_size for path in files)
    broken = [path for path in files if path.suffix == ".json" and not _is_json(path)]
    text = (
        f"{size / 1e6:.1f} MB in {count_of(len(files), 'file')}, all of which can be computed again"
    )
    if broken:
        text += f"; {len(broken)} damaged, which are computed again when needed"
    line = shlex.join(["rm", "-r", *map(str, folders)])
    yield Finding("caches", "note", text, f"{line} frees the space")


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
