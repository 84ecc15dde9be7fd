"""Maps of what spoke for an answer."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from busi_search.report.grad_cam import grad_cam, maps_of
from busi_search.report.reopened import study_page
from busi_search.report.study_result import StudyResult
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord
from busi_search.training.classifier import ImageClassifier
from busi_search.training.zoo import build_model


class _Corner(nn.Module):
    """Copies the image into four channels, and pools it."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Conv2d(1, 4, 1, bias=False)
        nn.init.constant_(self.spread.weight, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread: torch.Tensor = self.spread(x)
        return spread.mean(dim=(2, 3))


def test_the_map_lies_where_the_evidence_is() -> None:
    head = nn.Linear(4, 2, bias=False)
    nn.init.constant_(head.weight[0], 1.0)
    nn.init.constant_(head.weight[1], -1.0)
    model = ImageClassifier(
        [_Corner()], head, channels=1, min_size_pixels=1, mean=(0.0,), std=(1.0,)
    ).eval()
    pixels = torch.zeros(2, 1, 4, 4)
    pixels[0, 0, 0, 1] = 255
    pixels[1, 0, 3, 2] = 255
    heat = grad_cam(model, pixels, torch.tensor([0, 0]))
    assert heat is not None
    expected = np.zeros((2, 4, 4))
    expected[0, 0, 1] = expected[1, 3, 2] = 1
    np.testing.assert_allclose(heat, expected, atol=1e-6)
    # Bright places speak against the other class, so nothing speaks for it.
    against = grad_cam(model, pixels, torch.tensor([1, 1]))
    assert against is not None
    assert not against.any()


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18", "densenet121", "convnext_tiny"])
def test_convolutional_networks_have_maps(architecture: str) -> None:
    torch.manual_seed(0)
    model = build_model(architecture, num_classes=3).eval()
    heat = grad_cam(model, torch.rand(2, 1, 64, 64) * 255, torch.tensor([0, 2]))
    assert heat is not None
    assert heat.ndim == 3
    assert len(heat) == 2
    assert heat.shape[1] >= 2
    assert 0 <= heat.min() <= heat.max() <= 1
    # No hook is left behind, nor any gradient.
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_transformers_have_none() -> None:
    model = build_model("vit_b_16", num_classes=2).eval()
    assert grad_cam(model, torch.rand(1, 1, 32, 32) * 255, torch.tensor([0])) is None


def test_the_report_shows_the_maps_of_the_winner(tiny_result: StudyResult) -> None:
    home, name = tiny_result.context.home, tiny_result.context.name
    explanations = StudyRecord(find_study(home, name)).explanations
    assert explanations is not None
    maps = maps_of(explanations, explanations.trial)
    assert maps
    assert all(heat.max() <= 255 for heat in maps.values())
    assert maps_of(explanations, -1) == maps_of(None, explanations.trial) == {}
    page = study_page(home, name)
    assert "Grad-CAM" in page
    assert len(re.findall("with what spoke for it", page)) == len(maps)
