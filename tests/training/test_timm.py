import builtins
import hashlib
import importlib
import io
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from busi_search.errors import BusiSearchError, InputError
from busi_search.spec import Hyperparameters
from busi_search.training.fit import make_optimizer
from busi_search.training.freezing import freeze_backbone
from busi_search.training.from_hyperparameters import make_model
from busi_search.training.known_weights import check_all, fetch_weights, list_weights
from busi_search.training.timm_backbones import build_timm_backbone
from busi_search.training.timm_weights import fetch_timm_weights, hub_weights, weights_folder
from busi_search.training.weights import check_weights, load_weights
from busi_search.training.zoo import build_model

# timm's own miniatures, one a family, and families that are built in other ways. All families:
# benchmarks/timm_families.py, whose table stands in docs/reference/pretrained.md.
QUICK = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")
SLOW = (
    "test_byobnet",
    "test_nfnet",
    "edgenext_xx_small",
    "rdnet_tiny",  # names only its single layers, no groups of them
)
FAMILIES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
SIZE = 64


def _pixels(count: int = 4, size: int = SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 1, size, size), generator=generator).float()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_timms_trains_freezes_and_comes_back_equal(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(f"timm/{name}", num_classes=3, image_size_pixels=SIZE).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        model, (torch.zeros(2, 1, SIZE, SIZE),), dynamic_shapes=({0: batch},)
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(_pixels(3)), model(_pixels(3)), atol=1e-4, rtol=1e-4)
    for depth in range(len(model.stages) + 1):
        model.zero_grad(set_to_none=True)
        freeze_backbone(model, depth)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = make_optimizer(model, "sgd", learning_rate=1e-2, weight_decay=0.1)
        F.cross_entropy(model(_pixels()), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        now = model.state_dict()
        moved = [key for key, value in before.items() if not torch.equal(value, now[key])]
        stages = {int(key.split(".")[1]) for key in moved if key.startswith("stages.")}
        assert stages == set(range(depth, len(model.stages))), f"at depth {depth}"


@pytest.mark.parametrize("name", QUICK)
def test_stages_give_what_timms_whole_network_gives(name: str) -> None:
    torch.manual_seed(1)
    found = build_timm_backbone(f"timm/{name}", SIZE)
    torch.manual_seed(1)
    size = {"img_size": SIZE} if name == "test_vit" else {}
    whole = timm.create_model(name, num_classes=0, **size).eval()
    assert 3 <= len(found.stages) <= 5
    assert all(list(stage.parameters()) for stage in found.stages)
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(torch.nn.Sequential(*found.stages).eval()(x), whole(x))
    assert found.num_features == whole(x).shape[1]
    counts = [sum(weight.numel() for weight in part.parameters()) for part in found.stages]
    assert sum(counts) == sum(weight.numel() for weight in whole.parameters())


def test_a_residual_networks_stages_are_its_own() -> None:
    stages = build_timm_backbone("timm/resnet18", SIZE).stages
    reference = timm.create_model("resnet18", num_classes=0)
    parts = [reference.layer1, reference.layer2, reference.layer3, reference.layer4]
    counts = [sum(weight.numel() for weight in part.parameters()) for part in parts]
    assert [sum(w.numel() for w in s.parameters()) for s in stages[1:]] == counts


def test_grey_levels_are_scaled_as_the_weights_expect(tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    settings = Hyperparameters(
        architecture="timm/test_vit", weights=str(path), image_size_pixels=SIZE
    )
    config = timm.models.get_pretrained_cfg("test_vit")
    white = torch.full((1, 1, SIZE, SIZE), 255.0)
    expected = [(1 - m) / s for m, s in zip(config.mean, config.std, strict=True)]
    found = make_model(settings, 2, None, "cpu").normalise(white)[0, :, 0, 0]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_file_with_timms_names_is_loaded_at_another_size(name: str, tmp_path: Path) -> None:
    """The transformer's positions are resized, as timm itself does it; the classifier is left."""
    torch.manual_seed(2)
    original = timm.create_model(name, num_classes=7).eval()
    path = tmp_path / "w.safetensors"
    save_file(original.state_dict(), path)
    model = build_model(f"timm/{name}", num_classes=2, image_size_pixels=SIZE).eval()
    assert load_weights(model, f"timm/{name}", str(path), SIZE) == []
    size = {"img_size": SIZE} if name == "test_vit" else {}
    reference = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 7},
        num_classes=0,
        **size,
    ).eval()
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(model.features(x), reference(x))
    again = tmp_path / "own.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, again)
    other = build_model(f"timm/{name}", num_classes=3, image_size_pixels=SIZE).eval()
    load_weights(other, f"timm/{name}", str(again), SIZE)
    with torch.inference_mode():
        assert torch.equal(model.features(x), other.features(x))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("test_convnext").state_dict(), path)
    with pytest.raises(InputError, match="do not fit timm/test_resnet"):
        check_weights(str(path), "timm/test_resnet", SIZE)
    check_weights(str(path), "timm/test_convnext", SIZE)


def test_names_are_checked_and_the_nearest_is_named() -> None:
    with pytest.raises(InputError, match="no network 'resnet19'; did you mean 'timm/resnet18'"):
        check_weights("none", "timm/resnet19", SIZE)
    with pytest.raises(InputError, match=r"no weights 'a1_in2k' for 'resnet18'; there are: .*a1_"):
        check_weights("none", "timm/resnet18.a1_in2k", SIZE)
    with pytest.raises(ValueError, match=r"expected timm/NAME"):
        Hyperparameters(architecture="timm/../resnet18", image_size_pixels=SIZE)


def test_a_size_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"crossvit.* does not take images of 64 px .*= 240"):
        check_weights("none", "timm/crossvit_tiny_240", SIZE)
    check_weights("none", "timm/crossvit_tiny_240", 240)


def test_without_timm_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, package: str | None = None) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"pip install 'busi-search\[timm\]'"):
        check_weights("none", "timm/resnet18", SIZE)


class _Hub:
    """What a server like the hub states and sends; files lie behind a redirection."""

    def __init__(self) -> None:
        self.content = b""
        self.stated: str | None = None
        self.asked: list[str] = []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Hub]:
    state = _Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, *, send: bool) -> None:
            state.asked.append(f"{self.command} {self.path}")
            if self.path.endswith("/resolve/main/model.safetensors"):
                self.send_response(302)
                if state.stated is not None:
                    self.send_header("X-Linked-ETag", f'"{state.stated}"')
                    self.send_header("X-Linked-Size", str(len(state.content)))
                self.send_header("Location", "/files/1")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(state.content)))
            self.end_headers()
            if send:
                self.wfile.write(state.content)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_port}/")
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield state
        running.shutdown()


def _published(hub: _Hub, folder: Path, name: str = "test_resnet") -> Any:
    torch.manual_seed(3)
    original = timm.create_model(name).eval()
    path = folder / "published.safetensors"
    save_file(original.state_dict(), path)
    hub.content = path.read_bytes()
    hub.stated = hashlib.sha256(hub.content).hexdigest()
    return original


def test_weights_are_fetched_once_checked_and_carried_elsewhere(
    hub: _Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _published(hub, tmp_path)
    row = fetch_weights("timm/test_resnet")
    assert row.sha256 is not None
    assert hub.stated is not None
    assert hub.stated.startswith(row.sha256)
    assert hub.asked[0].startswith(f"HEAD /{hub_weights('timm/test_resnet').hub_id}/resolve/main/")
    asked = len(hub.asked)
    # Carried to another machine, which cannot reach the hub.
    (tmp_path / "torch").rename(tmp_path / "carried")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "carried"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model = build_model("timm/test_resnet", num_classes=2, image_size_pixels=SIZE).eval()
    load_weights(model, "timm/test_resnet", "imagenet", SIZE)
    original.reset_classifier(0)
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(model.features(x), original(x))
    assert len(hub.asked) == asked
    states = {row.architecture: row.state for row in list_weights(["timm/test_resnet", "resnet18"])}
    assert states == {"timm/test_resnet": "at hand", "resnet18": "absent"}
    (found,) = [row for row in check_all() if row.source == "timm"]
    assert found.problem is None
    file = Path(found.path or "")
    file.write_bytes(file.read_bytes()[:-10])
    (found,) = [row for row in check_all() if row.source == "timm"]
    assert found.state == "damaged"
    with pytest.raises(BusiSearchError, match="damaged"):
        check_weights("imagenet", "timm/test_resnet", SIZE)


def test_what_is_not_as_stated_is_not_kept(hub: _Hub, tmp_path: Path) -> None:
    _published(hub, tmp_path)
    stated = hub.stated
    hub.stated = "0" * 64
    with pytest.raises(BusiSearchError, match=r"stated \d+ bytes with 00000000"):
        fetch_timm_weights("timm/test_resnet")
    hub.stated = None
    with pytest.raises(BusiSearchError, match="states no SHA-256"):
        fetch_timm_weights("timm/test_resnet")
    assert os.listdir(weights_folder()) == []
    hub.stated = stated
    assert fetch_timm_weights("timm/test_resnet").is_file()


def test_without_a_network_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BusiSearchError, match=r"weights fetch timm/resnet18.*copy the file to"):
        check_weights("imagenet", "timm/resnet18", SIZE)
    with pytest.raises(InputError, match="no pretrained weights on timm's hub"):
        check_weights("imagenet", "timm/botnet50ts_256", SIZE)


def test_non_commercial_licences_are_told() -> None:
    (row,) = list_weights(["timm/convnextv2_atto"])
    assert row.license == "cc-by-nc-4.0"
    assert row.non_commercial
    (row,) = list_weights(["timm/resnet18"])
    assert not row.non_commercial


def test_own_names_do_not_import_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra, and takes seconds."""
    real = builtins.__import__

    def watched(name: str, *rest: Any, **settings: Any) -> Any:
        assert name.partition(".")[0] != "timm"
        return real(name, *rest, **settings)

    monkeypatch.setattr(builtins, "__import__", watched)
    monkeypatch.setattr(importlib, "import_module", pytest.fail)
    Hyperparameters(architecture="timm/resnet18", image_size_pixels=SIZE)
    check_weights("imagenet", "efficientnet_lite0", SIZE)
    build_model("small_cnn", num_classes=2)
