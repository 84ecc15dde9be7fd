"""The parts of what a study keeps about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImagesAt:
    """Where a study's images are on a machine; no part of what makes it the same study.

    Attributes:
        absolute: path of the folder, table or file.
        from_home: the same, seen from the home: it holds where both were moved together.
        groups: path of the file of groups, where there is one.
    """

    absolute: str
    from_home: str
    groups: str | None = None


@dataclass(frozen=True)
class Tracked:
    """Where in MLflow a study is copied to."""

    experiment_id: str
    run_id: str


@dataclass(frozen=True)
class Cost:
    """What all calls that searched a study took together.

    Attributes:
        seconds: wall time.
        search_seconds: of this, until the searches had ended.
        tracking_seconds: of this, with MLflow.
    """

    seconds: float = 0.0
    search_seconds: float = 0.0
    tracking_seconds: float = 0.0


@dataclass(frozen=True)
class Released:
    """The winner that a study registered last.

    Attributes:
        finished: number of finished trials among which it won.
        trial: its number.
        version: of the registered model.
        model: its name; every model had one name in earlier versions.
        estimates: its figures corrected for the choice, by metric: value, low, high, naive.
        rebuilt_difference: largest difference of a probability between the trial and its models
            trained again.
    """

    finished: int
    trial: int
    version: str
    estimates: Mapping[str, Mapping[str, float | None]]
    rebuilt_difference: float
    model: str = "busi-classifier"


@dataclass(frozen=True)
class Explanations:
    """Where a winner looked: Grad-CAM maps of some development images.

    Attributes:
        trial: number of the winner.
        maps: by the image's index, rows of grey levels from 0 to 255.
    """

    trial: int
    maps: Mapping[str, list[list[int]]] = field(repr=False)


@dataclass(frozen=True)
class LearningPoint:
    """A winner's score when it learns from a share of the groups of images.

    Attributes:
        share: of the groups of each fold's training part.
        num_images: mean number of images that a fold learns from.
        score: mean over folds, and over draws of the groups.
        low, high: the worst and the best draw; the score itself where nothing is drawn.
    """

    share: float
    num_images: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """How a winner's score grows with images; the points by their number.

    Attributes:
        trial: number of the winner.
        metric: which score it is.
        points: the last one is of all groups.
    """

    trial: int
    metric: str
    points: tuple[LearningPoint, ...]
