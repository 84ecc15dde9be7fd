"""The command line: each command is one library call."""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from busi_search.errors import BusiSearchError, GateRefused, Interrupted

if TYPE_CHECKING:
    from busi_search.home import Home

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class _Group(click.Group):
    """Turns errors into one sentence and an exit code; keeps commands in the order written."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which people need them."""
        return list(self.commands)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line and leave with the exit code of what happened."""
        extra["standalone_mode"] = False
        try:
            super().main(args, **extra)
        except click.ClickException as error:
            error.show()
            sys.exit(2 if error.exit_code in (1, 2) else error.exit_code)
        except (click.Abort, KeyboardInterrupt) as error:
            # click turns an interrupt into an Abort of its own.
            cause = error.__cause__ if isinstance(error, click.Abort) else error
            _fail(cause if isinstance(cause, Interrupted) else Interrupted("Interrupted."))
        except BusiSearchError as error:
            _fail(error)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            if _debug():
                raise
            reason = str(error).strip().splitlines()
            text = f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
            _fail(BusiSearchError(f"Unexpected {text}. Run again with --debug for the traceback."))
        sys.exit(0)


def _debug() -> bool:
    return "--debug" in sys.argv


def _fail(error: BusiSearchError | Interrupted) -> NoReturn:
    if _debug():
        import traceback

        traceback.print_exc()
    label = "" if isinstance(error, Interrupted) else "Error: "
    click.echo(f"{label}{error}", err=True)
    sys.exit(error.exit_code)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def _home(ctx: click.Context) -> "Home":
    from busi_search.home import open_home

    options = ctx.find_root().params
    return open_home(
        options["home"], tracking_uri=options["tracking_uri"], storage=options["storage"]
    )


def _on_stop(name: Callable[[], str]) -> None:
    """The first Ctrl-C or SIGTERM winds down and says how to resume; a second leaves at once."""

    def stop(_signal: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
        raise Interrupted(name())

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    envvar="BUSI_SEARCH_HOME",
    default="mlruns",
    show_default=True,
    help="Folder of the stores, artifacts and caches.",
)
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store or server.")
@click.option("--storage", envvar="BUSI_SEARCH_STORAGE", help="Optuna storage URL.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="busi-search")
def main(home: str, tracking_uri: str | None, storage: str | None, debug: bool) -> None:
    """Find the best honest breast-ultrasound classifier, and show why it is the best.

    \b
    busi-search run --trials 100                        try it on simulated images
    busi-search run --data Dataset_BUSI_with_GT         search your own
    busi-search ui                                      browse the trials
    busi-search promote && busi-search predict a.png    use the winner
    """


@main.command()
@click.argument("study", required=False)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Finished trials the study shall hold; the same line resumes.",
)
@click.option("--name", help="Name of the study (default: from STUDY and the dataset).")
@click.option("--data", help="BUSI folder or MedMNIST .npz file.")
@click.option("--workers", type=click.IntRange(min=1), help="Trials at once (default: one a core).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:K.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop searching after this time.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of the study.")
@click.option("--weights", help="none, imagenet, or a .safetensors or .pth file.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a value of the study file, such as --set epochs=5.",
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
    _on_stop(lambda: f"Interrupted; {known['name']} is saved. Resume: busi-search {_words_typed()}")
    from busi_search import terminal
    from busi_search.release.run import (
        StudyResult,
        default_workers,
        plan_study,
        search_and_release,
    )

    context = plan_study(
        study,
        data=data,
        home=_home(ctx),
        name=name,
        seed=seed,
        weights=weights,
        overrides=overrides,
        device=device,
    )
    known["name"] = f"study '{context.name}'"
    chosen = workers or default_workers(context.device)
    if not quiet:
        terminal.announce(context, workers=chosen, trials=trials)
    result: StudyResult | None = None
    search = search_and_release(
        context, num_trials=trials, num_workers=chosen, timeout_seconds=timeout
    )
    # Closed whatever happens: that ends the workers and puts their trials back.
    with terminal.search_display(trials, quiet=quiet) as display, closing(search):
        for item in search:
            if isinstance(item, StudyResult):
                result = item
            else:
                display.update(item)
    assert result is not None, "the last item is the result"
    if not quiet:
        terminal.show_result(result)
    if as_json:
        _print_json(result.to_json())


def _words_typed() -> str:
    import shlex

    return shlex.join(sys.argv[1:])


@main.command()
@JSON_OPTION
@click.pass_context
def studies(ctx: click.Context, as_json: bool) -> None:
    """List the bundled studies and those run on this home.

    \b
    Example:
      busi-search studies
    """
    from busi_search.release.run import list_studies
    from busi_search.spec import list_bundled

    run_here = list_studies(_home(ctx))
    if as_json:
        _print_json({"bundled": list_bundled(), "run": [vars(status) for status in run_here]})
        return
    click.echo("bundled: " + ", ".join(list_bundled()))
    for status in run_here:
        click.echo(_status_line(status))


def _status_line(status: Any) -> str:
    best = (
        "no complete trial"
        if status.best is None
        else (f"best {status.objective} {status.best:.4f} (trial {status.best_trial})")
    )
    states = ", ".join(f"{count} {state}" for state, count in status.states.items() if count)
    return f"{status.name}: {states or 'no trials'}; {best}" + (
        " [SIMULATED]" if status.simulated else ""
    )


@main.command()
@click.argument("name")
@JSON_OPTION
@click.pass_context
def status(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one study's trials and its best.

    \b
    Example:
      busi-search status quickstart-phantom
    """
    from busi_search.release.run import load_study, study_status

    found = study_status(load_study(name, home=_home(ctx)))
    if as_json:
        _print_json(vars(found))
        return
    click.echo(_status_line(found))
    for key, value in found.best_params.items():
        click.echo(f"  {key} = {value}")


@main.group()
def data() -> None:
    """Check, and simulate, images."""


@data.command("check")
@click.argument("path")
@JSON_OPTION
@click.pass_context
def data_check(ctx: click.Context, path: str, as_json: bool) -> None:
    """Read every image and find near-duplicates and contradictory labels.

    \b
    Example:
      busi-search data check Dataset_BUSI_with_GT
    """
    from busi_search.data.describe import check_dataset

    found = check_dataset(path, cache=_home(ctx).cache)
    if as_json:
        _print_json(found)
        return
    for class_name, count in found["classes"].items():
        click.echo(f"{class_name}: {count}")
    twins = sum(len(group) for group in found["groups"])
    click.echo(
        f"{found['num_images']} images; {len(found['groups'])} groups of near-duplicates with "
        f"{twins} images; {len(found['conflicts'])} groups with contradictory labels"
    )
    for group in found["conflicts"]:
        click.echo("  contradictory: " + ", ".join(group))


@data.command("describe")
@click.argument("path")
@click.option("--to", "target", required=True, help="HTML file to write.")
@click.pass_context
def data_describe(ctx: click.Context, path: str, target: str) -> None:
    """Write a page with counts, sizes, samples, near-duplicates and contradictions side by side.

    \b
    Example:
      busi-search data describe Dataset_BUSI_with_GT --to data.html
    """
    from busi_search.data.describe import describe_dataset
    from busi_search.home import write_file

    write_file(target, describe_dataset(path, cache=_home(ctx).cache).encode())
    click.echo(f"{target} written", err=True)


@data.command("phantom")
@click.option("--to", "directory", required=True, help="Folder to write into.")
@click.option("--num-images", type=int, default=300, show_default=True)
@click.option("--size", "size_pixels", type=int, default=128, show_default=True, help="Pixels.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
def data_phantom(directory: str, num_images: int, size_pixels: int, seed: int) -> None:
    """Simulate ultrasound images, with lesion masks, in BUSI's layout.

    \b
    Example:
      busi-search data phantom --to phantoms --num-images 300
    """
    from busi_search.data.phantom import simulate_phantom, write_phantom

    phantom = simulate_phantom(num_images, size_pixels=size_pixels, seed=seed)
    written = write_phantom(Path(directory), phantom)
    click.echo(f"{len(written)} files below {directory}", err=True)


@main.command()
@click.argument("name")
@click.option("--to", "target", required=True, help="HTML file to write.")
@click.pass_context
def report(ctx: click.Context, name: str, target: str) -> None:
    """Write a study as one self-contained HTML page that works offline.

    \b
    Example:
      busi-search report quickstart-phantom --to report.html
    """
    from busi_search.release.winner import write_report

    write_report(_home(ctx), name, Path(target))
    click.echo(f"{target} written", err=True)


@main.command()
@click.argument("name")
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

    report = evaluate_sealed_test(_home(ctx), name, version=version)
    if as_json:
        _print_json(report.to_json())
        return
    terminal.show_test_report(report)


@main.command()
@click.argument("name")
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
    from busi_search.release.run import resolve_device

    found = replay_trial(_home(ctx), name, trial, device=resolve_device(device))
    if as_json:
        _print_json(vars(found))
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


@main.command("leak-gap")
@click.argument("name")
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
    from busi_search.release.run import resolve_device

    gap = measure_leak_gap(_home(ctx), name, trial, device=resolve_device(device))
    if as_json:
        _print_json(vars(gap))
        return
    click.echo(
        f"trial {gap.trial}; random folds tear {gap.num_split_groups} groups apart", err=True
    )
    for key in ("cv_auc", "cv_accuracy", "cv_f1"):
        random, grouped = gap.random[key], gap.grouped[key]
        click.echo(
            f"{key}: random {random:.4f}, grouped {grouped:.4f}, gap {random - grouped:+.4f}"
        )


@main.command()
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
    from busi_search.release import registry
    from busi_search.release.gate import check_force, promote_after_evaluation, study_gate

    home, name = _home(ctx), model or registry.MODEL_NAME
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
            _print_json(
                {
                    "decision": "refused",
                    "reasons": list(error.reasons),
                    "champion": shown,
                    "previous_champion": None,
                }
            )
        raise
    _show_decision(decision, as_json)


@main.command()
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@JSON_OPTION
@click.pass_context
def rollback(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """Make the previous champion the champion again.

    \b
    Example:
      busi-search rollback
    """
    from busi_search.release import gate
    from busi_search.release.registry import MODEL_NAME

    _show_decision(gate.rollback(_home(ctx), name=model or MODEL_NAME), as_json)


def _show_decision(decision: Any, as_json: bool) -> None:
    before = decision.previous_champion
    if as_json:
        _print_json(
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


@main.command()
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@JSON_OPTION
@click.pass_context
def models(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """List the registered versions, newest first.

    \b
    Example:
      busi-search models
    """
    from busi_search.release import registry

    found = registry.list_versions(_home(ctx), name=model or registry.MODEL_NAME)
    if as_json:
        _print_json({"models": [vars(version) for version in found]})
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


@main.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--model-uri", help="Such as models:/busi-classifier@candidate (default: champion).")
@JSON_OPTION
@click.pass_context
def predict(
    ctx: click.Context, paths: tuple[str, ...], model_uri: str | None, as_json: bool
) -> None:
    """Class probabilities of image files, or of all images in folders.

    \b
    Example:
      busi-search predict "benign (1).png"
    """
    from busi_search.release.predict import find_images, load_champion

    files = find_images(paths)
    classifier = load_champion(_home(ctx), model_uri)
    predictions = classifier.predict(files)
    if classifier.simulated:
        click.echo(
            "SIMULATED: this model was trained on phantoms; its answers mean nothing for patients.",
            err=True,
        )
    if as_json:
        model = {
            "name": classifier.name,
            "version": classifier.version,
            "run_id": classifier.run_id,
        }
        _print_json({"model": model, "predictions": [vars(item) for item in predictions]})
        return
    click.echo(f"{classifier.uri}, research use only", err=True)
    for item in predictions:
        shares = "  ".join(f"{name} {p:.3f}" for name, p in item.probabilities.items())
        click.echo(f"{item.path}\t{item.label}\t{shares}")


@main.command()
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
    from busi_search.release.ui import serve_ui

    _on_stop(lambda: "The UI has ended.")
    serve_ui(_home(ctx), port=port, study=study, open_browser=not no_browser)
