"""Commands about models: the sealed test, the gate, predictions."""

from typing import Any

import click

from busi_search.cli.base import (
    JSON_OPTION,
    complete_study,
    home_of,
    on_stop,
    print_json,
)
from busi_search.errors import GateRefused, InputError


@click.command(short_help="Open the sealed test for a study's model; counted.")
@click.argument("name", shell_complete=complete_study)
@click.option("--version", help="Model version (default: what the study registered last).")
@JSON_OPTION
@click.pass_context
def evaluate(ctx: click.Context, name: str, version: str | None, as_json: bool) -> None:
    """Open the sealed test for a study's model; every opening is counted.

    \b
    Example:
      busi-search evaluate busi
    """
    from busi_search import terminal
    from busi_search.release.evaluation import evaluate_sealed_test

    report = evaluate_sealed_test(home_of(ctx), name, version=version)
    if as_json:
        print_json(report.to_json())
        return
    terminal.show_test_report(report)


@click.command(short_help="Make the candidate the champion, if the gate agrees.")
@click.option("--version", help="Number or alias (default: candidate).")
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@click.option(
    "--max-auc-drop",
    type=click.FloatRange(0, 1),
    help="How much lower than the champion's the test AUC may be (default: the study's, .02).",
)
@click.option(
    "--min-sensitivity",
    type=click.FloatRange(0, 1),
    help="On the sealed test, at the operating point.",
)
@click.option(
    "--max-ece", type=click.FloatRange(0, 1), help="Calibration error on the sealed test."
)
@click.option("--force", is_flag=True, help="Promote although the gate refuses.")
@click.option("--reason", help="Why; needed with --force, and recorded.")
@JSON_OPTION
@click.pass_context
def promote(
    ctx: click.Context,
    version: str | None,
    model: str | None,
    max_auc_drop: float | None,
    min_sensitivity: float | None,
    max_ece: float | None,
    force: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Make the candidate the champion, if the gate agrees (exit code 3 if not).

    A candidate that was not yet evaluated on the sealed test, or not against the present champion,
    is evaluated first; the opening is counted.

    \b
    Example:
      busi-search promote --version 2
    """
    from busi_search.models import registry
    from busi_search.release.gate import check_force, promote_after_evaluation, study_gate

    on_stop(lambda: "Interrupted; `busi-search models` shows who is champion.")
    home, name = home_of(ctx), model or registry.MODEL_NAME
    check_force(force, reason)
    chosen = registry.find_version(home, version or registry.CANDIDATE, name=name)
    flags = {
        "max_auc_drop": max_auc_drop,
        "min_sensitivity": min_sensitivity,
        "max_ece": max_ece,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    limits = study_gate(home, chosen.tags.get("busi.study", "")).model_copy(update=given)
    try:
        decision = promote_after_evaluation(
            home,
            version=version,
            name=name,
            gate=limits,
            force=force,
            reason=reason,
        )
    except GateRefused as error:
        if as_json:
            champion = registry.current_champion(home, name=name)
            shown = {"version": champion.version} if champion else None
            print_json(
                {
                    "decision": "refused",
                    "reasons": list(error.reasons),
                    "champion": shown,
                    "previous_champion": None,
                }
            )
        raise
    _show_decision(decision, as_json)


@click.command()
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@JSON_OPTION
@click.pass_context
def rollback(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """Make the previous champion the champion again.

    \b
    Example:
      busi-search rollback
    """
    from busi_search.models.registry import MODEL_NAME
    from busi_search.release import gate

    on_stop(lambda: "Interrupted; `busi-search models` shows who is champion.")
    _show_decision(gate.rollback(home_of(ctx), name=model or MODEL_NAME), as_json)


def _show_decision(decision: Any, as_json: bool) -> None:
    before = decision.previous_champion
    if as_json:
        print_json(
            {
                "decision": decision.decision,
                "reasons": list(decision.reasons),
                "champion": {"name": decision.champion.name, "version": decision.champion.version},
                "previous_champion": before and {"name": before.name, "version": before.version},
            }
        )
        return
    was = f" (before: version {before.version})" if before else ""
    click.echo(
        f"{decision.decision}: version {decision.champion.version} of {decision.champion.name} "
        f"is the champion{was}",
        err=True,
    )
    for reason in decision.reasons:
        click.echo(f"  {reason}", err=True)


@click.command()
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@JSON_OPTION
@click.pass_context
def models(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """List the registered versions, newest first.

    \b
    Example:
      busi-search models
    """
    from busi_search.models import registry

    found = registry.list_versions(home_of(ctx), name=model or registry.MODEL_NAME)
    if as_json:
        print_json({"models": [vars(version) for version in found]})
        return
    if not found:
        click.echo("No model is registered yet; `busi-search run` registers one.", err=True)
    for version in found:
        tags = version.tags
        figures = ", ".join(
            f"{key.removeprefix('busi.')} {value}"
            for key, value in sorted(tags.items())
            if key.startswith(("busi.cv_", "busi.corrected_"))
        )
        simulated = " [SIMULATED]" if version.simulated else ""
        alias = f" ({', '.join(version.aliases)})" if version.aliases else ""
        click.echo(
            f"{version.name} {version.version}{alias}: study {tags.get('busi.study', '?')}, "
            f"trial {tags.get('busi.trial', '?')}, {figures}{simulated}"
        )


@click.command(short_help="Give class probabilities of images or folders.")
@click.argument("paths", nargs=-1, required=True)
@click.option("--model-uri", help="Such as models:/busi-classifier@candidate (default: champion).")
@click.option("--to", "target", metavar="FILE.csv", help="Write a table rather than print lines.")
@JSON_OPTION
@click.pass_context
def predict(
    ctx: click.Context,
    paths: tuple[str, ...],
    model_uri: str | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Class probabilities of image files, or of all images in folders.

    \b
    Example:
      busi-search predict "benign (1).png"
      busi-search predict images --to answers.csv
    """
    from busi_search.files import write_file
    from busi_search.models.predict import find_images, load_champion, predictions_csv

    if target is not None and not target.lower().endswith(".csv"):
        raise InputError(f"--to {target}: expected a name that ends in .csv.")

    files = find_images(paths)
    classifier = load_champion(home_of(ctx), model_uri)
    predictions = classifier.predict(files)
    if classifier.simulated:
        click.echo(
            "SIMULATED: this model was trained on phantoms; its answers mean nothing for patients.",
            err=True,
        )
    if target is not None:
        write_file(target, predictions_csv(predictions).encode())
        click.echo(f"{target} written: {len(predictions)} images, {classifier.uri}", err=True)
    if as_json:
        model = {
            "name": classifier.name,
            "version": classifier.version,
            "run_id": classifier.run_id,
        }
        print_json({"model": model, "predictions": [vars(item) for item in predictions]})
        return
    click.echo(f"{classifier.uri}, research use only", err=True)
    for item in predictions if target is None else ():
        shares = "  ".join(f"{name} {p:.3f}" for name, p in item.probabilities.items())
        click.echo(f"{item.path}\t{item.label}\t{shares}")


@click.command(short_help="Open the MLflow UI at the leaderboard.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="TCP port."
)
@click.option("--study", help="Study to open (default: the latest).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.pass_context
def ui(ctx: click.Context, port: int, study: str | None, no_browser: bool) -> None:
    """Open the MLflow UI on this home, at the leaderboard; Ctrl-C ends it.

    \b
    Example:
      busi-search ui --port 5001
    """
    from busi_search.upkeep.ui import serve_ui

    on_stop(lambda: "The UI has ended.")
    serve_ui(home_of(ctx), port=port, study=study, open_browser=not no_browser)


@click.command(short_help="Open a page where one image gets an answer.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="TCP port."
)
@click.option("--model-uri", help="Such as models:/busi-classifier@candidate (default: champion).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.pass_context
def serve(ctx: click.Context, port: int, model_uri: str | None, no_browser: bool) -> None:
    """Open a page, on this machine only, where one image gets an answer; Ctrl-C ends it.

    POST /predict answers an image file with JSON.

    \b
    Example:
      busi-search serve --port 8000
    """
    from busi_search.models.predict import load_champion
    from busi_search.serving.app import serve_page

    on_stop(lambda: "The page has ended.")
    classifier = load_champion(home_of(ctx), model_uri)
    serve_page(classifier, port=port, open_browser=not no_browser)
