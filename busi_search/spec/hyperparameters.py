"""What a study may fix or search: one configuration of a network and of its training."""

from busi_search.spec.configuration.augmentation import AugmentationFields
from busi_search.spec.configuration.head import HeadFields
from busi_search.spec.configuration.image_geometry import ImageFields
from busi_search.spec.configuration.network import NetworkFields
from busi_search.spec.configuration.optimisation import OptimisationFields
from busi_search.spec.configuration.prediction import PredictionFields


# Fields only, and in one table, as a study file has them. Pydantic lists the last base's first.
class Hyperparameters(
    ImageFields,
    PredictionFields,
    AugmentationFields,
    OptimisationFields,
    HeadFields,
    NetworkFields,
):
    """One configuration of a network and its training; every field may be fixed or searched."""
