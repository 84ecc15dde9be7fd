"""Is the lesion's place worth knowing if a network has to find it?

    uv run python -m benchmarks.find_lesion busi Dataset_BUSI_with_GT --classes benign malignant

A network with EfficientNet-Lite 0's ImageNet weights learns the lesion masks of the training images
of every fold and finds the lesion in the others. Then a logistic head on frozen features sees the
whole image and the box (``region = "both"``). Printed for every division into folds: how good the
boxes are, and the AUC without boxes, with people's boxes, with people's boxes in training and found
ones in validation, and with found boxes in both. For the last, the boxes of the training images
are those found when their own fold was held out: those networks learned masks (no labels) of
validation images too.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.geometry import divided, folds_of, without_place
from busi_search.data.geometry import Box, Geometry, bring_to_size, lesion_box
from busi_search.data.image_cache import load_images, load_masks
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import fold_results
from busi_search.spec import Hyperparameters
from busi_search.training.from_hyperparameters import make_model

SIZE, MARGIN = 160, 0.5
FROZEN = Hyperparameters(
    architecture="efficientnet_lite0",
    weights="imagenet",
    image_size_pixels=SIZE,
    freeze_depth=5,
    head="logistic",
    l2_strength=0.3,
    pooling="avgmax",
    feature_layers=4,
    augmentation_strength=0.0,
    region_margin=MARGIN,
)
Pixels = npt.NDArray[np.uint8]


class LesionFinder(nn.Module):
    """A feature pyramid on EfficientNet-Lite 0: (N, 1, S, S) grey levels to (N, 1, S/4, S/4)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.net = make_model(FROZEN, 2, None, "cpu")
        for weight in self.net.parameters():
            weight.requires_grad_(True)
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 1, SIZE, SIZE))
        self.lateral = nn.ModuleList(nn.Conv2d(x.shape[1], width, 1) for x in maps)
        self.out = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 1, 1),
        )

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """What the second to the last stage make, at a quarter to a thirty-second of the side."""
        x, made = self.net.normalise(pixels), []
        for stage in self.net.stages[:-1]:
            x = stage(x)
            made.append(x)
        return [*made[1:], self.net.last_stage().maps(x)]

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self._maps(pixels)
        x = self.lateral[-1](maps[-1])
        for lateral, finer in zip(self.lateral[-2::-1], maps[-2::-1], strict=True):
            x = lateral(finer) + F.interpolate(x, finer.shape[-2:], mode="bilinear")
        return self.out(x)


def moved(pixels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The images and their masks, mirrored, scaled, shifted and with other grey levels."""
    count = len(pixels)
    zoom = torch.empty(count, 2).uniform_(0.75, 1.2)
    zoom[:, 0] *= torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom[:, 0], zoom[:, 1]
    theta[:, :, 2] = torch.empty(count, 2).uniform_(-0.2, 0.2)
    grid = F.affine_grid(theta, [count, 1, SIZE, SIZE], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    masks = F.grid_sample(masks, grid, align_corners=False)
    gamma = torch.empty(count, 1, 1, 1).uniform_(0.7, 1.4)
    return 255 * (pixels / 255).clamp(0, 1) ** gamma, masks


def train(images: Pixels, masks: Pixels, epochs: int, seed: int) -> LesionFinder:
    """Learn the masks (N, S, S) of images (N, S, S)."""
    torch.manual_seed(seed)
    finder, batch = LesionFinder(), 16
    own = [*finder.lateral.parameters(), *finder.out.parameters()]
    rates = [3e-4, 2e-3]
    optimizer = torch.optim.AdamW(
        [{"params": list(finder.net.stages.parameters()), "lr": rates[0]}, {"params": own}],
        lr=rates[1],
        weight_decay=0.01,
    )
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=0.15)
    finder.train()
    for _ in range(epochs):
        order = torch.randperm(len(images)).numpy()
        for first in range(0, len(images) // batch * batch, batch):
            rows = np.sort(order[first : first + batch])
            pixels = torch.from_numpy(images[rows]).float().unsqueeze(1)
            target = torch.from_numpy(masks[rows]).float().unsqueeze(1) / 255
            pixels, target = moved(pixels, target)
            target = F.avg_pool2d(target, 4)
            logits = finder(pixels)
            share = torch.sigmoid(logits)
            both = (share * target).sum((1, 2, 3))
            dice = 1 - (2 * both + 1) / (share.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
            loss = F.binary_cross_entropy_with_logits(logits, target) + dice.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return finder.eval()


@torch.inference_mode()
def find(finder: LesionFinder, images: Pixels) -> list[Box | None]:
    """Return the box around the likeliest lesion of every image (N, S, S)."""
    boxes = []
    for image in images:
        pixels = torch.from_numpy(image[None, None].copy()).float()
        share = torch.sigmoid(finder(torch.cat([pixels, pixels.flip(-1)])))
        mean = F.interpolate((share[:1] + share[1:].flip(-1)) / 2, (SIZE, SIZE), mode="bilinear")
        likely = mean[0, 0].numpy()
        parts, count = ndimage.label(likely > min(0.5, 0.5 * float(likely.max())))
        weights = ndimage.sum_labels(likely, parts, range(1, count + 1))
        boxes.append(lesion_box((parts == 1 + int(np.argmax(weights))).astype(np.uint8)))
    return boxes


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    both = max(width, 0.0) * max(height, 0.0)
    sizes = [(x.right - x.left) * (x.bottom - x.top) for x in (a, b)]
    return both / (sum(sizes) - both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("path")
    parser.add_argument("--classes", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--cache", type=Path, default=Path("mlruns/cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset, groups = divided(options.source, options.path, options.cache, options.classes)
    whole = load_images(dataset, SIZE, options.cache)
    masks = load_masks(dataset, SIZE, options.cache)
    true = list(dataset.lesions())
    names = np.unique(dataset.labels)
    labels = np.searchsorted(names, dataset.labels)
    known = [index for index, box in enumerate(true) if box is not None]
    geometry = Geometry(region="both", margin=MARGIN)

    def views(boxes: list[Box | None]) -> Pixels:
        pairs = zip(dataset.images(), boxes, strict=True)
        return np.stack([bring_to_size(image, SIZE, geometry, box) for image, box in pairs])

    with_true = views(true)
    for seed in options.seeds:
        begun = time.perf_counter()
        folds = folds_of(dataset, groups, seed, redrawn=False)
        found: list[Box | None] = [None] * len(dataset)
        for fold in folds:
            learned = np.intersect1d(fold.train, known)
            finder = train(whole[learned], masks[learned], options.epochs, seed)
            for index, box in zip(fold.validation, find(finder, whole[fold.validation]), strict=True):
                found[int(index)] = box
        overlaps = np.asarray([overlap(true[i], found[i]) for i in known])
        row = {
            "seed": seed,
            "overlap": overlaps.mean(),
            "over half": (overlaps > 0.5).mean(),
            "missed": (overlaps == 0).mean(),
        }
        with_found = views(found)

        def scores(images: Pixels, unaware: Pixels | None, region: str) -> list[float]:
            data = DevelopmentSet(
                images=images,
                labels=labels,
                groups=groups,
                folds=folds,
                num_classes=len(names),
                positive=int(np.searchsorted(names, dataset.positive)),
            )
            wanted = FROZEN.model_copy(update={"region": region})
            results = fold_results(cross_validate(data, wanted, study_seed=seed, trial_number=0))
            if unaware is None:
                return [result.metrics["auc"] for result in results]
            return [without_place(result, data, unaware, wanted) for result in results]

        arms = {
            "whole": scores(np.asarray(whole), None, "image"),
            "people's boxes": scores(with_true, None, "both"),
            "found in validation": scores(with_true, with_found, "both"),
            "found in both": scores(with_found, None, "both"),
        }
        row |= {name: float(np.mean(values)) for name, values in arms.items()}
        row["minutes"] = (time.perf_counter() - begun) / 60
        print(json.dumps({key: round(float(value), 4) for key, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
