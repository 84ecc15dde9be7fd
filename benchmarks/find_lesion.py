"""Is the lesion's place worth knowing if a network has to find it?

    uv run python -m benchmarks.find_lesion busi Dataset_BUSI_with_GT --classes benign malignant
    uv run python -m benchmarks.find_lesion busbra BUSBRA --elsewhere busi Dataset_BUSI_with_GT

A network with EfficientNet-Lite 0's ImageNet weights learns the lesion masks of the training images
of every fold and finds the lesion in the others. Then a logistic head on frozen features sees the
whole image and the box (``region = "both"``). Printed for every division into folds: how good the
boxes are, and the AUC without boxes, with people's boxes, with people's boxes in training and found
ones in validation, and with found boxes in both. For the last, the boxes of the training images
are those found when their own fold was held out: those networks learned masks (no labels) of
validation images too. ``--elsewhere`` asks the five models, averaged, about another hospital's
benign and malignant images.
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

from benchmarks.geometry import divided, folds_of
from busi_search.data.dataset import ImageDataset
from busi_search.data.folds import Fold
from busi_search.data.geometry import Box, Geometry, bring_to_size, lesion_box
from busi_search.data.image_cache import load_images, load_masks
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.spec import Hyperparameters
from busi_search.training import metrics
from busi_search.training.fit import predict_log_probabilities
from busi_search.training.from_hyperparameters import make_inputs, make_model
from busi_search.training.inputs import place_pixels

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


def views(dataset: ImageDataset, boxes: list[Box | None], aspect: str) -> Pixels:
    """The whole images beside their lesions, (N, 2, S, S)."""
    geometry = Geometry(aspect, "both", MARGIN)
    pairs = zip(dataset.images(), boxes, strict=True)
    return np.stack([bring_to_size(image, SIZE, geometry, box) for image, box in pairs])


def answers(result: FoldResult, images: Pixels, rows: npt.NDArray[np.int64]) -> Pixels:
    """Log-probabilities of a fold's model for rows of images, (N, C)."""
    assert result.model is not None
    region = "both" if images.ndim == 4 else "image"
    seen = FROZEN.model_copy(update={"region": region})
    inputs = make_inputs(result.model, place_pixels(images, "cpu"), seen, None, "cpu")
    return predict_log_probabilities(result.model, inputs, rows)


def average_auc(other: ImageDataset, results: list[FoldResult], images: list[Pixels]) -> float:
    """AUC of the averaged fold models, each with its own form of another dataset's images."""
    rows = np.arange(len(other))
    logs = [answers(r, seen, rows) for r, seen in zip(results, images, strict=True)]
    ill = other.labels == other.positive
    # Both classes lists are "benign, malignant".
    return metrics.auc(np.mean(logs, axis=0), ill.astype(np.int64), positive=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("path")
    parser.add_argument("--classes", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--cache", type=Path, default=Path("mlruns/cache"))
    parser.add_argument("--elsewhere", nargs=2, metavar=("SOURCE", "PATH"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset, groups = divided(options.source, options.path, options.cache, options.classes)
    other = None
    if options.elsewhere is not None:
        other, _ = divided(*options.elsewhere, options.cache, ["benign", "malignant"])
    whole = load_images(dataset, SIZE, options.cache)
    masks = load_masks(dataset, SIZE, options.cache)
    true = list(dataset.lesions())
    names = np.unique(dataset.labels)
    labels = np.searchsorted(names, dataset.labels)
    known = [index for index, box in enumerate(true) if box is not None]

    def results_of(folds: list[Fold], images: Pixels, region: str) -> list[FoldResult]:
        data = DevelopmentSet(
            images=images,
            labels=labels,
            groups=groups,
            folds=folds,
            num_classes=len(names),
            positive=int(np.searchsorted(names, dataset.positive)),
        )
        wanted = FROZEN.model_copy(update={"region": region})
        steps = cross_validate(data, wanted, study_seed=0, trial_number=0)
        return list(fold_results(steps))

    for seed in options.seeds:
        begun = time.perf_counter()
        folds = folds_of(dataset, groups, seed, redrawn=False)
        found: list[Box | None] = [None] * len(dataset)
        there: list[list[Box | None]] = []
        for fold in folds:
            learned = np.intersect1d(fold.train, known)
            finder = train(whole[learned], masks[learned], options.epochs, seed)
            boxes = find(finder, whole[fold.validation])
            for index, box in zip(fold.validation, boxes, strict=True):
                found[int(index)] = box
            if other is not None:
                there.append(find(finder, load_images(other, SIZE, options.cache)))
        overlaps = np.asarray([overlap(true[i], found[i]) for i in known])
        row: dict[str, object] = {
            "seed": seed,
            "overlap": round(float(overlaps.mean()), 3),
            "over half": round(float((overlaps > 0.5).mean()), 3),
            "missed": round(float((overlaps == 0).mean()), 3),
        }

        def auc_of(results: list[FoldResult], images: Pixels | None = None) -> float:
            """Mean AUC of the folds; ``images``: what the networks are asked about instead."""
            if images is None:
                return float(np.mean([result.metrics["auc"] for result in results]))
            values = []
            for result in results:
                rows = folds[result.fold].validation
                logs, truth = answers(result, images, rows), labels[rows]
                values.append(
                    metrics.auc(logs, truth, positive=int(np.argmax(names == dataset.positive)))
                )
            return float(np.mean(values))

        for aspect in ("squash", "crop"):
            with_true, with_found = views(dataset, true, aspect), views(dataset, found, aspect)
            whole_model = results_of(folds, with_true[:, 0], "image")
            model = results_of(folds, with_true, "both")
            found_model = results_of(folds, with_found, "both")
            arms = {
                "whole": auc_of(whole_model),
                "people's": auc_of(model),
                "found in validation": auc_of(model, with_found),
                "found in both": auc_of(found_model),
            }
            if other is not None:
                people = [views(other, list(other.lesions()), aspect)] * len(folds)
                finders = [views(other, boxes, aspect) for boxes in there]
                arms |= {
                    "elsewhere: whole": average_auc(other, whole_model, [p[:, 0] for p in people]),
                    "elsewhere: people's": average_auc(other, model, people),
                    "elsewhere: found in validation": average_auc(other, model, finders),
                    "elsewhere: found in both": average_auc(other, found_model, finders),
                }
            row[aspect] = {name: round(value, 4) for name, value in arms.items()}
        row["minutes"] = round((time.perf_counter() - begun) / 60, 1)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
