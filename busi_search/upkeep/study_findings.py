"""What a study has left behind: trials, its ledger, images and weights, and its copy in MLflow."""

import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from busi_search.data.ledger import mendings
from busi_search.data.sources import load_dataset
from busi_search.errors import BusiSearchError, InputError
from busi_search.home import (
    Home,
)
from busi_search.search.mlflow.lookup import (
    find_experiment,
    is_deleted,
    is_logged,
    runs_of_study,
)
from busi_search.search.mlflow.retry import brief_calls, tracking_errors
from busi_search.search.mlflow.study import RESULTS
from busi_search.search.reopen import at_place
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.foreign import foreign_sentence, foreign_trials, own_trials
from busi_search.search.store.identity import check_versions
from busi_search.search.store.locks import only_driver
from busi_search.search.store.open import open_storage
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import NAMED_WEIGHTS, StudySpec
from busi_search.upkeep.finding import Finding, answering_client
from busi_search.upkeep.sync import put_back_orphans, sync_studies
from busi_search.wording import count_of

if TYPE_CHECKING:
    from mlflow.entities import Run


def load_studies(home: Home) -> list[optuna.Study]:
    """Return the studies of a home in the order of their names."""
    storage = open_storage(home)
    names = sorted(optuna.get_all_study_names(storage))
    return [optuna.load_study(study_name=name, storage=storage) for name in names]


def examine_study(
    home: Home, study: optuna.Study, *, tracked: bool, fix: bool
) -> Iterator[Finding]:
    """Look at one study, unless somebody searches it right now.

    Args:
        home: where it is.
        study: the study.
        tracked: whether MLflow answers.
        fix: as of :func:`.examine`.
    """
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
        client = answering_client(home)
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


def _lacks_results(record: StudyRecord, runs: "list[Run]") -> bool:
    return record.released is not None and not any(RESULTS in run.data.tags for run in runs)


def _foreign(study: optuna.Study, about: str) -> Iterator[Finding]:
    """Say which trials another program or study made."""
    if numbers := foreign_trials(study):
        yield Finding(about, "note", foreign_sentence(numbers))
