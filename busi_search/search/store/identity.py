"""A study: created once, resumed by the same words."""

import json
import platform
from importlib.metadata import version

import joblib
import optuna
from optuna.storages import BaseStorage

from busi_search.errors import InputError
from busi_search.search.context import StudyContext
from busi_search.search.pruning import make_pruner
from busi_search.search.samplers import make_sampler
from busi_search.search.space import recipe_trials
from busi_search.search.store.open import claim_lock
from busi_search.spec import spec_json


def create_study(context: StudyContext, storage: BaseStorage) -> optuna.Study:
    """Create a study in the storage, or open the one of that name if it is the same.

    Raises:
        InputError: a study of that name exists with another study file or other data.
    """
    identity = {
        "spec": spec_json(context.spec),
        "fingerprint": context.partition.fingerprint,
        "partition": context.partition.digest(),
    }
    with claim_lock(context.home, context.name):
        study = optuna.create_study(
            storage=storage,
            study_name=context.name,
            directions=context.spec.study.directions,
            sampler=make_sampler(context.spec),
            pruner=make_pruner(context.spec.study, len(context.partition.folds)),
            load_if_exists=True,
        )
        known = study.user_attrs.get("identity")
        if known is None:
            _initialise(study, context)
            study.set_user_attr("identity", identity)
        elif known != identity:
            raise InputError(_difference(context, known, identity))
    return study


def _initialise(study: optuna.Study, context: StudyContext) -> None:
    study.set_user_attr("spec_text", context.spec_text)
    study.set_user_attr("origin", context.origin)
    study.set_user_attr("counts", context.counts)
    study.set_user_attr("class_names", list(context.development.class_names))
    study.set_user_attr("simulated", context.development.simulated)
    study.set_user_attr("versions", environment())
    present = {trial.user_attrs.get("recipe") for trial in study.get_trials(deepcopy=False)}
    for parameters, attributes in recipe_trials(context.spec):
        if attributes["recipe"] not in present:
            study.enqueue_trial(parameters, user_attrs=attributes)


def _difference(context: StudyContext, known: dict[str, str], now: dict[str, str]) -> str:
    if known["fingerprint"] != now["fingerprint"]:
        what = f"the images changed since it began ({known['fingerprint']} → {now['fingerprint']})"
    elif known["spec"] != now["spec"]:
        what = f"the study file differs from the one it began with ({_changed_keys(known, now)})"
    else:
        what = "the division into folds and test differs from the one it began with"
    return (
        f"Study '{context.name}' exists and {what}; restore what it began with, "
        "or begin another with --name NEW."
    )


def _changed_keys(known: dict[str, str], now: dict[str, str]) -> str:
    before, after = json.loads(known["spec"]), json.loads(now["spec"])
    changed = [
        f"{section}.{key}"
        for section in ("study", "dataset", "hyperparameters", "space")
        for key in sorted({*before[section], *after[section]})
        if before[section].get(key) != after[section].get(key)
    ]
    return ", ".join(changed) if changed else "recipes"


def environment() -> dict[str, str]:
    """Return versions and hardware that a result may depend on."""
    packages = ("busi-search", "torch", "torchvision", "numpy", "scikit-learn", "optuna", "mlflow")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": str(joblib.cpu_count()),
        **{package: version(package) for package in packages},
    }
