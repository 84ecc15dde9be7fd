"""Where a convolutional network looked when it gave an answer: gradient-weighted activations."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from busi_search.release.winner import Winner
from busi_search.report.gallery import images_to_look_at
from busi_search.search.store.study_record import Explanations
from busi_search.training.inputs import place_pixels
from busi_search.training.zoo import ImageClassifier

MAX_CELLS = 14

_Map = npt.NDArray[np.float32]


def grad_cam(model: ImageClassifier, pixels: Tensor, classes: Tensor) -> _Map | None:
    """Return how much each place of an image spoke for a class, at the last convolutional layer.

    Where the head sees several stages, what spoke at each of them is added up.

    Args:
        model: in evaluation mode.
        pixels: (N, K, S, S) float grey levels in [0, 255].
        classes: (N,) the class to explain.

    Returns:
        (N, H, W) in [0, 1], each image's largest value being 1 (or 0 where nothing spoke for the
        class), K regions side by side; None for a network without such a layer, as transformers
        are.

    Source: Selvaraju et al. 2017, "Grad-CAM: visual explanations from deep networks via
    gradient-based localization".
    """
    seen: list[Tensor] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim < 3 or output.shape[-1] == 1:
            return  # pooled
        if output.ndim == 4 and output.shape[1] >= output.shape[-1]:
            seen.append(output)
        else:
            seen.clear()  # tokens, or channels last: what comes next is no image any more

    earlier: list[Tensor] = []

    def note_stage(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        earlier.append(output)

    hooks = [module.register_forward_hook(note) for module in model.stages.modules()]
    if model.readout is not None and not model.maps_channels_last:
        read = list(model.stages)[-model.readout.num_layers : -1]
        hooks += [stage.register_forward_hook(note_stage) for stage in read]
    try:
        with torch.enable_grad():
            logits = model.classify(pixels.clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        return None
    chosen = logits.gather(1, classes[:, None]).sum()
    maps = [*earlier, seen[-1]]
    gradients = torch.autograd.grad(chosen, maps)
    parts = [_weighted(x, slope) for x, slope in zip(maps, gradients, strict=True)]
    heat = parts[-1]
    if len(parts) > 1:
        side = min(parts[0].shape[-1], MAX_CELLS)
        heat = sum((_resized(part, side) for part in parts), torch.zeros(()))
    heat = F.relu(heat).detach()
    if heat.shape[-1] > MAX_CELLS:
        heat = F.adaptive_avg_pool2d(heat, MAX_CELLS)
    if model.num_regions > 1:
        # The regions of an image side by side, and one scale for them.
        by_region = heat[:, 0].reshape(-1, model.num_regions, *heat.shape[2:])
        heat = by_region.transpose(1, 2).flatten(2).unsqueeze(1)
    largest = heat.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    result: _Map = (heat / largest)[:, 0].cpu().numpy()
    return result


def _weighted(x: Tensor, gradients: Tensor) -> Tensor:
    """Map (N, C, H, W) maps and their gradients to (N, 1, H, W): what each place adds."""
    return (gradients.mean(dim=(2, 3), keepdim=True) * x).sum(dim=1, keepdim=True)


def _resized(heat: Tensor, side: int) -> Tensor:
    """Bring a map to another side; its mean over places, times their number, stays the same."""
    places = heat.shape[-1] * heat.shape[-2]
    if heat.shape[-1] >= side:
        return F.adaptive_avg_pool2d(heat, side) * places
    return F.interpolate(heat, (side, side), mode="bilinear", align_corners=False) * places


def explain_images(winner: Winner, models: Sequence[ImageClassifier]) -> Explanations:
    """Return the maps of the development images that the report will show, ready to be stored.

    Each image is explained by the model of the fold that held it out, for the class it called: the
    positive one from the operating point on, else the most probable other one.

    Args:
        winner: the study's winner.
        models: its fold models, in the order of the folds, on the CPU.
    """
    context, positive = winner.context, winner.context.development.positive
    others = winner.cross_fitted.copy()
    others[:, positive] = -1
    answers = np.where(winner.cross_fitted_called, positive, others.argmax(axis=1))
    shown = images_to_look_at(winner).shown
    images = context.images_for(winner.hyperparameters)
    maps: dict[str, list[list[int]]] = {}
    for model, fold in zip(models, context.partition.folds, strict=True):
        indices = shown[np.isin(shown, fold.validation)]
        if not len(indices):
            continue
        pixels = place_pixels(np.array(images[indices]), "cpu").to(torch.float32)
        called = torch.from_numpy(answers[indices])
        heat = grad_cam(model, pixels, called)
        if heat is None:
            break
        for index, rows in zip(indices, heat, strict=True):
            maps[str(int(index))] = np.rint(255 * rows).astype(int).tolist()
    return Explanations(winner.number, maps)


def maps_of(explanations: Explanations | None, trial: int) -> dict[int, npt.NDArray[np.uint8]]:
    """Return what :func:`explain_images` found, by image, if it is of this trial.

    Args:
        explanations: what a study keeps.
        trial: number of the winner.
    """
    if explanations is None or explanations.trial != trial:
        return {}
    return {int(i): np.array(rows, dtype=np.uint8) for i, rows in explanations.maps.items()}
