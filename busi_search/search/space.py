"""From a search space to one sampled configuration."""

from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

import optuna

from busi_search.errors import InputError
from busi_search.search.store.records import recipe_attributes, recipe_settings
from busi_search.spec import Choice, Hyperparameters, Range, SearchSpace, StudySpec

MAX_GRID_POINTS = 20_000


def suggest_hyperparameters(trial: optuna.Trial, spec: StudySpec) -> Hyperparameters:
    """Sample every searched hyperparameter that means something for this trial.

    A hyperparameter with ``only_if`` is sampled after those it depends on, and left at its fixed
    value where the condition does not hold. A recipe's settings are taken as they are; those
    inside the space are told to Optuna, so that the sampler learns from them.

    Args:
        trial: the running trial.
        spec: the study, whose fixed values fill the rest.

    Returns:
        The full configuration.
    """
    recipe = recipe_settings(trial)
    values: dict[str, Any] = dict(recipe)
    for name in _in_order(spec.space):
        searched = spec.space[name]
        if recipe and not _contains(searched, recipe[name]):
            continue
        known = spec.resolve(values).model_dump()
        if searched.holds(known):
            values[name] = _suggest(trial, name, searched)
    return spec.resolve(values)


def recipe_trials(spec: StudySpec) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return, for each recipe, the parameters to enqueue and the trial's user attributes."""
    trials = []
    pairs = zip(spec.recipe, spec.recipe_settings(), strict=True)
    for index, (entry, settings) in enumerate(pairs):
        if spec.resolve(settings).weights == "none" and "weights" not in settings:
            # A known system of pretrained weights, in a study without: there is nothing to freeze.
            settings["freeze_depth"] = 0
        full = spec.resolve(settings).model_dump()
        inside = {
            name: full[name] for name in spec.space if _contains(spec.space[name], full[name])
        }
        attributes = recipe_attributes(str(entry.get("name", f"recipe {index}")), full)
        trials.append((inside, attributes))
    return trials


def _contains(searched: Range | Choice, value: Any) -> bool:
    if isinstance(searched, Choice):
        return value in searched.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if searched.is_integer and not isinstance(value, int):
        return False
    if searched.step is not None:
        steps = (value - searched.low) / searched.step
        if abs(steps - round(steps)) > 1e-8:
            return False
    return searched.low <= value <= searched.high


def _in_order(space: SearchSpace) -> list[str]:
    """Names of the space so that each comes after the names its condition reads."""
    sorter = TopologicalSorter(
        {name: [key for key in space[name].only_if if key in space] for name in space}
    )
    # Even with a circle the sorter hands out what does not depend on it; the rest is named below.
    with suppress(CycleError):
        sorter.prepare()
    ordered: list[str] = []
    while ready := sorter.get_ready():
        ordered += [name for name in space if name in ready]
        sorter.done(*ready)
    if len(ordered) < len(space):
        circle = ", ".join(name for name in space if name not in ordered)
        raise InputError(f"space: the only_if conditions of {circle} form a circle.")
    return ordered


def _suggest(trial: optuna.Trial, name: str, searched: Range | Choice) -> Any:
    if isinstance(searched, Choice):
        return trial.suggest_categorical(name, searched.choices)
    if searched.is_integer:
        low, high = int(searched.low), int(searched.high)
        return trial.suggest_int(name, low, high, log=searched.log, step=int(searched.step or 1))
    return trial.suggest_float(
        name, searched.low, searched.high, log=searched.log, step=searched.step
    )


def grid_points(spec: StudySpec) -> list[dict[str, Any]]:
    """Return every distinct configuration of a finite space, for the grid sampler.

    A conditional hyperparameter adds points only where its condition holds.

    Raises:
        InputError: a searched hyperparameter is continuous (give it a ``step`` or a list), or there
            are more than ``MAX_GRID_POINTS`` points.
    """
    points: list[dict[str, Any]] = [{}]
    for name in _in_order(spec.space):
        values, searched = _finite_values(name, spec.space[name]), spec.space[name]
        grown: list[dict[str, Any]] = []
        for point in points:
            known = spec.resolve(point).model_dump() if searched.only_if else {}
            if searched.holds(known):
                grown += [{**point, name: value} for value in values]
            else:
                grown.append(point)
        points = grown
        if len(points) > MAX_GRID_POINTS:
            raise InputError(
                f"space: the grid has more than {MAX_GRID_POINTS} points; search fewer "
                "hyperparameters or take another sampler."
            )
    return points


def _finite_values(name: str, searched: Range | Choice) -> list[Any]:
    if isinstance(searched, Choice):
        return list(searched.choices)
    if searched.is_integer and not searched.log:
        step = int(searched.step or 1)
        return list(range(int(searched.low), int(searched.high) + 1, step))
    if searched.step is not None:
        count = int((searched.high - searched.low) / searched.step + 1e-9)
        return [searched.low + index * searched.step for index in range(count + 1)]
    raise InputError(f"space.{name}: the grid sampler needs a finite space; give a list or a step.")
