"""Commands that search, and that look at what was searched."""

import click

from busi_search.cli.base import on_stop, on_stop_resume
from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import (
    DEVICE_OPTION,
    JSON_OPTION,
    complete_bundled,
    complete_key,
    complete_path,
    complete_study,
)
from busi_search.search.executors import prepare_processes


@click.command(cls=Command)
@click.argument("study", required=False, shell_complete=complete_bundled)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Total number of trials to finish. Run the command again to resume.",
)
@click.option("--name", help="Name of the study (default: from STUDY and the dataset).")
@click.option(
    "--data",
    shell_complete=complete_path,
    metavar="PATH",
    help="Images: a folder, a table (.csv, .xlsx) or a MedMNIST .npz file.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Trials to train at the same time (default: one per core, at most two per GPU); "
    "0: only workers that join.",
)
@DEVICE_OPTION
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop the search after this time and register the best trial so far.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of folds, sampling and training."
)
@click.option(
    "--weights", help="Starting weights: none, phantom, imagenet, or a .safetensors or .pth file."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the study file, such as --set epochs=5.",
)
@click.option(
    "--ray", metavar="ADDRESS", help="Run the workers on a Ray cluster: local, auto or HOST:PORT."
)
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    default=0.0,
    help="With --ray: GPUs per worker; 0.25 runs four workers on one GPU.",
)
@click.option("--quiet", is_flag=True, help="Print no progress.")
@JSON_OPTION
@deferred("busi_search.cli.actions.search")
def run() -> None:
    """Search, then register the best trial as the candidate model.

    STUDY is the name of a bundled study (see busi-search studies) or a TOML file. Without it, the
    data decide which study is used; without data, it is the quickstart on simulated images.

    \b
    Example:
      busi-search run breastmnist --data breastmnist.npz --trials 20
    """
    ctx = click.get_current_context()
    on_stop_resume(ctx, ctx.params["name"] or ctx.params["study"] or "the study")
    if ctx.params["workers"] != 0 and ctx.params["ray"] is None:
        prepare_processes(ctx.params["device"])


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--data",
    shell_complete=complete_path,
    metavar="PATH",
    help="Where the images are on this machine, if the path differs.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Trials to train at the same time (default: one per core, at most two per GPU).",
)
@DEVICE_OPTION
@click.option("--quiet", is_flag=True, help="Print no progress.")
@deferred("busi_search.cli.actions.search")
def worker() -> None:
    """Add workers to a running search, from any machine that can reach its storage.

    You can stop a worker at any time: unfinished trials are requeued for other workers.

    \b
    Example:
      busi-search worker busi --data ./busi
    """
    ctx = click.get_current_context()
    on_stop(lambda: f"Interrupted; study '{ctx.params['name']}' continues without this worker.")
    prepare_processes(ctx.params["device"])


@click.command(cls=Command)
@JSON_OPTION
@click.option("--schema", is_flag=True, help="Print a JSON Schema of study files, for editors.")
@deferred("busi_search.cli.actions.status")
def studies() -> None:
    """List the bundled studies and the studies of this home.

    \b
    Example:
      busi-search studies
    """


@click.command(cls=Command)
@click.argument("key", shell_complete=complete_key)
@JSON_OPTION
@deferred("busi_search.cli.actions.explain")
def explain() -> None:
    """Explain a key of a study file: meaning, values, unit, default and its reason, example.

    KEY is a hyperparameter (learning_rate), a section (space) or a key of one (study.pruner).

    \b
    Example:
      busi-search explain learning_rate
    """


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@JSON_OPTION
@deferred("busi_search.cli.actions.status")
def status() -> None:
    """Show how many trials a study has, its best trial, who works on it and the time left.

    \b
    Example:
      busi-search status quickstart-phantom
    """


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--to",
    "target",
    shell_complete=complete_path,
    metavar="FILE",
    required=True,
    help="HTML file to write (.md with --checklist).",
)
@click.option(
    "--data",
    shell_complete=complete_path,
    metavar="PATH",
    help="Where the images are now, if they were moved.",
)
@click.option(
    "--checklist",
    type=click.Choice(["tripod-ai", "claim", "stard-ai"]),
    help="Write this reporting guideline instead, filled in as far as the study allows.",
)
@deferred("busi_search.cli.actions.study_view")
def report() -> None:
    """Write a study as one self-contained HTML page that works offline.

    With --checklist, write a reporting guideline as Markdown, item by item: what the report
    answers, and what you still have to write. The section [about] of the study file supplies what
    the software cannot know.

    \b
    Example:
      busi-search report quickstart-phantom --to report.html
      busi-search report quickstart-phantom --checklist claim --to claim.md
    """


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--to",
    "target",
    shell_complete=complete_path,
    metavar="FILE",
    required=True,
    help="File to write: .parquet, .csv or .onnx.",
)
@deferred("busi_search.cli.actions.study_view")
def export() -> None:
    """Write a study's trials as a table, or its registered model as an ONNX program.

    \b
    Example:
      busi-search export quickstart-phantom --to trials.parquet
    """
