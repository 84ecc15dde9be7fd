"""DeLong's interval of an AUC, for images that come in groups."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import t

from busi_search.search.pruning.evidence import auc_influence
from busi_search.training import metrics


def delong_interval(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    positive: int,
) -> tuple[float, float]:
    """Return DeLong's 95 % interval of the (macro) AUC, on the logit scale.

    Images of a group, such as a patient's, count together. Few groups know their own spread badly,
    so the limits are those of Student's t with Satterthwaite's degrees of freedom. An AUC of 0 or 1
    has no width.

    Args:
        probabilities: (N, C).
        labels: (N,) integers.
        groups: (N,) groups of images; images that are independent have one each.
        positive: the class reported for C = 2.

    Returns:
        The limits; (0, 1) where all images of a class, or all others, are of one group.

    Source: DeLong et al. 1988, 10.2307/2531595; for groups Obuchowski 1997, 10.2307/2533958.
    """
    num_classes = probabilities.shape[1]
    classes = [positive] if num_classes == 2 else list(range(num_classes))
    area = metrics.auc(probabilities, labels, positive=positive)
    if not 0 < area < 1:
        return (area, area)
    variance, freedom = _auc_variance(probabilities, labels, groups, classes)
    if freedom == 0:
        return (0.0, 1.0)
    width = t.ppf(0.975, freedom) * math.sqrt(max(variance, 0.0)) / (area * (1 - area))
    low, high = expit(logit(area) + np.array([-width, width]))
    return (float(low), float(high))


def _auc_variance(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    classes: Sequence[int],
) -> tuple[float, float]:
    """Variance of the mean of the classes' AUCs, and its degrees of freedom; 0 where unknown.

    Each class gives two rows of sums by group: of its own images' influence, and of the others'.
    A product of two rows is scaled by n / (n - 1), where n counts the groups that have a part in
    either: sample variances with m - 1 and n - 1 where every image is its own group.
    """
    _, member = np.unique(groups, return_inverse=True)
    sums, present = [], []
    for c in classes:
        influence = auc_influence(probabilities[:, c], labels == c) / len(labels)
        for role in (labels == c, labels != c):
            sums.append(np.bincount(member, weights=influence * role))
            present.append(np.bincount(member, weights=role) > 0)
    rows, absent = np.array(sums), ~np.array(present)
    either = absent.shape[1] - absent.astype(float) @ absent.T.astype(float)
    if either.min() < 2:
        return math.inf, 0.0
    scaled = rows @ rows.T * either / (either - 1)
    own = np.diag(scaled)
    # The classes of a macro AUC share their images: together they know no more than one.
    freedom = own.sum() ** 2 / np.sum(own**2 / (np.diag(either) - 1)) / len(classes)
    return float(np.sum(scaled)) / len(classes) ** 2, float(freedom)
