import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from busi_search.errors import BusiSearchError, InputError
from busi_search.training.weights import check_weights, load_weights
from busi_search.training.zoo import build_model

NAMES = ["resnet18", "mobilenet_v3_small", "resnet50"]


@pytest.mark.parametrize("architecture", NAMES)
def test_a_torchvision_checkpoint_gives_torchvisions_features(
    architecture: str, tmp_path: Path
) -> None:
    original = getattr(torchvision.models, architecture)(num_classes=7).eval()
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in original.state_dict().items()}}, path)
    model = build_model(architecture, num_classes=2, imagenet_normalisation=True).eval()
    unused = load_weights(model, architecture, str(path))
    assert set(unused) == {
        k for k in original.state_dict() if k.startswith(("fc.", "classifier.3"))
    }
    pixels = torch.randint(0, 256, (2, 1, 64, 64)).float()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    head = "fc" if hasattr(original, "fc") else "classifier"
    if head == "fc":
        original.fc = torch.nn.Identity()
    else:
        original.classifier[2], original.classifier[3] = torch.nn.Identity(), torch.nn.Identity()
    with torch.inference_mode():
        expected = original((pixels.expand(-1, 3, -1, -1) / 255 - mean) / std)
        x = ((pixels / 255).expand(-1, 3, -1, -1) - model.mean) / model.std
        for stage in model.stages:
            x = stage(x)
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_own_safetensors_round_trip(tmp_path: Path) -> None:
    source = build_model("small_cnn", num_classes=3)
    path = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in source.state_dict().items()}, path)
    target = build_model("small_cnn", num_classes=2)
    unused = load_weights(target, "small_cnn", str(path))
    assert all(name.startswith("head.") for name in unused)
    for key, value in source.stages.state_dict().items():
        assert torch.equal(target.stages.state_dict()[key], value)


def test_weights_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "r50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    with pytest.raises(InputError, match="do not fit resnet18"):
        load_weights(build_model("resnet18", num_classes=2), "resnet18", str(path))
    with pytest.raises(InputError, match="small_cnn"):
        load_weights(build_model("small_cnn", num_classes=2), "small_cnn", str(path))


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('pickle was run')",))


def test_pickles_and_broken_files_are_refused(tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(_Attack()))
    zipped = tmp_path / "zipped.pth"
    torch.save(_Attack(), zipped)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x00" * 20)
    for path in (evil, zipped, broken, tmp_path / "absent.pth", tmp_path / "a.bin"):
        with pytest.raises(InputError, match=path.name):
            check_weights(str(path), "resnet18")


def test_without_a_network_imagenet_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(BusiSearchError, match=r"resnet18-f37072fd\.pth into .*checkpoints"):
        check_weights("imagenet", "resnet18")
    with pytest.raises(InputError, match="no ImageNet weights"):
        check_weights("imagenet", "small_cnn")
