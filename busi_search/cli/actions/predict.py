"""Class probabilities of images."""

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.errors import InputError
from busi_search.files import utf8, write_file
from busi_search.models.predict import find_images, load_champion, predictions_csv
from busi_search.models.seal_watch import sealed_sentence


def predict(
    ctx: click.Context,
    paths: tuple[str, ...],
    model_uri: str | None,
    boxes: str | None,
    target: str | None,
    keep_sealed: bool,
    as_json: bool,
) -> None:
    """What ``busi-search predict`` does."""
    if target is not None and not target.lower().endswith(".csv"):
        raise InputError(f"--to {target}: expected a name that ends in .csv.")

    files = find_images(paths)
    classifier = load_champion(home_of(ctx), model_uri)
    predictions = classifier.predict(files, boxes=boxes, keep_sealed=keep_sealed, how="predict")
    sealed_by = [item.sealed_by for item in predictions]
    if any(sealed_by):
        click.echo(f"{sealed_sentence(sealed_by)}: this opening was counted.", err=True)
    if classifier.simulated:
        click.echo(
            "SIMULATED: this model was trained on phantoms; its answers mean nothing for patients.",
            err=True,
        )
    if target is not None:
        write_file(target, utf8(predictions_csv(predictions)))
        click.echo(f"{target} written: {len(predictions)} images, {classifier.uri}", err=True)
    if as_json:
        model = {
            "name": classifier.name,
            "version": classifier.version,
            "run_id": classifier.run_id,
        }
        print_json(
            {
                "model": model,
                "num_sealed": sum(map(bool, sealed_by)),
                "predictions": [item.to_json() for item in predictions],
            }
        )
        return
    click.echo(f"{classifier.uri}, research use only", err=True)
    for item in predictions if target is None else ():
        shares = "  ".join(f"{name} {p:.3f}" for name, p in item.probabilities.items())
        click.echo(f"{item.path}\t{item.label}\t{shares}")
