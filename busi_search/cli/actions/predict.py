"""Answers about images."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO

import click

from busi_search.cli.actions.shared import (
    home_of,
    print_json_with_list,
    slow_reading,
)
from busi_search.cli.global_options import json_text
from busi_search.errors import BusiSearchError, InputError
from busi_search.files import utf8, without_nan, write_file
from busi_search.models.answers import NotJudged, Prediction, csv_line, csv_row
from busi_search.models.asked_files import find_images
from busi_search.models.loading import load_champion
from busi_search.models.predict import Classifier
from busi_search.models.seal_watch import sealed_sentence

# Answers are kept in memory up to this size, and in a temporary file beyond it.
MEMORY_BYTES = 1_000_000
# So many images, or files, are named; of more it is said how many there are.
NUM_NAMED = 5


@dataclass
class _Tally:
    """What is to be said once all files were looked at."""

    num_judged: int = 0
    num_unlike: int = 0
    sealed_by: list[tuple[str, ...]] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    failed: list[NotJudged] = field(default_factory=list)

    def count(self, answers: Iterable[Prediction | NotJudged]) -> Iterator[Prediction]:
        """Yield the answers, and count what is printed at the end."""
        for item in answers:
            if isinstance(item, NotJudged):
                self.failed.append(item)
                continue
            self.num_judged += 1
            self.sealed_by.append(item.sealed_by)
            if item.verdict is not None:
                _keep(self.verdicts, item, item.verdict.text)
            self.num_unlike += item.unlike
            if item.unlike and item.out_of_distribution is not None:
                _keep(self.unlike, item, item.out_of_distribution.text)
            for note in item.file_notes:
                _keep(self.notes, item, note)
            yield item


def _keep(kept: list[str], item: Prediction, text: str) -> None:
    if len(kept) <= NUM_NAMED:
        kept.append(f"{item.path}: {text}")


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
    tally = _Tally()
    with _spool() as lines, _spool() as table, slow_reading():
        answers = classifier.predict_each(
            files, boxes=boxes, keep_sealed=keep_sealed, how="predict"
        )
        for item in tally.count(answers):
            if target is not None:
                if tally.num_judged == 1:
                    table.write(utf8(csv_line(csv_row(item).keys())))
                table.write(utf8(csv_line(csv_row(item).values())))
            if as_json:
                lines.write(json_text(without_nan(item.to_json())).encode() + b"\n")
            elif target is None:
                click.echo(item.to_text())
        if len(files) == len(tally.failed) == 1:
            raise InputError(tally.failed[0].reason)
        if target is not None and tally.num_judged:
            table.seek(0)
            write_file(target, table.read())
            click.echo(f"{target} written: {tally.num_judged} images, {classifier.uri}", err=True)
        _say(classifier, tally)
        if as_json:
            _print_json(classifier, tally, lines)
    if tally.failed:
        raise BusiSearchError(_failures(tally.failed, len(files)))


def _spool() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)


def _print_json(classifier: Classifier, tally: _Tally, lines: IO[bytes]) -> None:
    lines.seek(0)
    print_json_with_list(
        {
            "model": classifier.about.to_json(),
            "num_judged": tally.num_judged,
            "num_unlike": tally.num_unlike,
            "num_sealed": sum(map(bool, tally.sealed_by)),
            "failed": [{"path": item.path, "error": item.reason} for item in tally.failed],
        },
        "predictions",
        (line.decode().rstrip("\n") for line in lines),
    )


def _say(classifier: Classifier, tally: _Tally) -> None:
    """Print the verdicts, warnings, and which model predicted."""
    said = [*tally.verdicts] if tally.num_judged <= NUM_NAMED else []
    said += _some(tally.notes)
    said += _some(tally.unlike)
    if tally.num_unlike and tally.num_judged > 1:
        said.append(
            f"{tally.num_unlike} of {tally.num_judged} images are unlike the training images: do "
            "not trust these answers."
        )
    if any(tally.sealed_by):
        said.append(f"{sealed_sentence(tally.sealed_by)}: this opening was counted.")
    if classifier.simulated:
        said.append(
            "SIMULATED: this model was trained on phantoms; its answers mean nothing for patients."
        )
    about, point = classifier.about, classifier.operating_point
    said.append(
        f"{classifier.uri}, research use only: {about.text}. It calls an image "
        f"{point.positive_class} if the probability is {point.threshold:.1%} or more."
    )
    said.append(about.sealed_test.text)
    for sentence in said:
        click.echo(sentence, err=True)


def _some(sentences: list[str]) -> list[str]:
    return sentences[:NUM_NAMED] + (["…"] if len(sentences) > NUM_NAMED else [])


def _failures(failed: list[NotJudged], num_files: int) -> str:
    named = " ".join(item.reason for item in failed[:NUM_NAMED])
    more = f" … and {len(failed) - NUM_NAMED} more." if len(failed) > NUM_NAMED else ""
    return f"{len(failed)} of {num_files} files could not be classified: {named}{more}"
