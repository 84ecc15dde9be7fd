"""What MLflow is told of a study: in words, its dataset, and who belongs where."""

import json
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np

from busi_search.search.context import StudyContext

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput


def describe_experiment(context: StudyContext) -> str:
    """Return what MLflow says of a study above its runs, in Markdown."""
    simulated = context.development.simulated
    warning = "**Simulated phantoms: scores mean nothing for patients.**\n\n" if simulated else ""
    return (
        f"{warning}Search `{context.name}` on {context.development.name}: "
        f"{len(context.development.labels)} development images in "
        f"{len(context.partition.folds)} folds, objective `{context.spec.study.objective}`.\n\n"
        "One run per trial, and the study's own run, which has the report and the registered "
        "model. Trials that were stopped early have no `cv_` figures; `busi.outcome` says why."
    )


def git_commit() -> dict[str, str]:
    """Return MLflow's tag of the git commit of the working folder, if it is a repository."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit}


def who_belongs_where(context: StudyContext) -> dict[str, Any]:
    """Who belongs where, by name; the sealed test's members are named, never shown."""
    partition = context.partition
    paths = context.development.paths
    return {
        "fingerprint": partition.fingerprint,
        "counts": context.counts,
        "folds": [[paths[index] for index in fold.validation] for fold in partition.folds],
        "test_indices": partition.test.tolist(),
        "quarantined_indices": partition.quarantined.tolist(),
    }


def dataset_input(context: StudyContext) -> "DatasetInput":
    """Return the development images as an input of the study's run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    development, section = context.development, context.spec.dataset
    classes = {
        name: int(np.sum(development.labels == label))
        for label, name in enumerate(development.class_names)
    }
    dataset = Dataset(
        name=development.name,
        digest=context.partition.fingerprint,
        source_type=section.source,
        source=json.dumps({"source": section.source, "path": section.path}),
        profile=json.dumps({**context.counts, "development_classes": classes}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "cross-validation")])
