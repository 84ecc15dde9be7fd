"""Weights learned from simulated images: a start that has seen no real image of anybody."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from busi_search.data.file_cache import build_once
from busi_search.data.phantom import MALIGNANT, simulate_phantom
from busi_search.data.progress import counted
from busi_search.files import check_free_space
from busi_search.training.augment import AugmentationRanges, augment_batch
from busi_search.training.fit import fit_fold, make_optimizer
from busi_search.training.inputs import PixelInputs, place_pixels
from busi_search.training.losses import LossFunction
from busi_search.training.schedule import Schedule
from busi_search.training.zoo import ImageClassifier, build_model

# What a progress line calls it.
LEARNING = "learning weights"


@dataclass(frozen=True)
class PretrainingRecipe:
    """How a network learns from phantoms; chosen on the study ``breastmnist`` (studies/RESULTS.md).

    Attributes:
        num_images: phantoms simulated; the network learns which are malignant. Told to tell three
            classes apart it learned what helps less on real images (0.901 against 0.914).
        epochs: passes over them.
        batch_size: images per step.
        learning_rate: at its height, after three tenths of the steps.
        weight_decay: of AdamW.
        dropout: before the head, which is thrown away.
        augmentation_strength: scales the ranges of :func:`_ranges`.
        shift: largest, as a share of the side.
        seed: of the images, the weights and the order.
    """

    num_images: int = 6000
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    dropout: float = 0.1
    augmentation_strength: float = 0.6
    shift: float = 0.2
    seed: int = 77


DEFAULT_RECIPE = PretrainingRecipe()


def phantom_weights(
    architecture: str,
    size_pixels: int,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    recipe: PretrainingRecipe | None = None,
) -> dict[str, Tensor]:
    """Return the stages of a network that has learned to tell simulated lesions apart.

    They are learned once per architecture, image size and kind of device, and kept; while one
    process learns them others wait. On one kind of CPU the same weights come out everywhere.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        size_pixels: height and width of the images, 28 to 512.
        device: PyTorch's name of the device.
        folder: where they are kept; None: nowhere, so they are learned again.
        recipe: how (default: ``DEFAULT_RECIPE``).

    Returns:
        Tensors by their names in the network (``stages.0…``).

    Raises:
        InputError: the size is none that phantoms have.
        BusiSearchError: the disk has no room for them.
    """
    recipe = recipe or DEFAULT_RECIPE
    learn = partial(_learn, architecture, size_pixels, device, recipe)
    if folder is None:
        return learn()
    target = phantom_weights_file(folder, architecture, size_pixels, device=device, recipe=recipe)
    return build_once(
        target,
        partial(_read, target),
        lambda path: _write(learn(), path),
        # How large they are is known only when they are learned.
        make_room=lambda folder: check_free_space(folder, 0),
    )


def phantom_weights_file(
    folder: Path,
    architecture: str,
    size_pixels: int,
    *,
    device: str = "cpu",
    recipe: PretrainingRecipe | None = None,
) -> Path:
    """Return where such weights are kept; its name says all that they depend on."""
    kind = torch.device(device).type
    settings = [architecture, size_pixels, kind, asdict(recipe or DEFAULT_RECIPE)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    name = architecture.replace("/", "-")  # timm/NAME is no folder
    return folder / f"phantom-{name}-{size_pixels}px-{digest}.safetensors"


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _write(state: dict[str, Tensor], path: Path) -> None:
    check_free_space(path.parent, sum(t.numel() * t.element_size() for t in state.values()))
    save_file(state, path)


def _learn(
    architecture: str, size_pixels: int, device: str, recipe: PretrainingRecipe
) -> dict[str, Tensor]:
    phantom = simulate_phantom(recipe.num_images, size_pixels=size_pixels, seed=recipe.seed)
    # The caller's random streams go on as if nothing had happened.
    with torch.random.fork_rng(devices=[device] if device != "cpu" else []):
        torch.manual_seed(recipe.seed)
        model = build_model(
            architecture,
            num_classes=2,
            head="linear",
            head_width=0,
            dropout=recipe.dropout,
            normalisation="scratch",
            image_size_pixels=size_pixels,
        ).to(device)
        malignant = (phantom.labels == MALIGNANT).astype(np.int64)
        _fit(model, phantom.images, malignant, device, recipe)
    state = model.stages.state_dict(prefix="stages.")
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}


def _ranges(recipe: PretrainingRecipe) -> AugmentationRanges:
    # Stated in full and not taken from a study's defaults: the name of a kept file tells recipes
    # apart and nothing else, so a default that changes must not change what such a file holds.
    return AugmentationRanges(
        flip_horizontal=0.5,
        flip_vertical=0.0,
        rotation_degrees=30.0,
        shift=recipe.shift,
        zoom=0.2,
        contrast=0.4,
        brightness=0.2,
        autocontrast=0.0,
        gain_slope=0.4,
        speckle=0.0,
        erasing=0.5,
    )


def _fit(
    model: ImageClassifier,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    device: str,
    recipe: PretrainingRecipe,
) -> None:
    ranges = _ranges(recipe)

    def augment(
        pixels: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return augment_batch(pixels, recipe.augmentation_strength, generator, ranges), targets

    epochs = fit_fold(
        model,
        PixelInputs(place_pixels(images, device), augment, device),
        torch.from_numpy(labels).to(device),
        train=np.arange(len(labels)),
        monitor=None,
        optimizer=make_optimizer(
            model,
            "adamw",
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
        ),
        loss_function=LossFunction("cross_entropy"),
        schedule=Schedule("onecycle"),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        freeze_depth=0,
        balanced_sampling=False,
        seed=recipe.seed,
    )
    for _ in counted(epochs, LEARNING, recipe.epochs):
        pass
