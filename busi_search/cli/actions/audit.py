"""Check a study's corrected score on parts of its own development images."""

import math
from collections.abc import Generator
from contextlib import closing

import click

from busi_search.cli.actions.shared import home_of, print_json, slow_reading
from busi_search.cli.base import on_stop_resume
from busi_search.release.audit import plan_audit, run_audit
from busi_search.release.audit_report import AuditReport, Bias, Repeat
from busi_search.search.prepare import default_workers, resolve_device
from busi_search.spec import MINIMISED_METRICS


def audit(
    ctx: click.Context,
    name: str,
    repeats: int,
    trials: int | None,
    data: str | None,
    workers: int | None,
    device: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """What ``busi-search audit`` does."""
    chosen = resolve_device(device)
    with slow_reading(quiet=quiet):
        plan = plan_audit(
            home_of(ctx), name, num_repeats=repeats, num_trials=trials, data=data, device=chosen
        )
    on_stop_resume(ctx, f"the audit of study '{name}'")
    if not quiet:
        click.echo(
            f"Study '{name}': its search of {plan.num_trials} trials is repeated {repeats} times, "
            f"each time without a part of the {len(plan.context.development)} development images. "
            "The sealed test is not opened.",
            err=True,
        )
    number = default_workers(chosen) if workers is None else workers
    with closing(run_audit(plan, num_workers=number)) as steps:
        report = _follow(steps, plan.context.spec.study.objective, quiet=quiet)
    if as_json:
        print_json(report.to_json())
    else:
        for line in _report_lines(report):
            click.echo(line)


def _follow(
    steps: Generator[tuple[Repeat, ...], None, AuditReport], objective: str, *, quiet: bool
) -> AuditReport:
    """Print each repeat when it is done, and return the report."""
    shown: set[int] = set()
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            report: AuditReport = end.value
            return report
        for repeat in done:
            if repeat.number not in shown and not quiet:
                click.echo(_repeat_line(repeat, objective), err=True)
            shown.add(repeat.number)


def _repeat_line(repeat: Repeat, objective: str) -> str:
    ours, theirs = repeat.corrected, repeat.outer
    return (
        f"repeat {repeat.number + 1}: {objective} {ours.naive:.3f} as found, corrected "
        f"{ours.value:.3f} ({ours.low:.3f} to {ours.high:.3f}); on {repeat.num_outer} images that "
        f"the search never saw {theirs.value:.3f} ({theirs.low:.3f} to {theirs.high:.3f}): "
        f"{'inside' if repeat.held else 'outside'} the corrected interval"
    )


def _report_lines(report: AuditReport) -> list[str]:
    """Return what an audit found, as sentences for a terminal."""
    number, expected = len(report.repeats), report.expected_share
    metric = report.objective.removeprefix("cv_")
    better = "lower" if metric in MINIMISED_METRICS else "higher"
    return [
        f"{number} repeats of {report.num_trials} trials; all figures are {report.objective}, and "
        f"{better} is better. A difference is the score minus the figure of the outer part.",
        f"corrected score: {_bias(report.corrected_bias)}",
        f"score as found:  {_bias(report.found_bias)}",
        f"average of the fold models, against the corrected score: {_bias(report.ensemble_bias)}",
        f"The corrected 95 % interval contained the outer figure in {report.num_held} of {number} "
        "repeats. Outer parts are small and have a sampling error of their own, so expect "
        f"{expected:.0%} if the corrected score is right.",
        f"With that error included, {report.num_agree} of {number} repeats agree with the "
        "corrected score (95 % should).",
        "Repeats share images, so they count for less than independent checks; the figures are "
        f"about these images. {report.scope}",
    ]


def _bias(bias: Bias) -> str:
    low, high = bias.ci95
    known = math.isfinite(low)
    interval = f" (95 % CI {low:+.4f} to {high:+.4f})" if known else " (no interval)"
    return f"{bias.mean:+.4f}{interval}, standard deviation of one repeat {bias.spread:.4f}"
