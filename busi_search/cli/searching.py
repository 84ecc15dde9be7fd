"""Commands that search, and that look at what was searched."""

import click

from busi_search.cli.base import on_stop, on_stop_resume
from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import (
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
    help="Finished trials the study shall hold; the same line resumes.",
)
@click.option("--name", help="Name of the study (default: from STUDY and the dataset).")
@click.option(
    "--data",
    shell_complete=complete_path,
    metavar="PATH",
    help="BUSI folder or MedMNIST .npz file.",
)
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
@deferred("busi_search.cli.actions.search")
def run() -> None:
    """Search, and register the winner as the candidate.

    STUDY is a bundled name (busi-search studies) or a TOML file; without it, the study follows
    from the data, and without data it is the quickstart on simulated phantoms.

    \b
    Example:
      busi-search run breastmnist --data breastmnist.npz --trials 20
    """
    ctx = click.get_current_context()
    on_stop_resume(ctx, ctx.params["name"] or ctx.params["study"] or "the study")
    if ctx.params["workers"] != 0 and ctx.params["ray"] is None:
        _prepare_processes(ctx.params["device"])


def _prepare_processes(device: str) -> None:
    """Let workers import what they need beside this process, not after it."""
    if not device.startswith("cuda"):
        prepare_processes()


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--data",
    shell_complete=complete_path,
    metavar="PATH",
    help="Where its images are on this machine, if elsewhere.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Trials at once (default: one a core).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:K.")
@click.option("--quiet", is_flag=True, help="No progress.")
@deferred("busi_search.cli.actions.search")
def worker() -> None:
    """Help a study that is searched elsewhere, from any machine that reaches its storage.

    Workers may come and go: what they leave is taken up by others.

    \b
    Example:
      busi-search worker busi --data ./busi
    """
    ctx = click.get_current_context()
    on_stop(lambda: f"Interrupted; study '{ctx.params['name']}' goes on without this worker.")
    _prepare_processes(ctx.params["device"])


@click.command(cls=Command)
@JSON_OPTION
@click.option("--schema", is_flag=True, help="Print a JSON Schema of study files, for editors.")
@deferred("busi_search.cli.actions.status")
def studies() -> None:
    """List the bundled studies and those run on this home.

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
    """Show one study's trials and its best.

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
    help="HTML file to write (.md of a checklist).",
)
@click.option(
    "--data",
    shell_complete=complete_path,
    metavar="PATH",
    help="Where its images are on this machine, if they were moved.",
)
@click.option(
    "--checklist",
    type=click.Choice(["tripod-ai", "claim", "stard-ai"]),
    help="Write this reporting guideline instead, filled in as far as the study knows the answers.",
)
@deferred("busi_search.cli.actions.study_view")
def report() -> None:
    """Write a study as one self-contained HTML page that works offline.

    With --checklist, write a reporting guideline as Markdown, item by item: what the report
    answers, and what the researcher still has to write. The section [about] of the study file
    answers what the software cannot know.

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


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.argument("trial", type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:K.")
@JSON_OPTION
@deferred("busi_search.cli.actions.replay")
def replay() -> None:
    """Train a trial again and say whether every fold agrees (exit code 1 if not).

    \b
    Example:
      busi-search replay busi 12
    """


@click.command("leak-gap", cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--trial", type=click.IntRange(min=0), help="Whose configuration (default: the best)."
)
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    help="How often each kind of folds is trained, with fresh seeds.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:K.")
@JSON_OPTION
@deferred("busi_search.cli.actions.replay")
def leak_gap() -> None:
    """What one configuration scores if near-duplicates may cross folds, and if not.

    \b
    Example:
      busi-search leak-gap busi
    """
