"""Which studies there are, and where one stands."""

import json

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.data.known_images import KnownImages
from busi_search.search.seal_register import num_openings_of_study
from busi_search.search.status import StudyStatus, clock_of, list_studies, study_status
from busi_search.search.store.foreign import foreign_sentence
from busi_search.search.store.open import find_study
from busi_search.spec.schema import study_schema
from busi_search.study_files import list_bundled
from busi_search.wording import count_of, duration, verb


def studies(ctx: click.Context, as_json: bool, schema: bool) -> None:
    """What ``busi-search studies`` does."""
    if schema:
        click.echo(json.dumps(study_schema(), indent=2, ensure_ascii=False))
        return
    run_here = list_studies(home_of(ctx))
    if as_json:
        print_json({"bundled": list_bundled(), "run": [status.to_json() for status in run_here]})
        return
    click.echo("bundled: " + ", ".join(list_bundled()))
    for status in run_here:
        click.echo(_status_line(status))


def _status_line(status: StudyStatus) -> str:
    best = (
        "no complete trial"
        if status.best is None
        else (f"best {status.objective} {status.best:.4f} (trial {status.best_trial})")
    )
    counts = status.states | {"running": status.states["running"] - len(status.interrupted)}
    counts["interrupted"] = len(status.interrupted)
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    left = status.remaining_seconds
    return (
        f"{status.name}: {states or 'no trials'}; {best}"
        + (f"; about {duration(left)} left" if left is not None else "")
        + (" [SIMULATED]" if status.simulated else "")
    )


def status(ctx: click.Context, name: str, as_json: bool) -> None:
    """What ``busi-search status`` does."""
    home = home_of(ctx)
    found = study_status(find_study(home, name), KnownImages(home), now=clock_of(home))
    # MLflow takes seconds to import: evaluate, promote, report and doctor ask it.
    openings = num_openings_of_study(home, name, ask_mlflow=False)
    if as_json:
        print_json(found.to_json() | {"test_openings": openings})
        return
    click.echo(_status_line(found))
    if found.foreign:
        click.echo(f"  {foreign_sentence(found.foreign)}")
    if openings:
        click.echo(f"  its sealed test was opened {count_of(openings, 'time')}")
    for worker, trial in found.workers.items():
        click.echo(f"  worker {worker} works on trial {trial}")
    if found.interrupted:
        numbers = ", ".join(map(str, found.interrupted))
        click.echo(
            f"  interrupted: {verb(len(found.interrupted), 'trial', 'trials')} {numbers}; run the "
            "same command again to resume"
        )
    if found.last_failure is not None:
        click.echo(f"  failed last: {found.last_failure}; its traceback is in its MLflow run")
    if found.num_test_not_independent:
        click.echo(
            f"  not independent: {found.num_test_not_independent} of {found.num_test} sealed "
            "images; other studies of this home developed on them"
        )
    for key, value in found.best_params.items():
        click.echo(f"  {key} = {value}")
