import hashlib
import pickle
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from busi_search.architectures import ARCHITECTURES
from busi_search.errors import BusiSearchError, InputError
from busi_search.training.packaged_weights import PACKAGED_WEIGHTS
from busi_search.training.weights import check_weights, load_weights
from busi_search.training.zoo import build_model

NAMES = [
    name for name, entry in ARCHITECTURES.items() if entry.imagenet and name not in PACKAGED_WEIGHTS
]


def _without_classifier(net: Any) -> Any:
    """Replace the last linear layer of a torchvision network."""
    if hasattr(net, "fc"):
        net.fc = torch.nn.Identity()
    elif hasattr(net, "heads"):
        net.heads = torch.nn.Identity()
    elif hasattr(net, "head"):
        net.head = torch.nn.Identity()
    elif isinstance(net.classifier, torch.nn.Linear):
        net.classifier = torch.nn.Identity()
    else:
        net.classifier[-1] = torch.nn.Identity()
    return net.eval()


@pytest.mark.parametrize("architecture", NAMES)
def test_a_torchvision_checkpoint_gives_torchvisions_features(
    architecture: str, tmp_path: Path
) -> None:
    original = getattr(torchvision.models, architecture)(num_classes=7)
    state = original.state_dict()
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    model = build_model(architecture, num_classes=2, normalisation="imagenet").eval()
    unused = load_weights(model, architecture, str(path))
    assert len(unused) == 2
    assert all(state[name].shape[0] == 7 for name in unused)
    # torchvision's vision transformer takes one size only.
    size = 224 if architecture == "vit_b_16" else 64
    pixels = torch.randint(0, 256, (2, 1, size, size)).float()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.inference_mode():
        whole = _without_classifier(original)
        expected = whole((pixels.expand(-1, 3, -1, -1) / 255 - mean) / std)
        found = model.features(model.normalise(pixels))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["resnet50", "densenet121"])
def test_radimagenets_numbered_names_are_understood(architecture: str, tmp_path: Path) -> None:
    """RadImageNet stores the children of the network in a list called backbone."""
    original = getattr(torchvision.models, architecture)()
    children = list(original.children())[:-1]
    wrapped = torch.nn.ModuleDict({"backbone": torch.nn.Sequential(*children)})
    path = tmp_path / "RadImageNet.pt"
    torch.save(wrapped.state_dict(), path)
    model = build_model(architecture, num_classes=2)
    assert load_weights(model, architecture, str(path)) == []
    first = original.features[0] if architecture == "densenet121" else original.conv1
    assert torch.equal(model.stages[0][0].weight, first.weight)


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def test_imagenet_weights_are_downloaded_checked_and_kept(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    draft = folder / "draft.pth"
    original = torchvision.models.resnet18()
    torch.save(original.state_dict(), draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    file = draft.rename(folder / f"resnet18-{digest[:8]}.pth")
    entry = torchvision.models.ResNet18_Weights.DEFAULT.value
    published = entry.url
    try:
        object.__setattr__(entry, "url", f"{address}/{file.name}")
        model = build_model("resnet18", num_classes=3)
        assert load_weights(model, "resnet18", "imagenet") == ["fc.weight", "fc.bias"]
        assert torch.equal(model.stages[0][0].weight, original.conv1.weight)
        cached = tmp_path / "torch" / "hub" / "checkpoints" / file.name
        file.unlink()
        load_weights(model, "resnet18", "imagenet")  # now from the cache
        cached.write_bytes(cached.read_bytes()[:-100])
        with pytest.raises(BusiSearchError, match="damaged"):
            check_weights("imagenet", "resnet18")
        cached.unlink()
        object.__setattr__(entry, "url", f"{address}/resnet18-00000000.pth")
        (folder / "resnet18-00000000.pth").write_bytes(b"not what it says")
        with pytest.raises(BusiSearchError, match="invalid hash"):
            check_weights("imagenet", "resnet18")
    finally:
        object.__setattr__(entry, "url", published)
