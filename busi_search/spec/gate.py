"""The section [gate] of a study file."""

from pydantic import Field

from busi_search.spec.strict import Strict


class Gate(Strict):
    """What a candidate must reach on the sealed test to become champion."""

    max_auc_drop: float = Field(default=0.02, ge=0, le=1)
    """Largest drop in AUC below the best champion so far, and below the present one.

    A candidate must show that it drops no further: the lower bound of the difference of the AUCs
    on the same test images must lie above -max_auc_drop. With 0 only a candidate that is shown to
    be better is promoted.

    Unit: AUC.
    Default: a plain choice of the smallest difference that matters; `promote` says how many test
    images it takes to show it.
    Example: max_auc_drop = 0.01
    """

    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """One-sided confidence of the lower bounds that `max_auc_drop` and `min_auc` ask for.

    With 0.5 the point estimates decide: ten candidates in a row that are 0.02 worse each then cost
    0.03 of true AUC on 120 test images, with 0.95 less than 0.01.

    Unit: a probability.
    Default: simulated (`benchmarks/gate.py`).
    Example: confidence = 0.9
    """

    max_openings: int = Field(default=10, ge=1)
    """Number of openings after which the sealed test is spent.

    After that, only a candidate that is shown to be better than the champions is promoted.

    Unit: openings.
    Default: as many as were simulated in a row (`benchmarks/gate.py`).
    Example: max_openings = 20
    """

    min_auc: float = Field(default=0.5, ge=0, le=1)
    """Value that the lower bound of the candidate's AUC must exceed; also for the first champion.

    Unit: AUC.
    Default: better than chance; the right one depends on the clinic.
    Example: min_auc = 0.8
    """

    min_sensitivity: float = Field(default=0.5, ge=0, le=1)
    """Lowest sensitivity at the operating point with which a candidate may become champion.

    The sensitivity as found on the test images decides, not a bound. With 0 there is no limit.

    Unit: a share of the malignant images.
    Default: a model that misses most malignant images is useless; the right limit depends on the
    clinic.
    Example: min_sensitivity = 0.9
    """

    max_ece: float | None = Field(default=None, ge=0, le=1)
    """Largest calibration error with which a candidate may become champion.

    It limits `calibration_error`, the root mean square distance between the probability and the
    frequency of malignant images, without the contribution of noise; not the binned `ece`. With 120
    test images this figure has a standard deviation of about 0.06.

    Unit: a probability.
    Default: no limit; the right one depends on how the probabilities are used.
    Example: max_ece = 0.1
    """
