"""timm's networks as backbones: built at the size at hand, and cut into stages.

timm is an extra (``pip install 'busi-search[timm]'``) and is imported only for ``timm/…`` names.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from busi_search.architectures import TIMM_PREFIX
from busi_search.errors import InputError
from busi_search.spec.strict import nearest
from busi_search.training.timm_stages import split_into_stages

# Smaller images are enlarged to this: most networks halve the side five times.
MIN_SIZE_PIXELS = 32


@dataclass(frozen=True)
class TimmBackbone:
    """A network of timm's without its classifier.

    Attributes:
        stages: first to last; together they map (N, 3, S, S) to (N, num_features).
        num_features: width of what the last stage gives.
        mean: of each channel in [0, 1] that its pretrained weights expect.
        std: likewise, the deviation.
    """

    stages: list[nn.Module]
    num_features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def timm_name(architecture: str) -> str:
    """Return timm's name of ``timm/NAME``, a tag of weights after a dot included.

    Raises:
        InputError: timm is not installed, or has no such network or tag.
    """
    timm = import_timm(architecture)
    name = architecture.removeprefix(TIMM_PREFIX)
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        meant = nearest(plain, timm.list_models())
        raise InputError(f"timm has no network '{plain}'; {_with_prefix(meant)}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{plain}.*")]
    if tag and tag not in tags:
        there = ", ".join(filter(None, tags)) or "none"
        raise InputError(f"timm has no weights '{tag}' for '{plain}'; there are: {there}.")
    return name


def import_timm(architecture: str) -> Any:
    """Return timm.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise InputError(
            f"architecture = '{architecture}' needs timm, which is not installed; type: "
            "pip install 'busi-search[timm]'"
        ) from None


def _with_prefix(meant: str) -> str:
    if meant.startswith("did you mean '"):
        return meant.replace("'", f"'{TIMM_PREFIX}", 1)
    return "`busi-search weights list 'timm/resnet*'` shows those that begin with resnet."


def build_timm_backbone(
    architecture: str, size_pixels: int | None, *, state: dict[str, Tensor] | None = None
) -> TimmBackbone:
    """Build a network, with random weights of PyTorch's global generator or with given ones.

    Args:
        architecture: ``timm/NAME``.
        size_pixels: height and width of the images; None: those of its pretrained weights.
        state: pretrained tensors under timm's names; positions are resized to the images.

    Raises:
        InputError: timm is not installed, knows no such network, or this one does not take images
            of that size; or the tensors do not fit.
    """
    net = _make_net(architecture, size_pixels, state)
    config = net.pretrained_cfg
    side = config["input_size"][-1] if size_pixels is None else max(size_pixels, MIN_SIZE_PIXELS)
    x = torch.linspace(-2, 2, 3 * side * side).sin().view(1, 3, side, side)
    net.eval()
    try:
        with torch.no_grad():
            features = net(x)
    except Exception as error:
        raise _size_error(architecture, net, side, error) from None
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise InputError(
            f"{architecture} gives no single vector of features for an image; choose another."
        )
    stages = split_into_stages(net, x, features) or [net]
    return TimmBackbone(stages, features.shape[1], tuple(config["mean"]), tuple(config["std"]))


def _make_net(architecture: str, size_pixels: int | None, state: dict[str, Tensor] | None) -> Any:
    """Return timm's own module, without a classifier."""
    name = timm_name(architecture)
    timm = import_timm(architecture)
    config = timm.models.get_pretrained_cfg(name)
    settings: dict[str, Any] = {}
    if config is not None and size_pixels is not None and config.fixed_input_size:
        side = max(size_pixels, MIN_SIZE_PIXELS)
        if side != config.input_size[-1]:
            settings["img_size"] = side
    try:
        net = timm.create_model(name, num_classes=0, in_chans=3, **settings)
    except Exception as error:
        if "img_size" not in settings:
            raise InputError(
                f"{architecture} cannot be built here ({_reason(error)}); choose another."
            ) from None
        raise _size_error(architecture, None, settings["img_size"], error) from None
    if state is not None:
        _load(architecture, net, dict(state), settings)
    return net


def _load(architecture: str, net: Any, state: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Let timm fit pretrained tensors to a network with a classifier, and copy all but that one.

    Without a classifier timm would take any file, for it then asks for no tensor at all.
    """
    timm = import_timm(architecture)
    config = timm.models.get_pretrained_cfg(architecture.removeprefix(TIMM_PREFIX))
    classifier = None if config is None else config.classifier
    name = classifier[0] if isinstance(classifier, tuple | list) else classifier
    weight = state.get(f"{name}.weight")
    num_classes = config.num_classes if weight is None else len(weight)
    overlay = {"state_dict": state, "custom_load": False, "num_classes": num_classes}
    try:
        whole = timm.create_model(
            architecture.removeprefix(TIMM_PREFIX),
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=num_classes,
            in_chans=3,
            **settings,
        )
        whole.reset_classifier(0)
        net.load_state_dict(whole.state_dict())
    except Exception as error:
        raise InputError(
            f"the weights do not fit {architecture} ({_reason(error)}); name the architecture "
            "they were trained with."
        ) from None


def _size_error(architecture: str, net: Any, side: int, error: Exception) -> InputError:
    timm = import_timm(architecture)
    config = timm.models.get_pretrained_cfg(architecture.removeprefix(TIMM_PREFIX))
    own = config.input_size[-1] if config is not None else net.pretrained_cfg["input_size"][-1]
    return InputError(
        f"{architecture} does not take images of {side} px ({_reason(error)}); set "
        f"image_size_pixels = {own}, the size of its pretrained weights."
    )


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
