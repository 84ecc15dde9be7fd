"""Lesion masks as an auxiliary task."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from busi_search.data.image_cache import load_masks
from busi_search.data.phantom import simulate_phantom, write_phantom
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.run import run_study
from busi_search.search.prepare import prepare_study
from busi_search.search.store.open import find_study
from busi_search.seeding import seed_everything
from busi_search.spec import Hyperparameters
from busi_search.training.augment import augment_batch
from busi_search.training.fit import fit_fold, make_optimizer
from busi_search.training.from_hyperparameters import augmentation_ranges
from busi_search.training.inputs import MaskedInputs
from busi_search.training.losses import LossFunction
from busi_search.training.schedule import Schedule
from busi_search.training.zoo import build_model
from tests.conftest import TINY
from tests.data.layouts import read


def test_masks_are_found_joined_and_shrunk(busi_folder: Path, tmp_path: Path) -> None:
    benign = busi_folder / "Dataset_BUSI_with_GT" / "benign"
    left, right = np.zeros((2, 48, 48), dtype=np.uint8)
    left[:, :24], right[:24, 24:] = 255, 255
    Image.fromarray(left).save(benign / "benign (1)_mask.png")
    Image.fromarray(right).save(benign / "benign (1)_mask_1.png")
    (benign / "benign (2)_mask.png").unlink()
    dataset = read(busi_folder)
    masks = load_masks(dataset, 16, tmp_path)
    assert masks is not None
    assert masks.shape == (len(dataset), 16, 16)
    first, second = (dataset.paths.index(f"benign/benign ({n}).png") for n in (1, 2))
    assert (masks[first][:, :7] == 255).all()
    assert (masks[first][:7, 9:] == 255).all()
    assert (masks[first][9:, 9:] == 0).all()
    assert not masks[second].any()
    before = dataset.masks_digest
    Image.fromarray(right).save(benign / "benign (3)_mask.png")
    assert read(busi_folder).masks_digest != before
    changed = load_masks(read(busi_folder), 16, tmp_path)
    assert changed is not None
    assert changed[dataset.paths.index("benign/benign (3).png")].any()


def test_a_mask_moves_with_its_image_and_keeps_its_values() -> None:
    """A mask that equals its image still does after every move; grey levels alone change."""
    base = torch.zeros(64, 1, 32, 32)
    base[:, :, 8:20, 6:18] = 255
    both = torch.cat([base, base], dim=1)
    generator = torch.Generator().manual_seed(0)
    out = augment_batch(both, 1.0, generator, augmentation_ranges(Hyperparameters()))
    assert out.shape == (64, 2, 32, 32)
    mask = out[:, 1]
    assert set(mask.round().unique().tolist()) >= {0.0, 255.0}
    # Where the mask says lesion the image is brighter than elsewhere, move or not.
    for image, lesion in zip(out[:, 0], mask > 127, strict=True):
        assert image[lesion].mean() > image[~lesion].mean()
    assert (out[:, 0] - mask).abs().mean() > 5


def test_the_auxiliary_loss_teaches_where_the_lesion_is() -> None:
    phantom = simulate_phantom(60, size_pixels=32, seed=0)
    images = torch.from_numpy(phantom.images).unsqueeze(1)
    masks = torch.from_numpy(phantom.masks.astype(np.uint8) * 255).unsqueeze(1)
    labels = torch.from_numpy(phantom.labels.astype(np.int64))

    def agreement(weight: float) -> float:
        seed_everything(0)
        model = build_model("small_cnn", num_classes=3)
        model.add_mask_head(32)
        inputs = MaskedInputs(images, masks, lambda x, y, _: (x, y), weight, "cpu")
        for _ in fit_fold(
            model, inputs, labels, train=np.arange(60), monitor=None,
            optimizer=make_optimizer(model, "adam", learning_rate=5e-3, weight_decay=0),
            loss_function=LossFunction("cross_entropy"), schedule=Schedule("none"), epochs=15,
            batch_size=15, freeze_depth=0, balanced_sampling=False, seed=0,
        ):  # fmt: skip
            pass
        with torch.inference_mode():
            _, found = model.eval().classify_and_segment(images.float())
        share = torch.nn.functional.adaptive_avg_pool2d(masks / 255, found.shape[-2:])
        pairs = torch.stack([found.flatten(), share.flatten()])
        return float(torch.corrcoef(pairs)[0, 1])

    assert agreement(5.0) > 0.5
    assert agreement(5.0) > agreement(1e-6) + 0.2


def test_masks_need_a_map_of_features() -> None:
    with pytest.raises(InputError, match="convolutional"):
        build_model("vit_b_16", num_classes=2).add_mask_head(32)


def test_a_study_with_masks_from_search_to_model(home: Home) -> None:
    result = run_study(
        "quickstart", trials=2, home=home.root, inline=True, device="cpu",
        overrides=(*TINY, "epochs=1", "mask_weight=2.0", "recipes=[]"),
    )  # fmt: skip
    assert result.release is not None
    assert result.release.rebuilt_difference == 0
    trials = find_study(home, "quickstart-phantom").get_trials()
    assert all(t.user_attrs["hyperparameters"]["mask_weight"] == 2.0 for t in trials)


def test_a_study_without_masks_cannot_ask_for_them(tmp_path: Path, home: Home) -> None:
    write_phantom(tmp_path, simulate_phantom(45, size_pixels=32, seed=0))
    for path in tmp_path.rglob("*_mask.png"):
        path.unlink()
    for override in ("mask_weight=1.0", "mask_weight={low=0.0,high=2.0}"):
        with pytest.raises(InputError, match="mask_weight = 0"):
            prepare_study(
                "busi", data=str(tmp_path), home=home, weights="none", overrides=(override,)
            )
