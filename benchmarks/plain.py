"""The honest peer: what the tutorials of Optuna, PyTorch and MLflow give, put together.

A dataset that opens, converts and resizes every PNG in every epoch, torchvision transforms per
image, a DataLoader with workers, five folds in a loop, a full forward pass with frozen layers under
no_grad, MedianPruner on the running mean of the folds, fluent MLflow logging. It is correct code
that many would write; the other benchmarks compare with it on the same folds, hyperparameters,
epochs and metrics.

    uv run python benchmarks/plain.py --data FOLDER --trials 3 --epochs 2 --size 64
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import models
from torchvision.transforms import v2

from busi_search.data.folds import Fold
from busi_search.training.efficientnet_lite import (
    SCALINGS,
    EfficientNetLite,
    split_efficientnet_lite,
)
from busi_search.training.zoo import build_model

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Settings:
    """What a trial of the plain script is told."""

    architecture: str = "resnet18"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.0
    batch_size: int = 32
    epochs: int = 2
    augmentation_strength: float = 0.5
    freeze_depth: int = 0
    weights: str | None = field(default=None)


class ImageFolder(Dataset[tuple[torch.Tensor, int]]):
    """Images on disk (or arrays), opened anew whenever they are asked for."""

    def __init__(self, items: list[Path | np.ndarray], labels: np.ndarray, transform: v2.Transform):
        self.items, self.labels, self.transform = items, labels, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        item = self.items[index]
        if isinstance(item, Path):
            with Image.open(item) as image:
                picture = image.convert("RGB")
        else:
            picture = Image.fromarray(item).convert("RGB")
        return self.transform(picture), int(self.labels[index])


def make_transform(size: int, strength: float, *, train: bool) -> v2.Transform:
    steps: list[v2.Transform] = [v2.Resize((size, size))]
    if train and strength > 0:
        steps += [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(
                30 * strength,
                translate=(0.15 * strength, 0.15 * strength),
                scale=(1 - 0.2 * strength, 1 + 0.2 * strength),
            ),
            v2.ColorJitter(brightness=0.2 * strength, contrast=0.4 * strength),
        ]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)]
    return v2.Compose(steps)


def resnet_stages(net: models.ResNet) -> list[nn.Module]:
    return [
        nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
        net.layer1,
        net.layer2,
        net.layer3,
        nn.Sequential(net.layer4, net.avgpool, nn.Flatten()),
    ]


class Frozen(nn.Module):
    """A torchvision ResNet, or an EfficientNet-Lite, whose first stages are run under no_grad."""

    def __init__(self, settings: Settings, num_classes: int) -> None:
        super().__init__()
        if settings.architecture in SCALINGS:
            stages, width = lite_stages(settings.architecture), 1280
        else:
            net = getattr(models, settings.architecture)(weights=None)
            if settings.weights is not None:
                net.load_state_dict(torch.load(settings.weights, weights_only=True))
            stages, width = resnet_stages(net), net.fc.in_features
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(width, num_classes))
        self.depth = settings.freeze_depth
        for stage in self.stages[: self.depth]:
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        for stage in self.stages[: self.depth]:
            stage.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for stage in self.stages[: self.depth]:
                x = stage(x)
        for stage in self.stages[self.depth :]:
            x = stage(x)
        return self.head(x)


def lite_stages(variant: str) -> list[nn.Module]:
    """EfficientNet-Lite as its authors' network is cut, with random weights."""
    return split_efficientnet_lite(EfficientNetLite(variant))


class Grey(nn.Module):
    """The same small network as the search's, on the first of three equal channels."""

    def __init__(self, settings: Settings, num_classes: int) -> None:
        super().__init__()
        self.net = build_model(
            settings.architecture, num_classes=num_classes, dropout=settings.dropout
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = IMAGENET[0][0], IMAGENET[1][0]
        return self.net((x[:, :1] * std + mean) * 255)


def make_model(settings: Settings, num_classes: int) -> nn.Module:
    three_channels = settings.architecture.startswith(("resnet", "efficientnet_lite"))
    kind = Frozen if three_channels else Grey
    return kind(settings, num_classes)


def run_folds(
    items: list[Path | np.ndarray],
    labels: np.ndarray,
    folds: list[Fold],
    settings: Settings,
    *,
    size: int,
    num_workers: int = 2,
) -> Iterator[dict[str, float]]:
    """Train and score fold by fold; yields each fold's AUC and accuracy."""
    num_classes = int(labels.max()) + 1
    strength = settings.augmentation_strength
    train_set = ImageFolder(items, labels, make_transform(size, strength, train=True))
    plain_set = ImageFolder(items, labels, make_transform(size, 0.0, train=False))
    for fold in folds:
        options = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
        train = DataLoader(
            Subset(train_set, fold.train.tolist()), settings.batch_size, shuffle=True, **options
        )
        validation = DataLoader(Subset(plain_set, fold.validation.tolist()), 64, **options)
        model = make_model(settings, num_classes)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, settings.epochs * len(train)
        )
        for _ in range(settings.epochs):
            model.train()
            for pixels, truth in train:
                if len(truth) < 2:
                    continue
                optimizer.zero_grad()
                F.cross_entropy(model(pixels), truth).backward()
                optimizer.step()
                schedule.step()
            probabilities, truths = [], []
            model.eval()
            with torch.no_grad():
                for pixels, truth in validation:
                    probabilities.append(torch.softmax(model(pixels), 1).numpy())
                    truths.append(truth.numpy())
        scores, known = np.concatenate(probabilities), np.concatenate(truths)
        if num_classes == 2:
            area = roc_auc_score(known, scores[:, 1])
        else:
            area = roc_auc_score(known, scores, multi_class="ovr", average="macro")
        yield {"auc": float(area), "accuracy": accuracy_score(known, scores.argmax(1))}


def search(
    items: list[Path | np.ndarray],
    labels: np.ndarray,
    folds: list[Fold],
    *,
    size: int,
    epochs: int,
    trials: int,
    home: Path,
    seed: int = 0,
    architectures: tuple[str, ...] = ("small_cnn", "resnet18"),
) -> Iterator[tuple[float, float]]:
    """Search as the tutorials do; yields (seconds so far, best mean AUC of a complete trial)."""
    import mlflow
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{home.resolve()}/mlflow.db")
    mlflow.set_experiment("plain")
    started, best, seen = time.perf_counter(), 0.0, list[tuple[float, float]]()

    def objective(trial: optuna.Trial) -> float:
        settings = Settings(
            architecture=trial.suggest_categorical("architecture", list(architectures)),
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
            dropout=trial.suggest_float("dropout", 0.0, 0.6),
            batch_size=trial.suggest_categorical("batch_size", [16, 32, 64]),
            augmentation_strength=trial.suggest_float("augmentation_strength", 0.0, 1.0),
            epochs=epochs,
        )
        with mlflow.start_run(nested=True):
            mlflow.log_params(trial.params)
            areas: list[float] = []
            for index, scores in enumerate(run_folds(items, labels, folds, settings, size=size)):
                areas.append(scores["auc"])
                mlflow.log_metric("val_auc", scores["auc"], step=index)
                trial.report(float(np.mean(areas)), index)
                if trial.should_prune():
                    raise optuna.TrialPruned
            mlflow.log_metric("cv_auc", float(np.mean(areas)))
        return float(np.mean(areas))

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(),
        storage=f"sqlite:///{home.resolve()}/optuna.db",
    )
    for _ in range(trials):
        study.optimize(objective, n_trials=1)
        last = study.trials[-1]
        if last.state == optuna.trial.TrialState.COMPLETE and last.value is not None:
            best = max(best, last.value)
        seen.append((time.perf_counter() - started, best))
        yield seen[-1]


def main() -> None:
    import tempfile

    from busi_search.data.folds import make_folds
    from busi_search.data.sources import load_dataset
    from busi_search.spec import DatasetSection

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    dataset = load_dataset(DatasetSection(source="busi", path=options.data))
    folds = make_folds(dataset.labels, np.arange(len(dataset)), num_folds=5, seed=0)
    items: list[Path | np.ndarray] = [Path(options.data) / path for path in dataset.paths]
    with tempfile.TemporaryDirectory() as home:
        found = search(
            items, dataset.labels, list(folds), size=options.size, epochs=options.epochs,
            trials=options.trials, home=Path(home),
        )  # fmt: skip
        for index, (seconds, best) in enumerate(found):
            print(f"trial {index}: {seconds:.1f} s, best AUC {best:.4f}", flush=True)


if __name__ == "__main__":
    main()
