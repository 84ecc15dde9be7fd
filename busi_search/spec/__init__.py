"""What a study file may say: its sections, its hyperparameters and its search space."""

from busi_search.spec.about import About
from busi_search.spec.configuration.image_geometry import FROM_DATASET
from busi_search.spec.configuration.network import NAMED_WEIGHTS
from busi_search.spec.dataset_section import MOST_FOLDS, DatasetSection
from busi_search.spec.gate import Gate
from busi_search.spec.hyperparameters import Hyperparameters
from busi_search.spec.objectives import COSTS, METRICS, MINIMISED_METRICS, direction_of
from busi_search.spec.operating_point import EARLIER_RULE, OperatingRule
from busi_search.spec.space import Choice, Condition, Range, SearchSpace
from busi_search.spec.strict import nearest
from busi_search.spec.study import RECIPE_LABELS, StudySpec, first_problem, spec_json
from busi_search.spec.study_section import StudySection

__all__ = [
    "COSTS",
    "EARLIER_RULE",
    "FROM_DATASET",
    "METRICS",
    "MINIMISED_METRICS",
    "MOST_FOLDS",
    "NAMED_WEIGHTS",
    "RECIPE_LABELS",
    "About",
    "Choice",
    "Condition",
    "DatasetSection",
    "Gate",
    "Hyperparameters",
    "OperatingRule",
    "Range",
    "SearchSpace",
    "StudySection",
    "StudySpec",
    "direction_of",
    "first_problem",
    "nearest",
    "spec_json",
]
