"""What a network should see of an image: aspect, region, and masks as an additional task.

    uv run python -m benchmarks.geometry busbra BUSBRA --arms image lesion both --blind > found
    uv run python -m benchmarks.geometry --summarise found

Every arm trains the same configuration on the same folds with the same seeds. Images are divided as
a study would divide them (patients, near-duplicates), by the authors' folds where there are any;
``--redraw-folds`` divides anew for every seed. No image is sealed: only for data whose test is not
needed any more. The first line prints the means over the folds of every arm and seed; the second
each arm's mean and its paired difference from the first arm, with the standard error over the
seeds. ``--blind`` also scores images whole in the place of the lesion, as if nobody knew where it
is.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.duplicates import conflicting_groups
from busi_search.data.folds import Fold, make_folds, named_folds
from busi_search.data.geometry import Geometry
from busi_search.data.groups import find_groups
from busi_search.data.image_cache import load_images, load_masks
from busi_search.data.sources import guess_source, load_dataset
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.seeding import derive_seed
from busi_search.spec import DatasetSection, Hyperparameters
from busi_search.training import metrics
from busi_search.training.fit import predict_log_probabilities
from busi_search.training.from_hyperparameters import make_inputs
from busi_search.training.inputs import place_pixels

# Name of an arm: aspect, region, margin, weight of the masks; `~` scores without knowing the place.
ARMS = {
    "image": {},
    "letterbox": {"aspect": "letterbox"},
    "crop": {"aspect": "crop"},
    "lesion": {"region": "lesion"},
    "lesion-letterbox": {"region": "lesion", "aspect": "letterbox"},
    "both": {"region": "both"},
    "both-letterbox": {"region": "both", "aspect": "letterbox"},
    "masks-0.3": {"mask_weight": 0.3},
    "masks-1": {"mask_weight": 1.0},
    "masks-3": {"mask_weight": 3.0},
}
Array = npt.NDArray[np.float64]


def divided(source: str, path: str, cache: Path, classes: list[str]) -> tuple:
    """The dataset without contradictory images, its groups, and one division per call of folds."""
    dataset = load_dataset(DatasetSection(source=source, path=path))
    grouping = find_groups(dataset, "auto", cache)
    clashing = conflicting_groups(grouping.twins, dataset.labels)
    wanted = [dataset.class_names.index(name) for name in classes or dataset.class_names]
    keep = np.isin(dataset.labels, wanted) & ~np.isin(grouping.twins, clashing)
    sound = np.flatnonzero(keep)
    part = dataset.subset(sound)
    return part, grouping.united[sound]


def folds_of(dataset, groups, seed: int, redrawn: bool) -> list[Fold]:
    if dataset.folds is not None and not redrawn:
        return named_folds(dataset.folds, dataset.labels, groups, paths=dataset.paths, num_folds=5)
    return make_folds(dataset.labels, groups, num_folds=5, seed=derive_seed(seed, -1, -1, "folds"))


def score(
    dataset,
    groups,
    arm: dict[str, object],
    base: dict[str, object],
    seed: int,
    cache: Path,
    blind: bool,
    redrawn: bool,
) -> tuple[list[dict[str, float]], list[float]]:
    """The folds' figures, and their AUC where no lesion's place is known at prediction."""
    hyperparameters = Hyperparameters(**{**base, **arm})
    size = hyperparameters.image_size_pixels
    geometry = Geometry(
        hyperparameters.aspect, hyperparameters.region, hyperparameters.region_margin
    )
    masks = load_masks(dataset, size, cache, geometry) if hyperparameters.mask_weight else None
    labels = dataset.labels
    names = np.unique(labels)
    labels = np.searchsorted(names, labels)
    positive = int(np.searchsorted(names, dataset.positive))
    data = DevelopmentSet(
        images=load_images(dataset, size, cache, geometry),
        labels=labels,
        groups=groups,
        folds=folds_of(dataset, groups, seed, redrawn),
        num_classes=len(names),
        positive=positive,
        masks=masks,
    )
    steps = cross_validate(data, hyperparameters, study_seed=seed, trial_number=0, cache=cache)
    figures, unaware = [], []
    whole = np.array(load_images(dataset, size, cache, Geometry(hyperparameters.aspect)))
    if geometry.region == "both":
        whole = np.stack([whole, whole], axis=1)
    for result in fold_results(steps):
        figures.append(result.metrics)
        if blind and geometry.needs_lesion:
            unaware.append(without_place(result, data, whole, hyperparameters))
    return figures, unaware


def without_place(result: FoldResult, data: DevelopmentSet, whole, hyperparameters) -> float:
    """AUC of a fold whose images are given whole in the lesion's place."""
    assert result.model is not None
    inputs = make_inputs(result.model, place_pixels(whole, "cpu"), hyperparameters, None, "cpu")
    validation = data.folds[result.fold].validation
    rows = predict_log_probabilities(result.model, inputs, validation)
    return metrics.auc(rows, data.labels[validation], positive=data.positive)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?", help="such as busbra, busi, or auto")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--summarise", type=Path, help="a file that the rows were printed to")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=["image", "both"])
    parser.add_argument("--classes", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--cache", type=Path, default=Path("mlruns/cache"))
    parser.add_argument("--set", nargs="*", default=[], dest="settings", help="key=value")
    parser.add_argument("--blind", action="store_true", help="score without the lesion's place too")
    parser.add_argument(
        "--redraw-folds", action="store_true", help="folds by patient, drawn anew for every seed"
    )
    options = parser.parse_args()
    if options.summarise is not None:
        summarise(options.summarise.read_text().splitlines())
        return
    torch.set_num_threads(1)
    source = guess_source(options.path) if options.source == "auto" else options.source
    base = {"epochs": 20, "learning_rate": 3e-3, "image_size_pixels": 64}
    base |= {
        key: json.loads(value) for key, _, value in (s.partition("=") for s in options.settings)
    }
    dataset, groups = divided(source, options.path, options.cache, options.classes)
    print(f"{dataset.name}: {len(dataset)} images, {len(np.unique(groups))} groups", flush=True)
    for seed in options.seeds:
        for name in options.arms:
            started = time.perf_counter()
            figures, unaware = score(
                dataset,
                groups,
                ARMS[name],
                base,
                seed,
                options.cache,
                options.blind,
                options.redraw_folds,
            )
            row: dict[str, object] = {
                key: round(float(np.mean([fold[key] for fold in figures])), 5)
                for key in ("auc", "accuracy", "balanced_accuracy")
            }
            row |= {"arm": name, "seed": seed, "epochs": base["epochs"]}
            row["fold_auc"] = [round(fold["auc"], 5) for fold in figures]
            row["auc_without_place"] = round(float(np.mean(unaware)), 5) if unaware else None
            row["seconds"] = round(time.perf_counter() - started)
            print(json.dumps(row), flush=True)


def summarise(lines: list[str]) -> None:
    """Print the means of what the calls printed, and paired differences from the first arm."""
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    by = {(row["arm"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    for arm in arms:
        common = [s for s in seeds if (arm, s) in by and (arms[0], s) in by]
        for key in ("auc", "accuracy", "auc_without_place"):
            values = [by[arm, s][key] for s in common]
            if not values or values[0] is None:
                continue
            base = [by[arms[0], s]["auc" if key == "auc_without_place" else key] for s in common]
            gaps = np.subtract(values, base)
            error = np.std(gaps, ddof=1) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
            print(
                f"{arm:18s} {key:18s} {np.mean(values):.4f}  difference {np.mean(gaps):+.4f} "
                f"± {error:.4f}  ({len(common)} seeds)"
            )


if __name__ == "__main__":
    main()
