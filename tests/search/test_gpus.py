"""Workers on GPUs: how many, and which on which card; with fakes, on a CPU."""

from dataclasses import dataclass

import pytest

from busi_search.errors import InputError
from busi_search.search import prepare
from busi_search.search.prepare import (
    GPU_WORKER_BYTES,
    WORKERS_PER_GPU,
    default_workers,
    device_of_worker,
    resolve_device,
)


@dataclass
class Machine:
    """What PyTorch is made to say of this machine."""

    free: list[int]
    cores: int = 64


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    fake = Machine([10 * GPU_WORKER_BYTES] * 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(fake.free))
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(fake.free))
    monkeypatch.setattr(
        "torch.cuda.mem_get_info",
        lambda gpu: (fake.free[int(gpu.partition(":")[2])], 2 * max(fake.free)),
    )
    monkeypatch.setattr(prepare.joblib, "cpu_count", lambda: fake.cores)
    return fake


def test_cuda_is_all_gpus_and_a_number_is_one(machine: Machine) -> None:
    assert resolve_device("cuda") == "cuda"
    assert resolve_device("cuda:2") == "cuda:2"
    assert resolve_device("auto") == "cuda:0"
    machine.free = machine.free[:1]
    assert resolve_device("cuda") == "cuda:0"
    with pytest.raises(InputError, match="1 usable GPU"):
        resolve_device("cuda:1")


def test_workers_are_spread_over_all_gpus_one_after_another(machine: Machine) -> None:
    devices = [device_of_worker("cuda", index) for index in range(8)]
    assert devices == [f"cuda:{index % len(machine.free)}" for index in range(8)]
    assert {device_of_worker("cuda:1", index) for index in range(8)} == {"cuda:1"}
    assert device_of_worker("cpu", 3) == "cpu"


def test_as_many_workers_as_memory_cores_and_measurements_allow(machine: Machine) -> None:
    assert default_workers("cuda") == 4 * WORKERS_PER_GPU
    assert default_workers("cuda:0") == WORKERS_PER_GPU
    # The fullest card decides, for all are given the same number.
    machine.free[2] = GPU_WORKER_BYTES
    assert default_workers("cuda") == 4
    assert default_workers("cuda:0") == WORKERS_PER_GPU
    machine.free[2] = GPU_WORKER_BYTES // 2
    assert default_workers("cuda") == 4
    machine.free[2] = 10 * GPU_WORKER_BYTES
    machine.cores = 4
    assert default_workers("cuda") == 4
    machine.cores = 1
    assert default_workers("cuda") == 4
