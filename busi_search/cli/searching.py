"""Commands that search, and that look at what was searched."""

import json
import sys
from contextlib import closing, redirect_stdout
from typing import Any

import click

from busi_search.cli.base import (
    JSON_OPTION,
    complete_bundled,
    complete_study,
    home_of,
    on_stop,
    print_json,
)
from busi_search.errors import BusiSearchError
from busi_search.search.executors import prepare_processes


@click.command()
@click.argument("study", required=False, shell_complete=complete_bundled)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Finished trials the study shall hold; the same line resumes.",
)
@click.option("--name", help="Name of the study (default: from STUDY and the dataset).")
@click.option("--data", help="BUSI folder or MedMNIST .npz file.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Trials at once (default: one a core); 0: only workers that join.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:K.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop searching after this time.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of the study.")
@click.option("--weights", help="none, phantom, imagenet, or a .safetensors or .pth file.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the study file, such as --set epochs=5.",
)
@click.option("--ray", metavar="ADDRESS", help="Workers on a Ray cluster: local, auto, HOST:PORT.")
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    default=0.0,
    help="With --ray: GPUs per worker; .25 packs four on one.",
)
@click.option("--quiet", is_flag=True, help="No progress.")
@JSON_OPTION
@click.pass_context
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
    """Search, and register the winner as the candidate.

    STUDY is a bundled name (busi-search studies) or a TOML file; without it, the study follows
    from the data, and without data it is the quickstart on simulated phantoms.

    \b
    Example:
      busi-search run breastmnist --data breastmnist.npz --trials 20
    """
    known = {"name": name or study or "the study"}
    on_stop(lambda: f"Interrupted; {known['name']} is saved. Resume: busi-search {_words_typed()}")
    if workers != 0 and ray is None and not device.startswith("cuda"):
        # Workers import beside this process, not after it.
        prepare_processes()
    from busi_search import terminal
    from busi_search.run import RaySettings, StudyResult, search_and_release
    from busi_search.search.prepare import default_workers, prepare_study

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
    known["name"] = f"study '{context.name}'"
    settings = RaySettings(ray, gpus_per_worker) if ray is not None else None
    chosen = default_workers(context.device) if workers is None and settings is None else workers
    if not quiet:
        terminal.announce(context, workers=chosen, trials=trials, ray=ray)
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
        terminal.show_result(result)
    if as_json:
        print_json(result.to_json())


def _words_typed() -> str:
    import shlex

    return shlex.join(sys.argv[1:])


@click.command(short_help="Help a study that is searched elsewhere.")
@click.argument("name", shell_complete=complete_study)
@click.option("--data", help="Where its images are on this machine, if elsewhere.")
@click.option("--workers", type=click.IntRange(min=1), help="Trials at once (default: one a core).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:K.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.pass_context
def worker(
    ctx: click.Context,
    name: str,
    data: str | None,
    workers: int | None,
    device: str,
    quiet: bool,
) -> None:
    """Help a study that is searched elsewhere, from any machine that reaches its storage.

    Workers may come and go: what they leave is taken up by others.

    \b
    Example:
      busi-search worker busi --data ./busi
    """
    on_stop(lambda: f"Interrupted; study '{name}' goes on without this worker.")
    if not device.startswith("cuda"):
        prepare_processes()
    from busi_search import terminal
    from busi_search.run import help_study
    from busi_search.search.prepare import default_workers, resolve_device

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


@click.command()
@JSON_OPTION
@click.option("--schema", is_flag=True, help="Print a JSON Schema of study files, for editors.")
@click.pass_context
def studies(ctx: click.Context, as_json: bool, schema: bool) -> None:
    """List the bundled studies and those run on this home.

    \b
    Example:
      busi-search studies
    """
    if schema:
        from busi_search.spec.schema import study_schema

        click.echo(json.dumps(study_schema(), indent=2, ensure_ascii=False))
        return
    from busi_search.search.status import list_studies
    from busi_search.study_files import list_bundled

    run_here = list_studies(home_of(ctx))
    if as_json:
        print_json({"bundled": list_bundled(), "run": [vars(status) for status in run_here]})
        return
    click.echo("bundled: " + ", ".join(list_bundled()))
    for status in run_here:
        click.echo(_status_line(status))


def _status_line(status: Any) -> str:
    from busi_search.terminal import duration

    best = (
        "no complete trial"
        if status.best is None
        else (f"best {status.objective} {status.best:.4f} (trial {status.best_trial})")
    )
    states = ", ".join(f"{count} {state}" for state, count in status.states.items() if count)
    left = status.remaining_seconds
    return (
        f"{status.name}: {states or 'no trials'}; {best}"
        + (f"; about {duration(left)} left" if left is not None else "")
        + (" [SIMULATED]" if status.simulated else "")
    )


@click.command()
@click.argument("name", shell_complete=complete_study)
@JSON_OPTION
@click.pass_context
def status(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one study's trials and its best.

    \b
    Example:
      busi-search status quickstart-phantom
    """
    from busi_search.search.status import study_status
    from busi_search.search.store.open import find_study

    found = study_status(find_study(home_of(ctx), name))
    if as_json:
        print_json(vars(found))
        return
    click.echo(_status_line(found))
    for worker, trial in found.workers.items():
        click.echo(f"  {worker} works on trial {trial}")
    if found.last_failure is not None:
        click.echo(f"  failed last: {found.last_failure}; its traceback is in its MLflow run")
    for key, value in found.best_params.items():
        click.echo(f"  {key} = {value}")


@click.command(short_help="Write a study as one HTML page that works offline.")
@click.argument("name", shell_complete=complete_study)
@click.option("--to", "target", required=True, help="HTML file to write.")
@click.pass_context
def report(ctx: click.Context, name: str, target: str) -> None:
    """Write a study as one self-contained HTML page that works offline.

    \b
    Example:
      busi-search report quickstart-phantom --to report.html
    """
    from busi_search.report.study_view import load_study

    load_study(name, home=home_of(ctx)).report(target)
    click.echo(f"{target} written", err=True)


@click.command(short_help="Write trials as a table, or the model as ONNX.")
@click.argument("name", shell_complete=complete_study)
@click.option("--to", "target", required=True, help="File to write: .parquet, .csv or .onnx.")
@click.pass_context
def export(ctx: click.Context, name: str, target: str) -> None:
    """Write a study's trials as a table, or its registered model as an ONNX program.

    \b
    Example:
      busi-search export quickstart-phantom --to trials.parquet
    """
    from busi_search.report.study_view import load_study

    load_study(name, home=home_of(ctx)).export(target)
    click.echo(f"{target} written", err=True)


@click.command(short_help="Train a trial again; say whether every fold agrees.")
@click.argument("name", shell_complete=complete_study)
@click.argument("trial", type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:K.")
@JSON_OPTION
@click.pass_context
def replay(ctx: click.Context, name: str, trial: int, device: str, as_json: bool) -> None:
    """Train a trial again and say whether every fold agrees (exit code 1 if not).

    \b
    Example:
      busi-search replay busi 12
    """
    from busi_search.release.replay import replay_trial
    from busi_search.search.prepare import resolve_device

    found = replay_trial(home_of(ctx), name, trial, device=resolve_device(device))
    if as_json:
        print_json(vars(found))
    else:
        for row in found.folds:
            same = "identical" if row["identical"] else f"differs by {row['max_difference']:.2g}"
            click.echo(
                f"fold {row['fold']}: AUC {row['stored_auc']:.4f} stored, "
                f"{row['replayed_auc']:.4f} replayed, {same}"
            )
        for key, (then, now) in found.differs.items():
            click.echo(f"since then {key} changed: {then} -> {now}", err=True)
    if not found.agrees:
        raise BusiSearchError(f"Trial {trial} does not come out as it was stored.")


@click.command("leak-gap", short_help="Measure what torn-apart near-duplicates would add.")
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--trial", type=click.IntRange(min=0), help="Whose configuration (default: the best)."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:K.")
@JSON_OPTION
@click.pass_context
def leak_gap(ctx: click.Context, name: str, trial: int | None, device: str, as_json: bool) -> None:
    """What one configuration scores if near-duplicates may cross folds, and if not.

    \b
    Example:
      busi-search leak-gap busi
    """
    from busi_search.release.replay import measure_leak_gap
    from busi_search.search.prepare import resolve_device

    gap = measure_leak_gap(home_of(ctx), name, trial, device=resolve_device(device))
    if as_json:
        print_json(vars(gap))
        return
    click.echo(
        f"trial {gap.trial}; random folds tear {gap.num_split_groups} groups apart", err=True
    )
    for key in ("cv_auc", "cv_accuracy", "cv_f1"):
        random, grouped = gap.random[key], gap.grouped[key]
        click.echo(
            f"{key}: random {random:.4f}, grouped {grouped:.4f}, gap {random - grouped:+.4f}"
        )
