"""What the score of a trial depended on: importances, and the score over every hyperparameter."""

from collections.abc import Sequence
from typing import Any, Literal

import optuna
import plotly.graph_objects as go
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from plotly.subplots import make_subplots

from busi_search.report.charts import COLOURS
from busi_search.search.store.records import main_value, recipe_name

# Below this many trials a forest of trees says nothing.
MIN_TRIALS = 10
NO_IMPORTANCES = (
    f"Which hyperparameters the score depended on is not shown: fewer than {MIN_TRIALS} trials "
    "have a score, or their scores or hyperparameters do not vary."
)
COLUMNS = 3


def comparable_trials(trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], list[str]]:
    """Return the trials with a value that can be compared, and what varied among them.

    Hyperparameters that only some trials drawn from the space have are left out, and so are known
    systems that have settings outside of it: else a single one would hide most hyperparameters.
    """
    scored = [t for t in trials if t.values]
    drawn = [t for t in scored if recipe_name(t) is None]
    shared = set.intersection(*(set(t.params) for t in drawn)) if drawn else set()
    kept = [t for t in scored if shared <= set(t.params)]
    return kept, sorted(n for n in shared if len({str(t.params[n]) for t in kept}) > 1)


def parameter_importances(
    trials: Sequence[FrozenTrial], direction: Literal["minimize", "maximize"]
) -> dict[str, float]:
    """Return which share of the objective's variance each searched hyperparameter explains.

    Args:
        trials: of a study; those with a value count.
        direction: ``maximize`` or ``minimize``.

    Returns:
        Shares that sum to 1, largest first; empty with fewer than 10 such trials or where
        nothing varies; see ``comparable_trials`` for what is left out.

    Source: Hutter et al. 2014, "An efficient approach for assessing hyperparameter importance".
    """
    scored, varied = comparable_trials(trials)
    if len(scored) < MIN_TRIALS or len({main_value(t) for t in scored}) < 2 or not varied:
        return {}
    study = optuna.create_study(direction=direction)
    for trial in scored:
        study.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=main_value(trial)
            )
        )
    try:
        evaluator = FanovaImportanceEvaluator(seed=0)
        shares = get_param_importances(study, evaluator=evaluator, params=varied)
    except RuntimeError:
        # Optuna's word for a forest in which no tree found a difference.
        return {}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def importance_chart(shares: dict[str, float]) -> go.Figure:
    """Return the importances as bars, largest on top."""
    names = list(shares)[::-1]
    chart = go.Figure(
        go.Bar(x=[shares[n] for n in names], y=names, orientation="h", marker_color=COLOURS[0])
    )
    chart.update_layout(
        title="What the score depended on (fANOVA)",
        xaxis_title="share of the variance of the score",
        template="simple_white",
        margin={"l": 170, "r": 20, "t": 50, "b": 50},
        height=120 + 28 * len(names),
    )
    return chart


def slice_chart(trials: Sequence[FrozenTrial], objective: str) -> go.Figure | None:
    """Return the scores of trials over every hyperparameter that varied; None without any.

    Args:
        trials: of a study; those with a value are drawn, pruned ones in grey.
        objective: name of the score.
    """
    scored = [t for t in trials if t.values]
    found: dict[str, set[str]] = {}
    for trial in scored:
        for name, value in trial.params.items():
            found.setdefault(name, set()).add(str(value))
    names = sorted(name for name, values in found.items() if len(values) > 1)
    if not names:
        return None
    num_rows = -(-len(names) // COLUMNS)
    chart = make_subplots(
        rows=num_rows,
        cols=COLUMNS,
        shared_yaxes=True,
        subplot_titles=names,
        vertical_spacing=0.3 / num_rows,
    )
    for index, name in enumerate(names):
        place: dict[str, Any] = {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}
        with_it = [trial for trial in scored if name in trial.params]
        numbers = isinstance(with_it[0].params[name], float | int)
        plain = numbers and not isinstance(with_it[0].params[name], bool)
        chart.add_scatter(
            x=[t.params[name] if plain else str(t.params[name]) for t in with_it],
            y=[main_value(t) for t in with_it],
            text=[f"trial {t.number}, {t.state.name.lower()}" for t in with_it],
            mode="markers",
            marker={"color": [_colour(t) for t in with_it], "opacity": 0.6},
            **place,
        )
        if getattr(with_it[0].distributions[name], "log", False):
            chart.update_xaxes(type="log", **place)
        chart.update_yaxes(title_text=objective if place["col"] == 1 else None, **place)
    chart.update_layout(
        title="Score over each hyperparameter",
        template="simple_white",
        showlegend=False,
        margin={"l": 60, "r": 20, "t": 80, "b": 50},
        height=120 + 220 * num_rows,
    )
    return chart


def _colour(trial: FrozenTrial) -> str:
    return COLOURS[0] if trial.state == TrialState.COMPLETE else "#999999"
