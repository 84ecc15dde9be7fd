"""A finished or running study as a notebook wants it: tables, figures, the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from busi_search.data.known_images import KnownImages
from busi_search.errors import InputError
from busi_search.files import user_path, utf8, write_file
from busi_search.home import Home, open_home
from busi_search.models.external_evaluations import external_evaluations
from busi_search.models.loading import load_champion
from busi_search.models.onnx import export_onnx
from busi_search.models.registry import list_versions
from busi_search.release.selection import Estimate
from busi_search.report.checklists.facts import study_facts
from busi_search.report.checklists.filled import (
    CHECKLISTS,
    Checklist,
    checklist_markdown,
    fill_checklist,
)
from busi_search.report.elsewhere import judged_places
from busi_search.report.model_card import make_model_card
from busi_search.report.notebook import study_html, trial_html
from busi_search.report.publishing import growth_of, registered_version
from busi_search.report.reopened import reopen_winner, study_page
from busi_search.report.study_charts import report_charts
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.status import StudyStatus, clock_of, study_status
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.foreign import best_of_study
from busi_search.search.store.open import find_study
from busi_search.search.store.records import (
    cv_metrics,
    main_value,
    recipe_name,
    stored_hyperparameters,
)
from busi_search.search.store.study_record import StudyRecord
from busi_search.study_files import about_study

TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class BestTrial:
    """The trial with the best value of the study's objective.

    Attributes:
        number: of the trial.
        value: of the objective, as found; :meth:`Study.estimates` corrects it for the choice.
        params: its full configuration, searched or fixed, by name.
        metrics: its ``cv_`` figures, means over the folds.
    """

    number: int
    value: float
    params: Mapping[str, Any]
    metrics: Mapping[str, float]

    def _repr_html_(self) -> str:
        """Return the trial as a notebook shows it."""
        return trial_html(self.number, self.metrics, self.params)


@dataclass(frozen=True)
class Study:
    """One study of a home, for reading.

    Attributes:
        name: of the study.
        home: where it is kept.
        optuna_study: the same study as Optuna sees it.
    """

    name: str
    home: Home
    optuna_study: optuna.Study

    def __repr__(self) -> str:
        status = self.status
        states = ", ".join(f"{count} {state}" for state, count in status.states.items() if count)
        best = "none complete" if status.best is None else f"best {status.best:.4f}"
        return f"<Study {self.name!r}: {states or 'no trials'}; {status.objective}, {best}>"

    def _repr_html_(self) -> str:
        """Return where the study stands as a notebook shows it."""
        return study_html(self.status)

    @property
    def status(self) -> StudyStatus:
        """Trials by state and the best so far; cheap, also while the search runs."""
        return study_status(self.optuna_study, KnownImages(self.home), now=clock_of(self.home))

    @property
    def best(self) -> BestTrial:
        """The best fully evaluated trial.

        Raises:
            InputError: no trial is complete yet.
        """
        best = best_of_study(self.optuna_study)
        value = main_value(best) if best is not None else None
        if best is None or value is None:
            raise InputError(
                f"Study '{self.name}' has no trial that was evaluated on all folds yet; run more "
                "trials."
            )
        return BestTrial(
            number=best.number,
            value=value,
            params=stored_hyperparameters(best),
            metrics=_figures(best, self._num_folds()),
        )

    def trials_dataframe(self) -> pd.DataFrame:
        """Return one row per trial, in the order of their numbers.

        Columns: ``number``, ``state`` (Optuna's name), ``num_folds`` finished, ``seconds`` of
        training, ``started`` and ``finished`` (local time), ``recipe`` (missing for the sampler's
        own trials), every ``cv_`` figure (missing unless the trial is complete) and every
        hyperparameter, searched or fixed (missing in a trial that has not begun). A column that
        would be empty is left out.
        """
        num_folds = self._num_folds()
        rows = [_row(trial, num_folds) for trial in self.optuna_study.get_trials(deepcopy=False)]
        frame = pd.DataFrame(rows, columns=None if rows else ["number", "state"])
        return frame.dropna(axis="columns", how="all")

    def estimates(self) -> dict[str, Estimate]:
        """Return the winner's figures, corrected for the choice, by metric; opens the images.

        Raises:
            InputError: no complete trial yet, or the images are gone or changed.
        """
        return reopen_winner(self.home, self.name).estimates

    def figures(self) -> dict[str, go.Figure]:
        """Return the report's Plotly charts by name, such as ``history`` and ``roc``.

        Raises:
            InputError: as :meth:`estimates`.
        """
        winner = reopen_winner(self.home, self.name)
        record, ledger = StudyRecord(self.optuna_study), SealLedger(self.home, self.name)
        places = judged_places(winner, ledger.entries(), registered_version(record))
        growth = growth_of(record.learning_curve, winner.number)
        return report_charts(winner, places, growth)

    def report(self, to: str | Path, *, data: str | None = None) -> Path:
        """Write the study as one self-contained HTML page and return its path.

        Args:
            to: the file.
            data: where the images are on this machine, if not where they were last found.

        Raises:
            InputError: as :meth:`estimates`, or the file cannot be written.
        """
        target = user_path(to)
        write_file(target, utf8(study_page(self.home, self.name, data=data)))
        return target

    def checklist(self, name: str, *, data: str | None = None) -> Checklist:
        """Return a reporting guideline, filled in with what the study knows about itself.

        Args:
            name: ``tripod-ai``, ``claim`` or ``stard-ai``.
            data: as for :meth:`report`.

        Raises:
            InputError: no such guideline, or as :meth:`estimates`.
        """
        if name not in CHECKLISTS:
            raise InputError(f"No checklist '{name}'; there are {', '.join(CHECKLISTS)}.")
        winner = reopen_winner(self.home, self.name, data=data)
        record = StudyRecord(self.optuna_study)
        ledger = SealLedger(self.home, self.name).entries()
        version = registered_version(record)
        facts = study_facts(
            winner,
            make_model_card(winner, ledger, version),
            ledger=ledger,
            versions=record.versions,
            version=version,
        )
        return fill_checklist(name, facts, about_study(record.spec_text))

    def write_checklist(self, name: str, to: str | Path, *, data: str | None = None) -> Checklist:
        """Write a reporting guideline, filled in, as a Markdown file, and return it.

        Args:
            name: as :meth:`checklist`.
            to: the file.
            data: as for :meth:`report`.

        Raises:
            InputError: as :meth:`checklist`, or the file cannot be written.
        """
        filled = self.checklist(name, data=data)
        title = about_study(StudyRecord(self.optuna_study).spec_text).title or self.name
        write_file(user_path(to), utf8(checklist_markdown(filled, title)))
        return filled

    def external_evaluations(self) -> pd.DataFrame:
        """Return the latest figures of each model version on each other hospital's images.

        One row per version and dataset.

        Columns: ``version``, ``data``, ``fingerprint``, ``num_images``, ``num_groups``,
        ``num_positive``, ``num_unlike``, and each figure with ``_ci95``.
        """
        rows = [
            {"version": version.version, **found}
            for version in list_versions(self.home)
            if version.tags.get("busi.study") == self.name
            for found in external_evaluations(version)
        ]
        return pd.DataFrame(rows, columns=None if rows else ["version", "data"])

    def export(self, to: str | Path) -> Path:
        """Write the trials, or the winner's model, to a file and return its path.

        Args:
            to: a name that ends in ``.csv`` or ``.parquet`` for :meth:`trials_dataframe`, in
                ``.onnx`` for the registered model; its predictions are compared with the model's.

        Raises:
            InputError: another suffix, no registered model, or the file cannot be written.
        """
        target = user_path(to)
        suffix = target.suffix.lower()
        if suffix == ".onnx":
            write_file(target, self._onnx())
            return target
        if suffix not in TABLE_SUFFIXES:
            raise InputError(f"{to}: expected a name that ends in .parquet, .csv or .onnx.")
        frame = self.trials_dataframe()
        if suffix == ".csv":
            write_file(target, frame.to_csv(index=False).encode())
        else:
            write_file(target, frame.to_parquet(index=False))
        return target

    def _onnx(self) -> bytes:
        released = StudyRecord(self.optuna_study).released
        if released is None:
            raise InputError(
                f"Study '{self.name}' has no registered model yet; `busi-search run` registers "
                "its winner."
            )
        classifier = load_champion(self.home, f"models:/{released.model}/{released.version}")
        context = reopen_winner(self.home, self.name).context
        images = context.images(classifier.size_pixels, classifier.geometry)[:8]
        return export_onnx(classifier, np.array(images))

    def _num_folds(self) -> int:
        identity = StudyRecord(self.optuna_study).identity
        return 0 if identity is None else identity.num_folds


def load_study(name: str, *, home: Home | str | Path | None = None) -> Study:
    """Open a study that was run on a home (default ``./mlruns``), for reading.

    Example::

        import busi_search as bs
        study = bs.load_study("quickstart-phantom")
        study.trials_dataframe().sort_values("cv_auc")

    Args:
        name: of the study.
        home: folder where it is kept; None: ``./mlruns``.

    Raises:
        InputError: no such study; the sentence lists those there are.
    """
    place = home if isinstance(home, Home) else open_home(home)
    return Study(name=name, home=place, optuna_study=find_study(place, name))


def _figures(trial: FrozenTrial, num_folds: int) -> dict[str, float]:
    folds = stored_folds(trial, num_folds)
    return cv_metrics([folds[index] for index in sorted(folds)]) if folds else {}


def _row(trial: FrozenTrial, num_folds: int) -> dict[str, Any]:
    folds = stored_folds(trial, num_folds)
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.name,
        "num_folds": len(folds),
        "seconds": sum(fold.seconds for fold in folds.values()),
        "started": trial.datetime_start,
        "finished": trial.datetime_complete,
        "recipe": recipe_name(trial),
    }
    if trial.state == TrialState.COMPLETE:
        row |= _figures(trial, num_folds)
    return row | stored_hyperparameters(trial)
