"""What this program does on a GPU, measured in at most eight minutes, cheapest first.

Needs Python, PyTorch and torchvision and no network: ``benchmarks/gpu_pack.py`` packs the rest.

    python gpu.py --to results.json               # on a GPU
    python benchmarks/gpu.py --dry --to dry.json  # tiny, on the CPU: does the kit itself work?

Stages (``--only e,j`` runs some): (a) CPU and GPU agree in float32; (b) bfloat16 and channels_last
against float32, AUC over five seeds; (c) images a second against a bare step loop; (d)
torch.compile and CUDA graphs over a whole study; (e) 1, 2, 4 and 8 trials at once; (f) memory runs
out for real; (g) a worker is killed and its trial resumed; (h) augmentation on the device; (i) a
training repeated, deterministic or not; (j) a study of phantoms at 224 px. The file is written anew
after every stage; what failed stands there too, and the next stage goes on. No figure of a dry run
says anything.
"""

import argparse
import json
import os
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def unpack_carried() -> None:
    """Make what was packed beside this file importable, here and in processes started here."""
    wheels = sorted((HERE / "wheels").glob("*.whl"))
    site = HERE / "site"
    if wheels and not site.exists():
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
    # From the repository, or from the folder that was unpacked; what the machine has goes first.
    found = [str(HERE if (HERE / "busi_search").exists() else HERE.parent)]
    sys.path[:0] = found
    if site.exists():
        sys.path.append(str(site))
        found.append(str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join([*found, os.environ.get("PYTHONPATH", "")])


unpack_carried()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from busi_search.data.folds import make_folds  # noqa: E402
from busi_search.data.phantom import simulate_phantom  # noqa: E402
from busi_search.search.cross_validation import DevelopmentSet, cross_validate  # noqa: E402
from busi_search.search.fold_result import FoldResult, fold_results  # noqa: E402
from busi_search.spec import Hyperparameters  # noqa: E402
from busi_search.training import gradients  # noqa: E402
from busi_search.training.augment import augment_batch  # noqa: E402
from busi_search.training.cpu_setup import train_on_one_core  # noqa: E402
from busi_search.training.determinism import train_deterministically  # noqa: E402
from busi_search.training.fit import make_optimizer  # noqa: E402
from busi_search.training.from_hyperparameters import augmentation_ranges  # noqa: E402
from busi_search.training.losses import LossFunction  # noqa: E402
from busi_search.training.metrics import softmax  # noqa: E402
from busi_search.training.zoo import build_model  # noqa: E402


@dataclass(frozen=True)
class Size:
    """How much is done: on a GPU, or to see that the kit works."""

    num_images: int = 400
    small: int = 64
    large: int = 224
    epochs: int = 3
    seeds: int = 5
    steps: int = 40
    networks: tuple[str, ...] = ("efficientnet_lite0", "resnet18", "resnet50", "convnext_tiny")
    at_once: tuple[int, ...] = (1, 2, 4, 8)
    batch: int = 32
    study_images: int = 780
    study_epochs: int = 20
    study_folds: int = 5
    study_trials: int = 100


DRY = Size(40, 28, 32, 1, 2, 2, ("small_cnn",), (1, 2), 8, 100, 1, 2, 3)


@dataclass(frozen=True)
class Kit:
    """Where and how much: ``device`` as PyTorch names it, ``seconds`` that are left for a stage."""

    device: str
    size: Size
    seconds: Callable[[], float]


def material(num_images: int, size_pixels: int) -> DevelopmentSet:
    """Return phantoms as a development set of three folds."""
    phantom = simulate_phantom(num_images, size_pixels=min(size_pixels, 128), seed=0)
    pixels = torch.from_numpy(phantom.images).unsqueeze(1).float()
    large = F.interpolate(pixels, size=(size_pixels, size_pixels), mode="bilinear")
    images = large.squeeze(1).round().to(torch.uint8).numpy()
    labels = np.asarray(phantom.labels, dtype=np.int64)
    folds = list(make_folds(labels, phantom.groups, num_folds=3, seed=0))
    return DevelopmentSet(images, labels, phantom.groups, folds, num_classes=3, positive=1)


def configuration(size: int, architecture: str = "small_cnn", **more: Any) -> Hyperparameters:
    return Hyperparameters(architecture=architecture, image_size_pixels=size, **more)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def train(
    data: DevelopmentSet, chosen: Hyperparameters, device: str, *, seed: int = 0, folds: int = 1
) -> tuple[list[FoldResult], float]:
    """Return the first folds' results and the seconds they took."""
    synchronize(device)
    started, found = time.perf_counter(), []
    steps = cross_validate(data, chosen, study_seed=seed, trial_number=0, device=device)
    for result in fold_results(steps):
        found.append(result)
        if len(found) == folds:
            break
    synchronize(device)
    return found, time.perf_counter() - started


@contextmanager
def float32() -> Iterator[None]:
    """Train in float32, without TF32."""
    before = torch.cuda.is_bf16_supported
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.cuda.is_bf16_supported = lambda *_, **__: False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.cuda.is_bf16_supported = before
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def difference(one: list[FoldResult], other: list[FoldResult]) -> float:
    """Largest difference of a probability."""
    pairs = zip(one, other, strict=True)
    return max(
        float(np.abs(softmax(a.log_probabilities) - softmax(b.log_probabilities)).max())
        for a, b in pairs
    )


def equality(kit: Kit) -> dict[str, Any]:
    """(a) One epoch of one fold, float32, on the CPU and on the device; tolerance 0.01."""
    data = material(kit.size.num_images, kit.size.small)
    chosen = configuration(kit.size.small, epochs=1)
    with float32():
        found = difference(train(data, chosen, "cpu")[0], train(data, chosen, kit.device)[0])
    return {"max_difference": found, "within": found <= 0.01}


def half_precision(kit: Kit) -> dict[str, Any]:
    """(b) AUC over seeds, in bfloat16 with channels_last against float32."""
    data = material(kit.size.num_images, kit.size.small)
    chosen = configuration(kit.size.small, epochs=4 * kit.size.epochs)
    rows: dict[str, list[float]] = {"bf16": [], "float32": []}
    for seed in range(kit.size.seeds):
        (half,), _ = train(data, chosen, kit.device, seed=seed)
        with float32():
            (whole,), _ = train(data, chosen, kit.device, seed=seed)
        rows["bf16"].append(half.metrics["auc"])
        rows["float32"].append(whole.metrics["auc"])
    gap = np.subtract(rows["bf16"], rows["float32"])
    error = float(gap.std(ddof=1) / np.sqrt(len(gap)))
    return {**rows, "mean_difference": float(gap.mean()), "standard_error": error}


def bare_rate(kit: Kit, data: DevelopmentSet, architecture: str, wrap: Any = None) -> float:
    """Images a second of a bare step loop on floats that lie on the device."""
    model = build_model(architecture, num_classes=3).to(kit.device).train()
    classify = model if wrap is None else wrap(model)
    pixels = torch.from_numpy(data.images).unsqueeze(1).float().to(kit.device)
    labels = torch.from_numpy(data.labels).to(kit.device)
    optimizer = make_optimizer(model, "adamw", learning_rate=1e-3, weight_decay=0.01)
    half = kit.device != "cpu"

    def step(index: int) -> None:
        first = index * kit.size.batch % max(1, len(pixels) - kit.size.batch)
        batch = slice(first, first + kit.size.batch)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(kit.device).type, torch.bfloat16, enabled=half):
            logits = classify(pixels[batch])
        F.cross_entropy(logits.float(), labels[batch]).backward()
        optimizer.step()

    for index in range(3):
        step(index)
    synchronize(kit.device)
    started = time.perf_counter()
    for index in range(kit.size.steps):
        step(index)
    synchronize(kit.device)
    return kit.size.steps * kit.size.batch / (time.perf_counter() - started)


def throughput(kit: Kit) -> dict[str, Any]:
    """(c) Images a second of cross_validate against the bare loop; goal 0.9 of it."""
    rows = {}
    for architecture, side in [
        *((name, kit.size.large) for name in kit.size.networks), ("small_cnn", kit.size.small)
    ]:  # fmt: skip
        if kit.seconds() < 5:
            break
        data = material(kit.size.num_images, side)
        bare = bare_rate(kit, data, architecture)
        row: dict[str, Any] = {"bare": bare}
        for strength in (0.0, 0.5):
            chosen = configuration(
                side, architecture, epochs=kit.size.epochs, batch_size=kit.size.batch,
                augmentation_strength=strength,
            )  # fmt: skip
            train(data, configuration(side, architecture, epochs=1), kit.device)
            (result,), seconds = train(data, chosen, kit.device)
            row[f"ours_augmentation_{strength}"] = result.image_passes / seconds
            row[f"of_bare_{strength}"] = result.image_passes / seconds / bare
        rows[f"{architecture} {side} px"] = row
    return rows


def compiled(kit: Kit) -> dict[str, Any]:
    """(d) Images a second with torch.compile and CUDA graphs, and when compiling has paid."""
    architecture, side = kit.size.networks[0], kit.size.large
    data = material(kit.size.num_images, side)
    plain = bare_rate(kit, data, architecture)
    found: dict[str, Any] = {"plain": plain}
    modes: dict[str, dict[str, str]] = {"compile": {}, "cuda_graphs": {"mode": "reduce-overhead"}}
    if kit.device == "cpu":
        modes = {name: {"backend": "eager"} for name in modes}
    for name, words in modes.items():
        started = time.perf_counter()
        rate = bare_rate(kit, data, architecture, lambda m, w=words: torch.compile(m, **w))
        steps = (kit.size.steps + 3) * kit.size.batch
        spent = max(0.0, time.perf_counter() - started - steps / rate)
        saved = 1 / plain - 1 / rate
        found[name] = {
            "images_a_second": rate,
            "compile_seconds": spent,
            # One process compiles once for each network, size and batch size.
            "paid_after_images": spent / saved if saved > 0 else None,
        }
    return found


def _one_of_several(kit_device: str, size: Size, barrier: Any) -> tuple[float, float]:
    train_on_one_core()
    data = material(size.num_images, size.large)
    chosen = configuration(size.large, size.networks[0], epochs=size.epochs)
    train(data, configuration(size.large, size.networks[0], epochs=1), kit_device)
    barrier.wait(timeout=120)
    _, seconds = train(data, chosen, kit_device)
    most = 0 if kit_device == "cpu" else torch.cuda.max_memory_reserved()
    return seconds, most / 2**30


def at_once(kit: Kit) -> dict[str, Any]:
    """(e) Folds an hour with several processes on one card, and the memory that each holds."""
    rows = {}
    for number in kit.size.at_once:
        if kit.seconds() < 15:
            break
        context = get_context("spawn")
        with context.Manager() as manager, context.Pool(number) as pool:
            barrier = manager.Barrier(number)
            words = [(kit.device, kit.size, barrier)] * number
            found = pool.starmap(_one_of_several, words, chunksize=1)
        slowest = max(seconds for seconds, _ in found)
        rows[str(number)] = {
            "folds_an_hour": number * 3600 / slowest,
            "gib_each": max(memory for _, memory in found),
        }
    best = max(rows, key=lambda number: rows[number]["folds_an_hour"]) if rows else None
    return {"rows": rows, "best": best}


def out_of_memory(kit: Kit) -> dict[str, Any]:
    """(f) A batch that does not fit is taken in halves, with the same gradients."""
    batch, side = 4 * kit.size.batch, kit.size.large
    torch.manual_seed(0)
    # Batch norm sees one piece at a time: what is compared is a network without it.
    architecture = "convnext_tiny" if kit.device != "cpu" else "small_cnn"
    model = build_model(architecture, num_classes=3).to(kit.device).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pixels = torch.rand(batch, 1, side, side, device=kit.device) * 255
    targets = F.one_hot(torch.arange(batch) % 3, 3).float().to(kit.device)
    loss = LossFunction("cross_entropy")
    limit = batch // 4

    def limited(some: torch.Tensor) -> tuple[torch.Tensor, None]:
        # A CPU has no memory limit to set: there the error is raised.
        if kit.device == "cpu" and len(some) > limit:
            raise torch.OutOfMemoryError("dry")
        return model(some), None

    def whole(some: torch.Tensor) -> tuple[torch.Tensor, None]:
        return model(some), None

    def gradient(classify: Any) -> tuple[torch.Tensor, int]:
        _, size = gradients.accumulate_gradients(classify, optimizer, loss, pixels, targets, batch)
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), size

    wanted, _ = gradient(whole)
    wanted = wanted.cpu()
    if kit.device != "cpu":
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
        total = torch.cuda.get_device_properties(0).total_memory
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.set_per_process_memory_fraction((held + (peak - held) / 2) / total)
    try:
        found, pieces = gradient(limited)
    finally:
        if kit.device != "cpu":
            torch.cuda.set_per_process_memory_fraction(1.0)
    gap = float((found.cpu() - wanted).norm() / wanted.norm())
    return {"batch": batch, "piece_that_fitted": pieces, "relative_gradient_difference": gap}


def study_context(kit: Kit, home: Path, *, name: str, trials: int, large: bool) -> Any:
    from busi_search.home import open_home
    from busi_search.search.prepare import prepare_study

    side = kit.size.large if large else kit.size.small
    network = kit.size.networks[0] if large else "small_cnn"
    images = kit.size.study_images if large else max(100, kit.size.num_images)
    overrides = (
        f"phantom_num_images={images}", f"image_size_pixels={side}", "recipes=[]",
        f"space.architecture=['{network}']", f"epochs={kit.size.study_epochs}",
        f"num_folds={kit.size.study_folds}", "startup_trials=10",
    )  # fmt: skip
    return prepare_study(
        "quickstart", home=open_home(home), name=name, overrides=overrides, device=kit.device
    )


class NoTracker:
    """Stands where MLflow would: it is not carried."""

    problem = None

    def start(self, *_: Any) -> None: ...

    def mark(self, *_: Any, **__: Any) -> None: ...

    def log_trials(self, *_: Any, **__: Any) -> None: ...

    def num_unsent(self, *_: Any) -> int:
        return 0


def _search(
    context: Any, *, trials: int, workers: int, seconds: float, each: Callable[[Any, Any], None]
) -> Any:
    from busi_search.search.driver import run_search
    from busi_search.search.places import local_processes

    executor, last = local_processes(context.device), None
    for last in run_search(
        context, executor, NoTracker(), num_trials=trials, num_workers=workers,  # type: ignore[arg-type]
        timeout_seconds=max(1.0, seconds),
    ):  # fmt: skip
        each(executor, last)
    return last


def killed(kit: Kit) -> dict[str, Any]:
    """(g) The only worker is killed on the device; its trial goes on, and no trial is missing."""
    import tempfile
    from unittest.mock import patch

    from busi_search.search import driver
    from busi_search.search.store.fold_records import stored_folds
    from busi_search.search.store.open import find_study

    trials, folds = 4, kit.size.study_folds
    interrupted: dict[int, dict[int, FoldResult]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        context = study_context(kit, Path(folder), name="killed", trials=trials, large=False)

        def kill(_: Any, progress: Any) -> None:
            running = [trial for trial in progress.trials if trial.state.name == "RUNNING"]
            if interrupted or not running or progress.folds_trained < 1:
                return
            if kill_a_worker():
                interrupted[running[0].number] = stored_folds(running[0], folds)

        # A tiny trial is over within the usual half second between two looks.
        with patch.object(driver, "POLL_SECONDS", 0.02):
            last = _search(context, trials=trials, workers=1, seconds=kit.seconds(), each=kill)
        ended = find_study(context.home, "killed").get_trials(deepcopy=False)
    kept = all(
        np.array_equal(
            fold.log_probabilities, stored_folds(ended[number], folds)[index].log_probabilities
        )
        for number, before in interrupted.items()
        for index, fold in before.items()
    )
    return {"killed": len(interrupted), "in_trial": next(iter(interrupted), None),
            "folds_it_had": sum(map(len, interrupted.values())), "folds_kept": kept,
            "finished": last.finished, "wanted": trials, "failed": last.failed}  # fmt: skip


def kill_a_worker() -> bool:
    """Kill a worker process and return whether there was one."""
    import multiprocessing

    for child in multiprocessing.active_children():
        if child.name.startswith(("Spawn", "ForkServer")):
            child.kill()
            return True
    return False


def augmentation(kit: Kit) -> dict[str, Any]:
    """(h) Milliseconds of one augmented batch on the device and on the CPU."""
    found = {}
    for device in dict.fromkeys((kit.device, "cpu")):
        pixels = torch.rand(kit.size.batch, 1, kit.size.large, kit.size.large, device=device) * 255
        generator = torch.Generator().manual_seed(0)
        repeats = 20 if device != "cpu" else 3
        ranges = augmentation_ranges(configuration(kit.size.large))
        augment_batch(pixels, 0.5, generator, ranges)
        synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            augment_batch(pixels, 0.5, generator, ranges)
        synchronize(device)
        found[f"{device}_milliseconds"] = 1000 * (time.perf_counter() - started) / repeats
    return found


def repeated(kit: Kit) -> dict[str, Any]:
    """(i) A fold trained twice: how far apart, and what determinism costs."""
    data = material(kit.size.num_images, kit.size.large)
    architecture = kit.size.networks[min(1, len(kit.size.networks) - 1)]
    chosen = configuration(kit.size.large, architecture, epochs=2 * kit.size.epochs)
    rows: dict[str, Any] = {}
    for wanted in (False, True):
        train_deterministically(kit.device, wanted=wanted)
        train(data, configuration(kit.size.large, architecture, epochs=1), kit.device)
        runs = [train(data, chosen, kit.device) for _ in range(2)]
        rows["deterministic" if wanted else "free"] = {
            "max_difference": difference(runs[0][0], runs[1][0]),
            "seconds": min(seconds for _, seconds in runs),
        }
    train_deterministically(kit.device, wanted=False)
    rows["cost_of_determinism"] = rows["deterministic"]["seconds"] / rows["free"]["seconds"] - 1
    return rows


def study(kit: Kit) -> dict[str, Any]:
    """(j) A study at 224 px, as far as the time goes, and what all of it would take."""
    import tempfile

    from busi_search.search.prepare import default_workers

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        context = study_context(
            kit, Path(folder), name="study", trials=kit.size.study_trials, large=True
        )
        workers = default_workers(kit.device) if kit.device != "cpu" else 1
        started = time.perf_counter()
        last = _search(
            context, trials=kit.size.study_trials, workers=workers,
            seconds=kit.seconds() - 10, each=lambda *_: None,
        )  # fmt: skip
        seconds = time.perf_counter() - started
    every = seconds / max(1, last.finished) * kit.size.study_trials / 60
    return {"workers": workers, "finished": last.finished, "pruned": last.pruned,
            "folds_trained": last.folds_trained, "minutes": seconds / 60,
            "minutes_for_all_trials": every}  # fmt: skip


STAGES: dict[str, tuple[Callable[[Kit], dict[str, Any]], float]] = {
    # Most seconds of each, of the 480 that the kit may take; what one leaves, the last one gets.
    "a equality": (equality, 20),
    "b half precision": (half_precision, 45),
    "h augmentation": (augmentation, 10),
    "f out of memory": (out_of_memory, 20),
    "i repeated": (repeated, 40),
    "c throughput": (throughput, 75),
    "g killed": (killed, 45),
    "e at once": (at_once, 75),
    "d compiled": (compiled, 60),
    "j study": (study, 90),
}


def machine(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch.__version__, "cores": os.cpu_count()}
    if device != "cpu":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gib": properties.total_memory / 2**30}
    return found


def write(path: Path, results: dict[str, Any]) -> None:
    """Write the results whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("gpu.json"))
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--only", help="letters of stages, such as a,e")
    parser.add_argument(
        "--seconds", type=float, help="most of all stages together (default: 480; dry: 3600)"
    )
    words = parser.parse_args()
    # A dry run measures nothing: a busy machine may take its time.
    most_seconds = words.seconds or (3600.0 if words.dry else 480.0)
    if not words.dry and not torch.cuda.is_available():
        parser.error("no usable GPU; --dry runs the kit on the CPU.")
    started = time.monotonic()
    device = "cpu" if words.dry else "cuda:0"
    train_on_one_core()
    results: dict[str, Any] = {"dry": words.dry, "machine": machine(device), "stages": {}}
    chosen = words.only.split(",") if words.only else [name[0] for name in STAGES]
    for name, (stage, most) in STAGES.items():
        left = most_seconds - (time.monotonic() - started)
        if name[0] not in chosen:
            continue
        if left < 10:
            results["stages"][name] = {"left_out": "no time was left"}
            write(words.to, results)
            continue
        began = time.monotonic()
        until = began + (left if stage is study or words.dry else min(left, most))
        kit = Kit(
            device, DRY if words.dry else Size(), lambda until=until: until - time.monotonic()
        )
        try:
            found = stage(kit)
        except Exception:
            found = {"error": traceback.format_exc()[-2000:]}
        if device != "cpu":
            torch.cuda.empty_cache()
        results["stages"][name] = {**found, "stage_seconds": time.monotonic() - began}
        write(words.to, results)
        print(f"{name}: {json.dumps(found)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
