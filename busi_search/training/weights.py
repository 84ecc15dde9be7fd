"""Pretrained weights: none, ImageNet's from a package or torchvision, or a local file."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from busi_search.architectures import ARCHITECTURES, has_imagenet_weights, is_timm
from busi_search.errors import BusiSearchError, InputError
from busi_search.files import user_path
from busi_search.spec import NAMED_WEIGHTS
from busi_search.training.backbones import FAMILIES
from busi_search.training.packaged_weights import PACKAGED_WEIGHTS, load_packaged_weights
from busi_search.training.timm_backbones import build_timm_backbone
from busi_search.training.timm_weights import (
    check_hash_in_name,
    fetch_timm_weights,
    weights_folder,
)
from busi_search.training.zoo import ImageClassifier

DOWNLOAD_TIMEOUT_SECONDS = 10.0


def check_weights(weights: str, architecture: str, size_pixels: int | None = None) -> None:
    """Make sure that a network and its ``weights`` can be loaded, before anything else is started.

    Args:
        weights: ``none``, ``phantom``, ``imagenet`` or the path of a file.
        architecture: a key of ``ARCHITECTURES``, or ``timm/NAME``.
        size_pixels: height and width of the images, for which a network of timm's is built once.

    Raises:
        InputError: a named file is missing or of an unknown kind, or ImageNet weights do not exist
            for the architecture.
        BusiSearchError: ImageNet weights cannot be downloaded.
    """
    if is_timm(architecture):
        state = _timm_state(architecture, weights)
        stages = torch.nn.ModuleList(build_timm_backbone(architecture, size_pixels).stages)
        if state is not None and not _has_own_names(state, stages):
            build_timm_backbone(architecture, size_pixels, state=state)
    elif weights == "imagenet":
        _imagenet_state(architecture)
    elif weights not in NAMED_WEIGHTS:
        _file_state(user_path(weights))


def load_weights(
    model: ImageClassifier, architecture: str, weights: str, size_pixels: int | None = None
) -> list[str]:
    """Load a backbone's pretrained weights into ``model``; the head keeps its random ones.

    Args:
        model: the network, changed in place.
        architecture: a key of ``ARCHITECTURES``, or ``timm/NAME``.
        weights: ``none``, ``imagenet`` or the path of a .safetensors or .pth file whose keys are
            the published ones (``layer1.0…``) or this package's own (``stages.0…``).
        size_pixels: as in :func:`~busi_search.training.zoo.build_model`.

    Returns:
        Names of the file's tensors that were not used.

    Raises:
        InputError: the file is unusable or does not fit the architecture, or a package of weights
            is not installed.
        BusiSearchError: ImageNet weights cannot be downloaded, or are damaged.
    """
    if weights == "none":
        return []
    if is_timm(architecture):
        state = _timm_state(architecture, weights)
        if state is None:
            return []
        if not _has_own_names(state, model.stages):
            found = build_timm_backbone(architecture, size_pixels, state=state)
            state = torch.nn.ModuleList(found.stages).state_dict(prefix="stages.")
        return load_backbone(model, architecture, state, weights)
    if weights == "imagenet":
        return load_backbone(model, architecture, _imagenet_state(architecture), weights)
    path = user_path(weights)
    return load_backbone(model, architecture, _file_state(path), str(path))


def _timm_state(architecture: str, weights: str) -> dict[str, Tensor] | None:
    """Return pretrained tensors of a timm network by timm's names; None: random weights."""
    if weights == "imagenet":
        return _file_state(fetch_timm_weights(architecture))
    return None if weights in NAMED_WEIGHTS else _file_state(user_path(weights))


def _has_own_names(state: dict[str, Tensor], stages: torch.nn.ModuleList) -> bool:
    """Return whether a file has this package's names; timm's may begin with ``stages.`` too."""
    return stages.state_dict(prefix="stages.").keys() <= state.keys()


def _file_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(
            f"{path}: no such weights file; expected none, phantom, imagenet or the path of a "
            ".safetensors or .pth file."
        )
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        elif path.suffix in (".pth", ".pt"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise InputError(f"{path}: weights must be a .safetensors or .pth file.")
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: not a file of plain tensors ({type(error).__name__}); pickled objects are "
            "refused, save a state_dict or .safetensors instead."
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: expected a state_dict that maps names to tensors.")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_backbone(
    model: ImageClassifier, architecture: str, state: dict[str, Tensor], origin: str
) -> list[str]:
    """Copy a state dict into the stages, translating torchvision's names where needed.

    Args:
        model: the network, changed in place; its head stays as it is.
        architecture: a key of ``ARCHITECTURES``.
        state: tensors by torchvision's names or this package's own.
        origin: where it came from, for messages.

    Returns:
        Names of the tensors that were not used.

    Raises:
        InputError: the tensors do not fit the architecture.
    """
    wanted = model.stages.state_dict(prefix="stages.")
    if not any(key.startswith("stages.") for key in state):
        state = _from_torchvision(architecture, state)
    unused = [key for key in state if key not in wanted]
    misfits = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    missing = [
        key for key in wanted if key not in state and not key.endswith("num_batches_tracked")
    ]
    if missing or misfits:
        raise InputError(
            f"{origin}: the weights do not fit {architecture}: {len(missing)} missing"
            f"{_some(missing)}, {len(misfits)} of another shape{_some(misfits)}, {len(unused)} of "
            f"the file unused{_some(unused)}; name the architecture they were trained with."
        )
    stages = {key.removeprefix("stages."): state[key] for key in wanted if key in state}
    model.stages.load_state_dict(stages, strict=False)
    return unused


def _some(names: list[str], count: int = 4) -> str:
    if not names:
        return ""
    more = f", … {len(names) - count} more" if len(names) > count else ""
    return f" ({', '.join(names[:count])}{more})"


def _from_torchvision(architecture: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published state dict to this package's stages; unknown names stay."""
    entry = ARCHITECTURES[architecture]
    family = FAMILIES[entry.family]
    net = family.make(entry.variant)
    theirs = {id(tensor): key for key, tensor in net.state_dict(keep_vars=True).items()}
    stages = torch.nn.ModuleList(family.split(net)).state_dict(prefix="stages.", keep_vars=True)
    renamed = {theirs[id(tensor)]: key for key, tensor in stages.items() if id(tensor) in theirs}
    children = [name for name, _ in net.named_children()]
    return {
        renamed.get(_plain(family.rename(key), children), key): value
        for key, value in state.items()
    }


def _plain(key: str, children: list[str]) -> str:
    """Undo the prefixes that other projects put before torchvision's names.

    RadImageNet's checkpoints number the children of the network: ``backbone.4.0…`` is
    ``layer1.0…``.
    """
    for prefix in ("backbone.", "encoder.", "model.", "net."):
        rest = key.removeprefix(prefix)
        if rest == key:
            continue
        number, _, tail = rest.partition(".")
        if number.isdigit() and int(number) < len(children):
            return f"{children[int(number)]}.{tail}"
        if rest.split(".")[0] in children:
            return rest
    return key


def _imagenet_state(architecture: str) -> dict[str, Tensor]:
    if architecture in PACKAGED_WEIGHTS:
        return load_packaged_weights(architecture)
    if not has_imagenet_weights(architecture):
        raise InputError(
            f"{architecture} has no ImageNet weights; choose another architecture or "
            "--weights none."
        )
    import torchvision

    variant = ARCHITECTURES[architecture].variant
    entry = torchvision.models.get_model_weights(variant).DEFAULT
    file = weights_folder() / entry.url.rsplit("/", 1)[-1]
    check_hash_in_name(file)
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_SECONDS):
            state: dict[str, Tensor] = entry.get_state_dict(
                progress=os.isatty(2), check_hash=True, map_location="cpu", weights_only=True
            )
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BusiSearchError(
            f"ImageNet weights of {architecture} cannot be loaded ({reason}); put {file.name} into "
            f"{file.parent} yourself, or use --weights phantom or none."
        ) from None
    return state


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
