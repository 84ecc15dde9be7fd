"""Hyperparameters that make no sense together are refused in one sentence."""

import pytest

from busi_search.errors import InputError
from busi_search.study_files import parse_spec

START = '[dataset]\nsource = "phantom"\nimage_size_pixels = 32\n'


def _parse(hyperparameters: str = "", space: str = "", more: str = "") -> None:
    text = f"{START}[hyperparameters]\n{hyperparameters}\n[space]\n{space}\n{more}"
    import tomllib

    parse_spec(tomllib.loads(text), origin="study.toml")


REFUSED = {
    "head_only_epochs = 20": "leaves none of epochs = 20",
    "average_last_epochs = 30": "more than epochs = 20",
    "average_last_epochs = 3\nweight_averaging = 0.9": "both replace the weights",
    "average_last_epochs = 3\nearly_stopping_patience = 4": "set one of them to 0",
    "start_image_size_ratio = 0.5\nfull_size_epochs = 20": "leaves none of epochs",
    "start_image_size_ratio = 0.5\nearly_stopping_patience = 4": "do without them",
    'start_image_size_ratio = 0.5\nscheduler = "plateau"': "do without them",
    "start_image_size_ratio = 0.5\nmask_weight = 0.5": "cannot be combined",
    "start_image_size_ratio = 0.4": "less than 16 pixels",
    "stochastic_depth = 0.1": "small_cnn has none",
}


@pytest.mark.parametrize("text", REFUSED)
def test_senseless_combinations_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=REFUSED[text]) as found:
        _parse(text)
    assert "\n" not in str(found.value)


def test_searched_values_and_recipes_are_looked_at() -> None:
    with pytest.raises(InputError, match="head_only_epochs = 5 leaves none of epochs = 4"):
        _parse("epochs = 4", "head_only_epochs = { low = 0, high = 5 }")
    with pytest.raises(InputError, match="small_cnn has none"):
        _parse(
            "stochastic_depth = 0.1",
            'architecture = ["resnet18"]',
            '[[recipe]]\nname = "known"\narchitecture = "small_cnn"',
        )


def test_conditions_make_them_possible() -> None:
    _parse(
        space='architecture = ["small_cnn", "resnet18"]\n'
        'stochastic_depth = { low = 0.0, high = 0.3, only_if = { architecture = ["resnet18"] } }\n'
        "weight_averaging = [0.0, 0.9]\n"
        "average_last_epochs = { choices = [3], only_if = { weight_averaging = [0.0] } }"
    )
