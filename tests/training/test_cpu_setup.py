"""A process that trains keeps the memory it frees."""

import json
import platform
import subprocess
import sys

import pytest

COUNT = """
import json, resource, torch
from busi_search.training.cpu_setup import train_on_one_core

def faults_of_steps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        blocks = [torch.ones(2**23) for _ in range(3)]  # 32 MiB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

train_on_one_core()
faults_of_steps()
print(json.dumps([faults_of_steps(), torch.get_num_threads()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_kept() -> None:
    answer = subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True)
    faults, threads = json.loads(answer.stdout)
    # Given back and asked for anew, these are 50 times 3 blocks of 8,192 pages.
    assert faults < 2_000
    assert threads == 1
