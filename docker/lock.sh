#!/bin/sh
# Write the images' requirements, each version with its hashes, from pyproject.toml:
#   sh docker/lock.sh
# Run it after a change of the dependencies, or to take newer versions. Needs uv.
set -eu
cd "$(dirname "$0")"
compile() {
    uv pip compile --quiet --universal --python-version 3.13 --generate-hashes --upgrade \
        --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
}
note="# Written by docker/lock.sh."
whole=$(mktemp)
trap 'rm -f "$whole"' EXIT

# PyTorch and what it needs on a GPU is one file, all else another: the variants share that.
compile ../pyproject.toml --extra postgresql --extra gpu --extra dicom > "$whole"
gpu='/^(torch|torchvision|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==/ { torch = 1 } /^[a-z]/ && !/^(torch|torchvision|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==/ { torch = 0 }'
(echo "$note" && awk "$gpu !torch" "$whole") > requirements.txt
(echo "$note" && awk "$gpu torch" "$whole") > requirements-cuda.txt
# The wheels without CUDA lie on an index of PyTorch's own: the same versions, without hashes.
(echo "$note" && sed -n -E 's/^((torch|torchvision)==[^ ;]+).*/\1/p' "$whole") > requirements-cpu.txt

(echo "$note" && echo "mlflow[auth]>=3.17,<3.18
psycopg[binary]>=3.2,<4" | compile -) > requirements-mlflow.txt
(echo "$note" && echo "hatchling>=1.27
uv" | compile -) > requirements-build.txt
