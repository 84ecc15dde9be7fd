"""How precisely a test of a given size shows an AUC or a share, and how large one has to be.

Newcombe's formula for the standard error of an AUC, as Riley and others use it for the size of
external validations (Statistics in Medicine 2021;40:4230). It is for independent images: with
several of a patient, the number of patients is the cautious one to ask with.
"""

import math

# Half the width of a 95 % interval in standard errors.
Z95 = 1.959964


def auc_margin(auc: float, num: int, prevalence: float) -> float:
    """Return half the width of the 95 % interval that a test is expected to show of an AUC.

    Args:
        auc: what the AUC is expected to be, from 0.5 to 1.
        num: patients of the test (or images, where each is of another patient).
        prevalence: share of them with the disease, above 0 and below 1.

    Raises:
        ValueError: the share is 0 or 1, or nobody is tested.
    """
    if not 0 < prevalence < 1 or num < 1:
        raise ValueError(f"{num} patients with a share of {prevalence} show no AUC")
    spread = 1 + (num / 2 - 1) * ((1 - auc) / (2 - auc) + auc / (1 + auc))
    return Z95 * math.sqrt(auc * (1 - auc) * spread / (num**2 * prevalence * (1 - prevalence)))


def num_for_auc(auc: float, margin: float, prevalence: float) -> int:
    """Return the smallest number of patients whose test shows an AUC within ± ``margin``.

    Args:
        auc: what the AUC is expected to be, from 0.5 to below 1.
        margin: half the width of the 95 % interval.
        prevalence: share of the patients with the disease, above 0 and below 1.
    """
    low, high = 1, 2
    while auc_margin(auc, high, prevalence) > margin:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if auc_margin(auc, middle, prevalence) > margin:
            low = middle
        else:
            high = middle
    return high


def num_for_share(share: float, margin: float) -> int:
    """Return how many patients it takes to show a share, such as a sensitivity, to ± ``margin``.

    Args:
        share: what it is expected to be; at 1, where the formula knows no error, 0.99 is taken.
        margin: half the width of the 95 % interval.
    """
    expected = min(max(share, 0.01), 0.99)
    return math.ceil(expected * (1 - expected) * (Z95 / margin) ** 2)
