"""Hyperparameters that make no sense together, refused before anything is trained."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from busi_search.architectures import WITHOUT_RESIDUAL_BLOCKS
from busi_search.spec.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from busi_search.spec.study import StudySpec

MIN_IMAGE_SIZE_PIXELS = 16


@dataclass(frozen=True)
class Clash:
    """What cannot go together.

    Attributes:
        names: the hyperparameters that it is about.
        found: from a configuration to whether it has it.
        sentence: what is wrong and what to do, with the configuration's values by name.
    """

    names: tuple[str, ...]
    found: Callable[[Hyperparameters], bool]
    sentence: str


CLASHES = (
    Clash(
        ("head_only_epochs", "epochs"),
        lambda c: 0 < c.head_only_epochs >= c.epochs,
        "head_only_epochs = {head_only_epochs} leaves none of epochs = {epochs} for the backbone; "
        "lower it, or freeze the backbone with freeze_depth",
    ),
    Clash(
        ("average_last_epochs", "epochs"),
        lambda c: c.average_last_epochs > c.epochs,
        "average_last_epochs = {average_last_epochs} is more than epochs = {epochs}; lower it",
    ),
    Clash(
        ("average_last_epochs", "weight_averaging"),
        lambda c: c.average_last_epochs > 0 and c.weight_averaging > 0,
        "average_last_epochs and weight_averaging both replace the weights by an average; "
        "set one of them to 0",
    ),
    Clash(
        ("average_last_epochs", "early_stopping_patience"),
        lambda c: c.average_last_epochs > 0 and c.early_stopping_patience > 0,
        "average_last_epochs averages the last epochs and early_stopping_patience goes back to the "
        "best one; set one of them to 0",
    ),
    Clash(
        ("start_image_size_ratio", "full_size_epochs", "epochs"),
        lambda c: c.start_image_size_ratio < 1 and c.full_size_epochs >= c.epochs,
        "full_size_epochs = {full_size_epochs} leaves none of epochs = {epochs} for smaller "
        "images; lower it, or set start_image_size_ratio = 1.0",
    ),
    Clash(
        ("start_image_size_ratio", "early_stopping_patience", "scheduler"),
        lambda c: (
            c.start_image_size_ratio < 1
            and (c.early_stopping_patience > 0 or c.scheduler == "plateau")
        ),
        "start_image_size_ratio changes the images during training, and early stopping and "
        'scheduler = "plateau" compare losses of different epochs; set start_image_size_ratio = '
        "1.0, or do without them",
    ),
    Clash(
        ("start_image_size_ratio", "mask_weight"),
        lambda c: c.start_image_size_ratio < 1 and c.mask_weight > 0,
        "start_image_size_ratio and mask_weight cannot be combined; set mask_weight = 0 or "
        "start_image_size_ratio = 1.0",
    ),
    Clash(
        ("start_image_size_ratio", "image_size_pixels"),
        lambda c: (
            c.start_image_size_ratio < 1
            and round(c.start_image_size_ratio * c.image_size_pixels) < MIN_IMAGE_SIZE_PIXELS
        ),
        "start_image_size_ratio = {start_image_size_ratio} of image_size_pixels = "
        f"{{image_size_pixels}} is less than {MIN_IMAGE_SIZE_PIXELS} pixels; raise it",
    ),
    Clash(
        ("stochastic_depth", "architecture"),
        lambda c: bool(c.stochastic_depth) and c.architecture in WITHOUT_RESIDUAL_BLOCKS,
        "stochastic_depth = {stochastic_depth} needs residual blocks, and {architecture} has none; "
        "set it to 0, or search it with only_if = {{ architecture = [...] }}",
    ),
)


def first_clash(spec: "StudySpec") -> str | None:
    """Return a sentence on the first combination of a study that makes no sense, or None.

    Looked at are all values of lists and the ends of ranges, where their conditions hold, and the
    recipes.
    """
    for clash in CLASHES:
        for configuration in _combinations(spec, clash.names):
            if clash.found(configuration):
                return clash.sentence.format(**configuration.model_dump())
    return None


def _combinations(spec: "StudySpec", names: tuple[str, ...]) -> Iterator[Hyperparameters]:
    searched = {name: spec.space[name] for name in names if name in spec.space}
    asked = dict.fromkeys(
        name for entry in searched.values() for name in entry.only_if if name in spec.space
    )
    ends = {name: spec.space[name].ends for name in [*asked, *searched]}
    for values in itertools.product(*ends.values()):
        sampled: dict[str, Any] = dict(zip(ends, values, strict=True))
        known = spec.resolve(sampled).model_dump()
        yield spec.resolve(
            {name: value for name, value in sampled.items() if spec.space[name].holds(known)}
        )
    for settings in spec.recipe_settings():
        yield spec.resolve(settings)
