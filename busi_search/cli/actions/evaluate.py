"""The sealed test, other hospitals' images, and a model set to them."""

from typing import TypedDict, Unpack

import click

from busi_search.cli import elsewhere_tables
from busi_search.cli.actions.refresh import refresh_report
from busi_search.cli.actions.shared import home_of, print_json
from busi_search.cli.sealed_table import show_test_report
from busi_search.errors import InputError
from busi_search.release.chosen_version import chosen_version
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.release.external import evaluate_elsewhere, is_own_data
from busi_search.release.recalibrate import recalibrate_model
from busi_search.search.status import foreign_note


class Asked(TypedDict):
    """Which model is asked about images of elsewhere, and how: options of both commands."""

    version: str | None
    model_uri: str | None
    sensitivity: float | None
    class_map: tuple[str, ...]
    keep_sealed: bool


def evaluate(
    ctx: click.Context,
    name: str,
    data: str | None,
    prevalences: tuple[float, ...],
    as_json: bool,
    **asked: Unpack[Asked],
) -> None:
    """What ``busi-search evaluate`` does."""
    home = home_of(ctx)
    if (note := foreign_note(home, name)) is not None:
        click.echo(note, err=True)
    if data is not None and not is_own_data(home, name, data):
        elsewhere = evaluate_elsewhere(name, data, home=home, prevalences=prevalences, **asked)
        if as_json:
            print_json(elsewhere.to_json())
        else:
            elsewhere_tables.show_external_report(elsewhere)
        refresh_report(home, name)
        return
    if data is not None:
        click.echo(f"{data} holds the study's own images: its sealed test is opened.", err=True)
    for option, given in (
        ("--map", asked["class_map"]),
        ("--prevalence", prevalences),
        ("--sensitivity", asked["sensitivity"]),
    ):
        if given:
            raise InputError(
                f"{option} is for images from another hospital: name them with --data PATH"
                f"{'' if data is None else f', for {data} holds the own images of the study'}."
            )
    if asked["keep_sealed"]:
        raise InputError(
            "Without images from another hospital, this would open the sealed test itself."
        )
    version, model_uri, model = asked["version"], asked["model_uri"], None
    if model_uri is not None:
        chosen = chosen_version(home, name, version=version, model_uri=model_uri)
        version, model = chosen.version, chosen.name
    report = evaluate_sealed_test(home, name, version=version, model=model, data=data)
    if as_json:
        print_json(report.to_json())
    else:
        show_test_report(report)
    refresh_report(home, name, data=data)


def recalibrate(
    ctx: click.Context,
    name: str,
    data: str,
    keep: str,
    as_json: bool,
    **asked: Unpack[Asked],
) -> None:
    """What ``busi-search recalibrate`` does."""
    result = recalibrate_model(name, data, home=home_of(ctx), keep=keep, **asked)
    if as_json:
        print_json(result.to_json())
        return
    elsewhere_tables.show_recalibration(result)
