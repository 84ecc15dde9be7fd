"""Search, and help a search that runs elsewhere."""

import os
import sys
from contextlib import closing, redirect_stdout

import click

from busi_search import terminal
from busi_search.cli.actions.shared import home_of, print_json, slow_reading
from busi_search.cli.base import on_stop_resume, typed_command
from busi_search.release.descriptions import warn_of_objective
from busi_search.report.study_result import StudyResult
from busi_search.run import help_study, search_and_release
from busi_search.search.places import RaySettings
from busi_search.search.prepare import (
    default_workers,
    learns_from_phantoms,
    prepare_study,
    resolve_device,
)


def run(
    ctx: click.Context,
    study: str | None,
    trials: int,
    name: str | None,
    data: str | None,
    workers: int | None,
    device: str,
    timeout: float | None,
    seed: int | None,
    weights: str | None,
    overrides: tuple[str, ...],
    ray: str | None,
    gpus_per_worker: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """What ``busi-search run`` does."""
    with slow_reading(quiet=quiet):
        context = prepare_study(
            study,
            data=data,
            home=home_of(ctx),
            name=name,
            seed=seed,
            weights=weights,
            overrides=overrides,
            device=device,
        )
    on_stop_resume(ctx, f"study '{context.name}'")
    settings = RaySettings(ray, gpus_per_worker) if ray is not None else None
    chosen = default_workers(context.device) if workers is None and settings is None else workers
    if not quiet:
        terminal.announce(
            context,
            workers=chosen,
            trials=trials,
            learns_first=learns_from_phantoms(context),
            finds_first=context.learns_lesions,
            ray=ray,
            warning=warn_of_objective(context),
        )
    result: StudyResult | None = None
    search = search_and_release(
        context, num_trials=trials, num_workers=chosen, timeout_seconds=timeout, ray=settings
    )
    # Closed whatever happens: that ends the workers and puts their trials back. Ray and others
    # print to stdout, which is the result's alone.
    with (
        redirect_stdout(sys.stderr),
        terminal.search_display(trials, quiet=quiet) as display,
        closing(search),
    ):
        for item in search:
            if isinstance(item, StudyResult):
                result = item
            else:
                display.update(item)
    assert result is not None, "the last item is the result"
    if not quiet:
        terminal.show_result(
            result, command=typed_command(), pages=os.environ.get("BUSI_SEARCH_PAGES") or None
        )
    if as_json:
        print_json(result.to_json())


def worker(
    ctx: click.Context,
    name: str,
    data: str | None,
    workers: int | None,
    device: str,
    quiet: bool,
) -> None:
    """What ``busi-search worker`` does."""
    chosen_device = resolve_device(device)
    helping = help_study(
        name,
        home=home_of(ctx),
        data=data,
        device=chosen_device,
        num_workers=default_workers(chosen_device) if workers is None else workers,
    )
    with (
        redirect_stdout(sys.stderr),
        terminal.search_display(0, quiet=quiet) as display,
        closing(helping),
    ):
        for progress in helping:
            display.update(progress)
