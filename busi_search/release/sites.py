"""What each hospital gives when it was not seen: folds that leave one site out, one by one."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from busi_search.release.calibration import cross_fitted_calls
from busi_search.release.intervals import Figure, with_intervals
from busi_search.release.positive_figures import CALIBRATION, positive_figures
from busi_search.release.shares import share
from busi_search.release.winner import Winner


@dataclass(frozen=True)
class UnseenSite:
    """A site's development images, answered by the model of the other sites.

    Attributes:
        site: its name.
        num_images, num_groups, num_positive: what the figures are of.
        figures: ``auc`` of the positive class against the others; ``sensitivity`` and
            ``specificity`` at the operating point that the rule sets on the other sites;
            ``calibration_intercept``, ``calibration_slope`` and ``observed_expected`` with their
            temperature. Each has an interval that knows of groups; NaN for too few of them.
    """

    site: str
    num_images: int
    num_groups: int
    num_positive: int
    figures: dict[str, Figure]

    def to_json(self) -> dict[str, Any]:
        """Return the site as ``run --json`` prints it; null for what is not known."""
        return {
            "site": self.site,
            "num_images": self.num_images,
            "num_groups": self.num_groups,
            "num_positive": self.num_positive,
            **with_intervals(self.figures),
        }


def unseen_sites(winner: Winner) -> tuple[UnseenSite, ...]:
    """Return what each site gave when it was left out, in the order of their folds.

    The winner was chosen by the mean over these sites, so a site's AUC flatters itself a little;
    temperature and operating point are those of the other sites.

    Args:
        winner: of a study; none of a study whose folds are no sites.
    """
    context = winner.context
    if context.spec.dataset.folds != "site":
        return ()
    development, predictions = context.development, winner.predictions
    truth = development.labels == development.positive
    called = cross_fitted_calls(
        predictions.log_probabilities,
        development.labels,
        predictions.fold_of,
        positive=development.positive,
        rule=context.spec.operating_point,
    )
    scores = winner.cross_fitted[:, development.positive]
    found = []
    for fold in context.partition.folds:
        rows = fold.validation
        own, groups = truth[rows], context.groups[rows]
        # The threshold asked of it is not used: each site has the one of the other sites.
        whole = positive_figures(scores[rows], own, groups, threshold=0.5).figures
        right = called[rows] == own
        found.append(
            UnseenSite(
                site=development.properties["site"][int(rows[0])],
                num_images=len(rows),
                num_groups=len(np.unique(groups)),
                num_positive=int(own.sum()),
                figures={
                    "auc": whole["auc"],
                    "sensitivity": share(right[own], groups[own]),
                    "specificity": share(right[~own], groups[~own]),
                    **{name: whole[name] for name in CALIBRATION},
                },
            )
        )
    return tuple(found)
