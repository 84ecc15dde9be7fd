"""What works on this machine and home, and a fix for each problem."""

import json
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import joblib
import optuna
import torch
from optuna.trial import TrialState

from busi_search.data.ledger import mendings
from busi_search.data.sources import load_dataset
from busi_search.errors import BusiSearchError, InputError
from busi_search.home import (
    TRACKING_DATABASE,
    Home,
    damage_of,
    own_temporaries,
    quiet_mlflow,
    without_password,
)
from busi_search.models.registry import has_files, list_versions
from busi_search.relocation import addresses_elsewhere, bring_home, is_there, relocate_artifacts
from busi_search.search.context import at_place
from busi_search.search.mlflow.lookup import (
    find_experiment,
    is_deleted,
    is_logged,
    runs_of_study,
)
from busi_search.search.mlflow.retry import brief_calls, tracking_errors
from busi_search.search.mlflow.study import RESULTS
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.foreign import foreign_sentence, foreign_trials, own_trials
from busi_search.search.store.identity import check_versions
from busi_search.search.store.locks import only_driver
from busi_search.search.store.open import open_storage
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import NAMED_WEIGHTS, StudySpec
from busi_search.training.known_weights import check_all
from busi_search.upkeep.sync import put_back_orphans, sync_studies
from busi_search.wording import count_of, verb

if TYPE_CHECKING:
    from mlflow.entities import Run

LITTLE_FREE_BYTES = 1_000_000_000
# A temporary file this old belongs to a process that was killed.
STALE_SECONDS = 3600

State = Literal["ok", "note", "problem", "mended"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what, such as ``device`` or ``study busi``.
        state: ``ok``; ``note`` (worth knowing, nothing is wrong); ``problem``; ``mended``.
        text: what was found.
        mend: the command or step that fixes it, or None.
    """

    about: str
    state: State
    text: str
    mend: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the finding as ``busi-search doctor --json`` prints it."""
        return asdict(self)


def examine(home: Home, *, fix: bool = False) -> list[Finding]:
    """Look at everything a search depends on.

    Args:
        home: the home to look at.
        fix: mend what can be mended without a loss: put trials without a worker back into the
            queue, send MLflow what it missed and end its runs, remove stale temporary files.
    """
    places = list(_places(home, fix=fix))
    findings = [_device(), _disk(home), _storage(home), _tracking(home), *places]
    if findings[2].state == "ok":
        with storage_errors(home):
            tracked = findings[3].state == "ok"
            for study in _studies(home):
                findings += _study(home, study, tracked=tracked, fix=fix)
    if findings[3].state == "ok":
        findings += _models(home)
    return [*findings, *_pretrained(), *_leftovers(home, fix=fix), *_caches(home)]


def _device() -> Finding:
    cores = joblib.cpu_count()
    if not torch.cuda.is_available():
        return Finding(
            "device", "ok", f"{cores} CPU cores, no usable GPU (torch {torch.__version__})"
        )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("device", "ok", f"{', '.join(names)}; {cores} CPU cores")


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.root).free
    text = f"{free / 1e9:.1f} GB free at {home.root}"
    if free < LITTLE_FREE_BYTES:
        return Finding("disk", "problem", text, "free some, or use another disk with --home DIR")
    return Finding("disk", "ok", text)


def _storage(home: Home) -> Finding:
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


def _tracking(home: Home) -> Finding:
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
        _client(home).search_experiments(max_results=1)
    except BusiSearchError as error:
        return Finding("tracking", "problem", str(error), "start the server; then busi-search sync")
    return Finding("tracking", "ok", f"{shown}: answers")


def _client(home: Home) -> Any:
    """Return a client after one short call, so that a server that is away is found at once."""
    quiet_mlflow()
    from mlflow import MlflowClient

    with brief_calls(), tracking_errors(home):
        client = MlflowClient(tracking_uri=home.tracking_uri)
        client.search_experiments(max_results=1)
    return client


def _studies(home: Home) -> list[optuna.Study]:
    storage = open_storage(home)
    names = sorted(optuna.get_all_study_names(storage))
    return [optuna.load_study(study_name=name, storage=storage) for name in names]


def _study(home: Home, study: optuna.Study, *, tracked: bool, fix: bool) -> Iterator[Finding]:
    about = f"study {study.study_name}"
    with ExitStack() as stack:
        try:
            stack.enter_context(only_driver(home, study.study_name))
        except InputError:
            yield Finding(about, "ok", "is being searched right now")
            return
        sound = True
        for finding in (
            *_running_trials(home, study, about, fix=fix),
            *_ledger(home, study, about, tracked=tracked),
            *_inputs(home, study, about),
            *_foreign(study, about),
        ):
            sound = False
            yield finding
    if tracked and StudyRecord(study).has_begun:
        for finding in _copy(home, study, about, fix=fix):
            sound = False
            yield finding
    if sound:
        yield Finding(about, "ok", "nothing left behind, its images and versions are as they were")


def _running_trials(home: Home, study: optuna.Study, about: str, *, fix: bool) -> Iterator[Finding]:
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not running:
        return
    if fix:
        numbers = put_back_orphans(home, study)
        if numbers:
            text = f"trials {numbers} resume when the study is run"
            yield Finding(about, "mended", text)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if running and not home.has_local_storage:
        text = f"{count_of(len(running), 'trial')} running on other machines, or lost just now"
        yield Finding(about, "note", text, "`busi-search status` shows by whom")
    if fix or not home.has_local_storage:
        return
    text = f"{count_of(len(running), 'trial')} running without a worker; finished folds are kept"
    mend = "busi-search doctor --fix, or run the same `busi-search run` command again"
    yield Finding(about, "problem", text, mend)


def _ledger(home: Home, study: optuna.Study, about: str, *, tracked: bool) -> Iterator[Finding]:
    """Report whether the ledger of the sealed test was changed, or was repaired."""
    try:
        entries = SealLedger(home, study.study_name, ask_mlflow=tracked).entries()
    except BusiSearchError as error:
        yield Finding(about, "problem", str(error))
        return
    for found in mendings(entries):
        yield Finding(about, "note", f"the ledger of its sealed test was repaired: {found}")


def _inputs(home: Home, study: optuna.Study, about: str) -> Iterator[Finding]:
    """Say which images, weights and versions are not what the study began with."""
    identity = StudyRecord(study).identity
    if identity is None:
        yield Finding(about, "note", "was created but never started", "busi-search run")
        return
    try:
        spec = at_place(identity.load_spec(), StudyRecord(study), home)
        changed = identity.change_of_images(
            load_dataset(spec.dataset, cache=home.cache, positive_needed=False).fingerprint
        )
        if changed is not None:
            text = f"its images {changed}"
            yield Finding(about, "problem", text, "restore them, or begin another with --name NEW")
        yield from _weights(spec, about)
    except (BusiSearchError, ValueError) as error:
        text = f"its images or file cannot be read: {str(error).splitlines()[0]}"
        yield Finding(about, "problem", text, "put them back where they were, or " + _named(study))
    try:
        check_versions(study)
    except InputError as error:
        yield Finding(about, "note", str(error))


def _named(study: optuna.Study) -> str:
    line = shlex.join(["busi-search", "report", study.study_name, "--to", "report.html"])
    return f"name their place once: {line} --data PATH"


def _weights(spec: StudySpec, about: str) -> Iterator[Finding]:
    names = {chosen.weights for chosen in spec.configurations("weights")}
    for name in sorted(names.difference(NAMED_WEIGHTS)):
        if not Path(name).expanduser().is_file():
            yield Finding(about, "problem", f"its weights {name} are gone", "put the file back")


def _copy(home: Home, study: optuna.Study, about: str, *, fix: bool) -> Iterator[Finding]:
    """Compare MLflow with a study that is not being searched."""
    with brief_calls(), tracking_errors(home):
        client = _client(home)
        record = StudyRecord(study)
        experiment = find_experiment(client, record, study.study_name)
        kinds: dict[str, list[Run]] = {"study": [], "trial": []}
        if experiment is not None:
            number = experiment.experiment_id
            kinds = {kind: runs_of_study(client, number, record, kind) for kind in kinds}
    logged = {
        int(run.data.tags.get("optuna.number", -1))
        for run in kinds["trial"]
        if is_logged(run.data.tags)
    }
    trials = own_trials(study)
    unsent = [t.number for t in trials if t.state.is_finished() and t.number not in logged]
    running = [run for run in (*kinds["study"], *kinds["trial"]) if run.info.status == "RUNNING"]
    lacking = _lacks_results(record, kinds["study"])
    if not unsent and not running and not lacking and kinds["study"]:
        return
    if experiment is not None and is_deleted(experiment):
        text = "its experiment was deleted in MLflow"
    elif not kinds["study"]:
        text = "its run is not in MLflow, or was deleted there"
    elif lacking and not unsent and not running:
        text = "its run in MLflow is without the winner's figures and report"
        yield Finding(about, "problem", text, "run the `busi-search run` command that began it")
        return
    else:
        text = (
            f"{count_of(len(unsent), 'finished trial')} not in MLflow, "
            f"{count_of(len(running), 'run')} left running there"
        )
    mend = f"busi-search sync {shlex.quote(study.study_name)}"
    if not fix:
        yield Finding(about, "problem", text, mend)
        return
    (synced,) = sync_studies(home, [study.study_name])
    if synced.problem is None:
        yield Finding(about, "mended", f"{text}: sent and ended")
    else:
        yield Finding(about, "problem", f"{text}: {synced.problem}", mend)


def _pretrained() -> Iterator[Finding]:
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


def _lacks_results(record: StudyRecord, runs: "list[Run]") -> bool:
    return record.released is not None and not any(RESULTS in run.data.tags for run in runs)


def _foreign(study: optuna.Study, about: str) -> Iterator[Finding]:
    """Say which trials another program or study made."""
    if numbers := foreign_trials(study):
        yield Finding(about, "note", foreign_sentence(numbers))


def _places(home: Home, *, fix: bool) -> Iterator[Finding]:
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


def _models(home: Home) -> Iterator[Finding]:
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


def _leftovers(home: Home, *, fix: bool) -> Iterator[Finding]:
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


def _caches(home: Home) -> Iterator[Finding]:
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
