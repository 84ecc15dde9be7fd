"""A study: created once, resumed by the same words."""

import json
import platform
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import joblib
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage

from busi_search.architectures import is_timm
from busi_search.errors import InputError
from busi_search.search.context import StudyContext, fold_sizes, note_place
from busi_search.search.pruning.optuna_pruners import make_pruner
from busi_search.search.samplers import make_sampler
from busi_search.search.space import recipe_trials
from busi_search.search.store.locks import claim_lock
from busi_search.search.store.records import RECIPE, recipe_name
from busi_search.search.store.study_record import Identity, StudyRecord
from busi_search.spec import StudySpec, spec_json

# Packages whose version a score may depend on; others may change within a study.
DECISIVE_PACKAGES = ("busi-search", "torch", "torchvision", "numpy", "scikit-learn")


def create_study(context: StudyContext, storage: BaseStorage) -> optuna.Study:
    """Create a study in the storage, or open the one of that name if it is the same.

    Raises:
        InputError: a study of that name exists with another study file or other data.
    """
    identity = Identity(
        spec=spec_json(context.spec),
        fingerprint=context.partition.fingerprint,
        partition=context.partition.digest(),
        lesions=context.lesions_digest or "",
    )
    with claim_lock(context.home, context.name):
        study = optuna.create_study(
            storage=storage,
            study_name=context.name,
            directions=context.spec.study.directions,
            sampler=make_sampler(context.spec, storage),
            pruner=make_pruner(context.spec.study, len(context.partition.folds)),
            load_if_exists=True,
        )
        name_metrics(study, context.spec.study.objectives)
        record = StudyRecord(study)
        known = record.identity
        if known is None:
            record.make_id()
            _initialise(study, context)
            record.set_gate(context.spec.gate)
            record.set_cached_as(context.development.fingerprint)
            record.set_fold_sizes(fold_sizes(context))
            note_place(study, context)
            record.set_identity(identity)
        elif (difference := known.difference(_as_begun(identity, known, record))) is not None:
            raise InputError(
                f"Study '{context.name}' exists and {difference}; restore what it began with, "
                "or begin another with --name NEW (openings of its sealed images keep counting)."
            )
        else:
            take_over(record, context)
            note_place(study, context)
    return study


def name_metrics(study: optuna.Study, names: Sequence[str]) -> None:
    """Give the values of a study's trials the names that optuna-dashboard shows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if study.metric_names != list(names):
            study.set_metric_names(list(names))


def take_over(record: StudyRecord, context: StudyContext) -> None:
    """Keep what a study file says now and the search does not depend on, such as its [gate]."""
    if record.spec_text != context.spec_text:
        record.set_spec_text(context.spec_text)
    if record.fold_sizes is None:
        record.set_fold_sizes(fold_sizes(context))
    if context.development.fingerprint not in record.cached_as:
        record.set_cached_as(context.development.fingerprint)
    if record.gate != context.spec.gate:
        record.set_gate(context.spec.gate)


def _as_begun(identity: Identity, known: Identity, record: StudyRecord) -> Identity:
    """The identity without a class for the disease, if it states the one the study has anyway."""
    then, now = (json.loads(i.spec)["dataset"].get("positive") for i in (known, identity))
    if then is None and now is not None and now == record.positive:
        spec = identity.load_spec()
        unstated = spec.model_copy(
            update={"dataset": spec.dataset.model_copy(update={"positive": None})}
        )
        return replace(identity, spec=spec_json(unstated))
    return identity


def _initialise(study: optuna.Study, context: StudyContext) -> None:
    StudyRecord(study).describe(
        spec_text=context.spec_text,
        origin=context.origin,
        counts=context.counts,
        class_names=context.development.class_names,
        positive=context.development.class_names[context.development.positive],
        simulated=context.development.simulated,
        versions=environment(with_timm=_names_timm(context.spec)),
    )
    present = {recipe_name(trial) for trial in study.get_trials(deepcopy=False)}
    for parameters, attributes in recipe_trials(context.spec):
        if attributes[RECIPE] not in present:
            study.enqueue_trial(parameters, user_attrs=attributes)


def _names_timm(spec: StudySpec) -> bool:
    chosen = spec.configurations("architecture")
    return any(is_timm(settings.architecture) for settings in chosen)


def environment(*, with_timm: bool = False) -> dict[str, str]:
    """Return versions and hardware that a result may depend on.

    Args:
        with_timm: whether timm is one of them, which is an extra.
    """
    packages = (*DECISIVE_PACKAGES, "optuna", "mlflow", *(["timm"] if with_timm else []))
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": str(joblib.cpu_count()),
        **{package: version(package) for package in packages},
    }


def decisive_versions() -> dict[str, str]:
    """Return the versions that scores may depend on, without the label of a build (+cpu)."""
    return {name: version(name).partition("+")[0] for name in DECISIVE_PACKAGES}


def _now(then: Mapping[str, str]) -> dict[str, str]:
    """Return today's decisive versions; that of timm if the study began with it."""
    versions = decisive_versions()
    if "timm" in then:
        with suppress(PackageNotFoundError):  # who needs it and has it not is told elsewhere
            versions["timm"] = version("timm")
    return versions


def check_versions(study: optuna.Study) -> None:
    """Make sure that trials still to come are computed by the code that computed those there.

    Raises:
        InputError: a decisive package has another version than when the study began.
    """
    then = {
        name: str(number).partition("+")[0] for name, number in StudyRecord(study).versions.items()
    }
    changed = [
        f"{name} {then[name]} → {now}"
        for name, now in _now(then).items()
        if name in then and then[name] != now
    ]
    if changed:
        raise InputError(
            f"Study '{study.study_name}' began with other code ({', '.join(changed)}): its trials "
            "would not be comparable; install what it began with, or begin another with --name NEW."
        )
