"""Pack benchmarks/gpu.py and all it needs but Python, PyTorch and torchvision into one file.

    python benchmarks/gpu_pack.py --python 3.11 --to gpu-kit.tar

There, without a network: ``tar -xf gpu-kit.tar && python gpu-kit/gpu.py --to results.json``. Wheels
are of the versions in docker/requirements.txt, for Linux on x86-64; numpy and pillow come with
torchvision. MLflow, pandas and the pages are left out: nothing that is measured needs them.
"""

import argparse
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the search and its training import, and what those import; weights are not needed.
CARRIED = (
    "alembic", "annotated-types", "click", "cloudpickle", "colorlog", "filelock", "joblib", "mako",
    "markdown-it-py", "markupsafe", "mdurl", "narwhals", "optuna", "packaging", "psutil",
    "pydantic", "pydantic-core", "pygments", "pyyaml", "rich", "safetensors", "scikit-learn",
    "scipy", "sqlalchemy", "tenacity", "threadpoolctl", "tqdm", "typing-extensions",
    "typing-inspection",
)  # fmt: skip
MOST_BYTES = 60 * 2**20


def download(python: str, folder: Path) -> list[Path]:
    """Fetch the wheels through pip, as it is set up on this machine."""
    text = (ROOT / "docker/requirements.txt").read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==([^ ;]+)", text, re.MULTILINE))
    # The images' Python is newer: not every pinned version has a wheel for an older one.
    wanted = [f"{name}<={pinned[name]}" for name in CARRIED]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder),
         "--only-binary", ":all:", "--python-version", python, "--platform",
         "manylinux_2_28_x86_64", "--platform", "manylinux_2_27_x86_64", "--platform",
         "manylinux_2_17_x86_64", "--platform", "manylinux2014_x86_64", *wanted],
        check=True,
    )  # fmt: skip
    return sorted(folder.glob("*.whl"))


def pack(wheels: list[Path], target: Path) -> int:
    """Write the file and return how many bytes of it are wheels."""

    def ours(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in item.name else item

    with tarfile.open(target, "w") as archive:
        archive.add(ROOT / "benchmarks/gpu.py", "gpu-kit/gpu.py")
        archive.add(ROOT / "busi_search", "gpu-kit/busi_search", filter=ours)
        archive.add(ROOT / "studies", "gpu-kit/busi_search/studies", filter=ours)
        # A study notes the versions that it was searched with.
        for name, version in (("busi_search", "0"), ("mlflow", "0+not.carried")):
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
            entry = tarfile.TarInfo(f"gpu-kit/{name}-{version}.dist-info/METADATA")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
        for wheel in wheels:
            archive.add(wheel, f"gpu-kit/wheels/{wheel.name}")
    return sum(wheel.stat().st_size for wheel in wheels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="3.11", help="version on the other machine")
    parser.add_argument("--to", type=Path, default=Path("gpu-kit.tar"))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheels = download(words.python, Path(folder))
        size = pack(wheels, words.to)
    for wheel in wheels:
        print(wheel.name)
    print(f"{len(wheels)} wheels, {size / 2**20:.1f} MiB; {words.to}")
    if size > MOST_BYTES:
        sys.exit(f"The wheels take more than {MOST_BYTES // 2**20} MiB.")


if __name__ == "__main__":
    main()
