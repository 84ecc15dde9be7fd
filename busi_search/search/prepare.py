"""Checks a study before its search: its file, its data and the machine."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import joblib
import psutil

from busi_search.data.medmnist import is_breastmnist
from busi_search.data.sources import guess_source, guess_study, title_of
from busi_search.errors import BusiSearchError, InputError
from busi_search.files import user_path
from busi_search.home import Home, open_home
from busi_search.search.context import StudyContext, make_context
from busi_search.search.seal_register import register_old_studies
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import Hyperparameters, StudySpec
from busi_search.study_files import load_spec
from busi_search.training.pretraining import phantom_weights_file
from busi_search.training.weights import check_weights
from busi_search.wording import count_of

WORKER_MEMORY_BYTES = 1_500_000_000
# Of a GPU: enough for a large network at 224 px, and for one that needs more, micro-batches shrink.
GPU_WORKER_BYTES = 12_000_000_000
# Not measured on a GPU yet: benchmarks/gpu.py prints trials an hour with 1, 2, 4 and 8 workers.
WORKERS_PER_GPU = 2
# Where Linux tells a container its memory limit (control groups, version 2 and version 1); psutil
# sees the memory of the whole machine.
CONTAINER_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def prepare_study(
    study: str | None = None,
    *,
    data: str | None = None,
    home: Home | None = None,
    name: str | None = None,
    seed: int | None = None,
    weights: str | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
) -> StudyContext:
    """Read a study file and its data, and check what can be checked before the search.

    Args:
        study: bundled name or TOML path; None chooses by the data (no data: phantoms).
        data: replaces ``dataset.path``.
        home: where things are kept (default ``./mlruns``).
        name: of the study (default from the study file and the dataset).
        seed: replaces ``study.seed``.
        weights: replaces ``hyperparameters.weights``.
        overrides: further ``key=value`` strings.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:K``.

    Raises:
        InputError: anything of this is not usable.
        BusiSearchError: ImageNet weights are needed and cannot be loaded.
    """
    if study is None:
        study, data = guess_study(data)
    options = list(overrides)
    for key, value in (("dataset.path", data), ("study.seed", seed), ("weights", weights)):
        if value is not None:
            # A JSON string is also a TOML string.
            written = json.dumps(value, ensure_ascii=False)
            options.append(f"{key}={written}")
    spec, text = _load_spec(study, data, tuple(options))
    if data is not None and spec.dataset.source not in ("phantom", "medmnist"):
        # Whatever kind of folder or table the study was written for, this one is read as it lies.
        source = guess_source(data)
        if source != spec.dataset.source != "auto":
            spec, text = load_spec(study, (*options, f'dataset.source="{source}"'))
    recognised: tuple[str, ...] = ()
    if spec.dataset.source == "auto" and spec.dataset.path is not None:
        source = guess_source(spec.dataset.path)
        spec, text = load_spec(study, (*options, f'dataset.source="{source}"'))
        recognised = (f"{spec.dataset.path}: recognised as {title_of(source)} ({source}).",)
    _check_place(spec)
    if data is not None and spec.dataset.source == "medmnist":
        _check_archive(study, data, spec, overrides)
    if data is not None and spec.dataset.source == "phantom":
        raise InputError(
            f"Study '{study}' simulates its own images and takes no --data; "
            "name the study breastmnist or busi, or leave the name out."
        )
    _check_weights(spec)
    home = home or open_home()
    register_old_studies(home)
    context = make_context(
        spec,
        text,
        home=home,
        name=_checked_name(name),
        device=resolve_device(device),
        origin=study,
        notes=recognised,
    )
    changed = _changed_gate(context)
    return context if changed is None else replace(context, remarks=(*context.remarks, changed))


def _load_spec(study: str, data: str | None, options: tuple[str, ...]) -> tuple[StudySpec, str]:
    """Read a study file; one of several sources takes no place of images for them all.

    Raises:
        InputError: it breaks the schema, or has several sources and a place is named.
    """
    if data is not None:
        others = tuple(option for option in options if not option.startswith("dataset.path="))
        several = False
        with suppress(InputError):  # What is wrong with the file is said below.
            several = load_spec(study, others)[0].dataset.source == "several"
        if several:
            raise InputError(
                f"Study '{study}' has several sources and takes no --data; name the place of each "
                "under [[dataset.sources]] in the study file."
            )
    return load_spec(study, options)


def _changed_gate(context: StudyContext) -> str | None:
    """Return that a study's [gate] is another one than before, which `promote` then uses."""
    home = context.home
    if home.has_local_storage and not (home.root / "optuna.db").exists():
        return None
    try:
        with storage_errors(home):
            before = StudyRecord(find_study(home, context.name)).gate
    except BusiSearchError:
        return None
    if before is None or before == context.spec.gate:
        return None
    now, then = context.spec.gate.model_dump(), before.model_dump()
    keys = ", ".join(f"{key} {then[key]} → {now[key]}" for key in now if now[key] != then[key])
    return f"The [gate] of the study changed ({keys}); `busi-search promote` uses it from now on."


def _check_place(spec: StudySpec) -> None:
    """Raise if the images are not where the study says, before anything else is looked for."""
    section = spec.dataset
    for entry in section.sources:
        if not user_path(entry.path).exists():
            raise InputError(
                f"{entry.path}: no such file or folder; check the path of '{entry.site}' under "
                "[[dataset.sources]]."
            )
    if section.source in ("phantom", "several"):
        return
    if section.path is None:
        raise InputError(
            f'This study needs images (source = "{section.source}"); name them with --data PATH.'
        )
    if not user_path(section.path).exists():
        raise InputError(f"{section.path}: no such file or folder; check --data or dataset.path.")


def _check_archive(study: str, data: str, spec: StudySpec, overrides: tuple[str, ...]) -> None:
    """Refuse to give an archive of something else the names of BreastMNIST's classes.

    Raises:
        InputError: its classes are named by the bundled study only.
    """
    path = user_path(data)
    named = any(
        override.partition("=")[0].strip().endswith("class_names") for override in overrides
    )
    if study == "breastmnist" and not named and not is_breastmnist(path):
        names = ", ".join(f"'{name}'" for name in spec.dataset.class_names or ())
        raise InputError(
            f"{data}: is not named as BreastMNIST's files are (breastmnist.npz, "
            f"breastmnist_64.npz …), and study breastmnist names its classes {names}; name its "
            'own in the order of their labels: --set \'dataset.class_names=["A", "B"]\' '
            "--set 'dataset.positive=\"A\"'."
        )


def _checked_name(name: str | None) -> str | None:
    if name is not None and (not name.strip() or "/" in name or "\\" in name or name[0] == "."):
        raise InputError(
            f"--name {name!r}: a study name must not be empty, hold / or begin with a dot."
        )
    return name


def _check_weights(spec: StudySpec) -> None:
    """Load all weights of every architecture once, so that a missing file ends here."""
    starts = _starts(spec)
    wanted = ((c.weights, c.architecture, c.image_size_pixels) for c in starts)
    for weights, architecture, size_pixels in dict.fromkeys(wanted):
        check_weights(weights, architecture, size_pixels)
    for chosen in starts:
        size = chosen.image_size_pixels
        if chosen.weights == "phantom" and not 28 <= size <= 512:
            raise InputError(
                f'weights = "phantom" needs images of 28 to 512 px, for phantoms have no other '
                f"size, but image_size_pixels is {size}; change one of them."
            )


def _starts(spec: StudySpec) -> list[Hyperparameters]:
    """Every architecture with every weights that the search or a recipe may take."""
    return spec.configurations("weights", "architecture", "image_size_pixels")


def learns_from_phantoms(context: StudyContext) -> bool:
    """Whether weights must be learned from phantoms first, for this home has not all of them."""
    folder = context.home.cache / "weights"
    return any(
        chosen.weights == "phantom"
        and not phantom_weights_file(
            folder, chosen.architecture, chosen.image_size_pixels, device=context.device
        ).exists()
        for chosen in _starts(context.spec)
    )


def resolve_device(device: str) -> str:
    """Return PyTorch's name of a device; ``auto`` is the first GPU or else the CPU.

    ``cuda`` stays ``cuda`` where there are several GPUs: workers are spread over all of them.

    Raises:
        InputError: no such device on this machine.
    """
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index == "" or index.isdigit()):
        raise InputError(f"--device {device}: expected auto, cpu, cuda or cuda:K.")
    if not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {device}: this machine has "
            f"{count_of(torch.cuda.device_count(), 'usable GPU')}; use --device cpu."
        )
    return "cuda" if index == "" and torch.cuda.device_count() > 1 else f"cuda:{index or 0}"


def device_of_worker(device: str, index: int) -> str:
    """Return the device of one worker: of ``cuda``, all GPUs of this machine, one after another."""
    import torch

    return f"cuda:{index % torch.cuda.device_count()}" if device == "cuda" else device


def default_workers(device: str) -> int:
    """Return how many workers fit on a device.

    On a CPU one for each core that the process may use, as memory allows. On a GPU one for each
    ``GPU_WORKER_BYTES`` of its free memory, at most ``WORKERS_PER_GPU``, and no more than cores,
    for each worker keeps one busy; as many on each GPU, and at least one.
    """
    num_cores: int = joblib.cpu_count()
    if device != "cpu":
        import torch

        several = device == "cuda"
        gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())] if several else [device]
        free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus)
        fit = min(free // GPU_WORKER_BYTES, num_cores // len(gpus), WORKERS_PER_GPU)
        return len(gpus) * max(1, fit)
    return max(1, min(num_cores, _available_memory_bytes() // WORKER_MEMORY_BYTES))


def _available_memory_bytes() -> int:
    """Return the memory that programs can still have, at most the limit of a container."""
    available = int(psutil.virtual_memory().available)
    for file in CONTAINER_MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or it says "max"
            available = min(available, int(file.read_text()))
    return available
