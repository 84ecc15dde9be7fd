# A worker, or the process that drives a search.
#   docker build -f docker/worker.Dockerfile -t busi-search .                          # NVIDIA GPU or CPU
#   docker build -f docker/worker.Dockerfile -t busi-search --build-arg VARIANT=cpu .  # CPU, smaller
# Versions are pinned with hashes in docker/requirements*.txt, which docker/lock.sh writes.
FROM python:3.13-slim AS wheel

WORKDIR /src
COPY docker/requirements-build.txt docker/
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install --no-cache-dir --require-hashes -r docker/requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY busi_search ./busi_search
COPY studies ./studies
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.13-slim

# One layer for all that is not ours: it changes only with the requirements. `cuda` is PyPI's
# PyTorch, which trains on CPUs too. `cpu` is PyTorch's build for CPUs alone, without gigabytes of
# CUDA: the same version, from an index that uv knows; no hash is kept for it.
ARG VARIANT=cuda
COPY docker/requirements-build.txt docker/requirements.txt docker/requirements-${VARIANT}.txt /requirements/
RUN python -m venv /tools && python -m venv --without-pip /opt/busi-search \
    && /tools/bin/pip install --no-cache-dir --require-hashes -r /requirements/requirements-build.txt \
    && export VIRTUAL_ENV=/opt/busi-search UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy \
    && /tools/bin/uv pip install --no-deps --require-hashes -r /requirements/requirements.txt \
    && if [ "$VARIANT" = cpu ]; \
       then /tools/bin/uv pip install --no-deps --torch-backend cpu -r /requirements/requirements-cpu.txt; \
       else /tools/bin/uv pip install --no-deps --require-hashes -r "/requirements/requirements-$VARIANT.txt"; \
       fi \
    && rm -r /tools

COPY --from=wheel /wheels /wheels
RUN pip --python /opt/busi-search/bin/python install --no-cache-dir --no-deps /wheels/*.whl \
    && useradd --create-home --uid 1000 busi \
    && install -d -o busi /home/busi/mlruns
ENV PATH=/opt/busi-search/bin:$PATH \
    BUSI_SEARCH_ALIVE_FILE=/tmp/busi-search-alive

USER busi
WORKDIR /home/busi
# The file is there while a search goes on, and is touched every few seconds.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["sh", "-c", "test ! -e $BUSI_SEARCH_ALIVE_FILE || test -n \"$(find $BUSI_SEARCH_ALIVE_FILE -mmin -5)\""]
ENTRYPOINT ["busi-search"]
CMD ["--help"]
