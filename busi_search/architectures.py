"""The architectures a study may name: one line each, and timm's under a prefix."""

import re
from dataclasses import dataclass

# ``timm/NAME`` is a network of the library timm, which is an extra.
TIMM_PREFIX = "timm/"
TIMM_PATTERN = r"^timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$"


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        family: the function of ``training.backbones`` that builds it.
        variant: torchvision's name of the network, where the family is torchvision's.
        num_features: width of the features that the head sees.
        num_stages: number of stages that can be frozen.
        channels: input channels (1: grey as it is; 3: grey repeated).
        imagenet: whether there are ImageNet weights that fit: torchvision's, or of a package.
        min_size_pixels: smaller images are enlarged to this, or nothing would be left of them.
        normalisation: of the grey levels that its pretrained weights expect.
        maps: whether its stages give maps, which can be pooled in several ways; tokens cannot.
    """

    family: str
    variant: str
    num_features: int
    num_stages: int
    channels: int = 3
    imagenet: bool = True
    min_size_pixels: int = 1
    normalisation: str = "imagenet"
    maps: bool = True


# ``_small``: a 3×3 first convolution without stride and no early max-pool, for images of 28 to
# 64 px, as MedMNIST's own baselines use at 28 px. ``harmonic_``: the same with kernels written in
# the discrete cosine basis (Ulicny et al. 2022). Both start from scratch.
ARCHITECTURES: dict[str, Architecture] = {
    "small_cnn": Architecture("small_cnn", "", 576, 3, channels=1, imagenet=False),
    "small_cnn_wide": Architecture("small_cnn", "wide", 1152, 3, channels=1, imagenet=False),
    "tiny_resnet": Architecture("tiny_resnet", "", 576, 3, channels=1, imagenet=False),
    "resnet18": Architecture("resnet", "resnet18", 512, 5),
    "resnet34": Architecture("resnet", "resnet34", 512, 5),
    "resnet50": Architecture("resnet", "resnet50", 2048, 5),
    "resnet18_small": Architecture("small_resnet", "resnet18", 512, 5, 1, imagenet=False),
    "resnet50_small": Architecture("small_resnet", "resnet50", 2048, 5, 1, imagenet=False),
    "harmonic_resnet18": Architecture("harmonic_resnet", "resnet18", 512, 5, 1, imagenet=False),
    "densenet121": Architecture("densenet", "densenet121", 1024, 5, min_size_pixels=32),
    "efficientnet_b0": Architecture("efficientnet", "efficientnet_b0", 1280, 5),
    "efficientnet_lite0": Architecture(
        "efficientnet_lite", "efficientnet_lite0", 1280, 5, normalisation="efficientnet_lite"
    ),
    "efficientnet_lite1": Architecture(
        "efficientnet_lite", "efficientnet_lite1", 1280, 5, normalisation="efficientnet_lite"
    ),
    "efficientnet_lite2": Architecture(
        "efficientnet_lite", "efficientnet_lite2", 1280, 5, normalisation="efficientnet_lite"
    ),
    "mobilenet_v3_small": Architecture("mobilenet_v3", "mobilenet_v3_small", 1024, 5),
    "mobilenet_v3_large": Architecture("mobilenet_v3", "mobilenet_v3_large", 1280, 5),
    "convnext_tiny": Architecture("convnext", "convnext_tiny", 768, 4, min_size_pixels=32),
    "vit_b_16": Architecture("vit", "vit_b_16", 768, 5, maps=False),
    "swin_t": Architecture("swin", "swin_t", 768, 4, min_size_pixels=32),
}

# Networks whose layers only follow one another: stochastic depth has no shortcut to leave open.
WITHOUT_RESIDUAL_BLOCKS = frozenset({"small_cnn", "small_cnn_wide", "densenet121"})


def is_timm(architecture: str) -> bool:
    """Return whether a name is that of a timm network; whether timm has it is checked later."""
    return re.match(TIMM_PATTERN, architecture) is not None


def has_imagenet_weights(architecture: str) -> bool:
    """Return whether ``weights = "imagenet"`` means anything: timm is asked when it is loaded."""
    return is_timm(architecture) or ARCHITECTURES[architecture].imagenet
