"""Train again what a study has trained."""

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.errors import BusiSearchError
from busi_search.release.leak_gap import measure_leak_gap
from busi_search.release.replay import replay_trial
from busi_search.search.prepare import resolve_device


def replay(ctx: click.Context, name: str, trial: int, device: str, as_json: bool) -> None:
    """What ``busi-search replay`` does."""
    found = replay_trial(home_of(ctx), name, trial, device=resolve_device(device))
    if as_json:
        print_json(found.to_json())
    else:
        for fold in found.folds:
            same = "identical" if fold.identical else f"differs by {fold.max_difference:.2g}"
            click.echo(
                f"fold {fold.fold}: AUC {fold.stored_auc:.4f} stored, "
                f"{fold.replayed_auc:.4f} replayed, {same}"
            )
        for key, (then, now) in found.differs.items():
            click.echo(f"{key} has changed since: {then} -> {now}", err=True)
    if not found.agrees:
        raise BusiSearchError(f"Trial {trial} gives another result than the stored one.")


def leak_gap(
    ctx: click.Context, name: str, trial: int | None, seeds: int, device: str, as_json: bool
) -> None:
    """What ``busi-search leak-gap`` does."""
    gap = measure_leak_gap(
        home_of(ctx), name, trial, num_seeds=seeds, device=resolve_device(device)
    )
    if as_json:
        print_json(gap.to_json())
        return
    click.echo(
        f"Trial {gap.trial} was trained with {gap.num_seeds} fresh seeds on random and on grouped "
        f"folds; {gap.num_split_groups} groups may be split by random folds. The gap is random "
        "minus grouped, with a 95 % interval over the seeds (Student's t).",
        err=True,
    )
    for key in ("cv_auc", "cv_accuracy", "cv_f1"):
        low, high = gap.ci95(key)
        click.echo(
            f"{key}: random {gap.random[key]:.4f}, grouped {gap.grouped[key]:.4f}, "
            f"gap {gap.gap[key]:+.4f} (95 % CI {low:+.4f} to {high:+.4f})"
        )
