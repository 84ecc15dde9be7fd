# A worker, or the process that drives a search, on a CPU or on an NVIDIA GPU.
#   docker build -f docker/worker.Dockerfile -t busi-search .
FROM python:3.13-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY busi_search ./busi_search
COPY studies ./studies
RUN pip install --no-cache-dir ".[postgresql]" \
    && useradd --create-home busi \
    && install -d -o busi /home/busi/mlruns

USER busi
WORKDIR /home/busi
ENTRYPOINT ["busi-search"]
CMD ["--help"]
