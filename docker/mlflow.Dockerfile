# The tracking server: MLflow with a database driver and passwords.
#   docker build -f docker/mlflow.Dockerfile -t busi-search-mlflow .
# Versions are pinned with hashes in docker/requirements-mlflow.txt, which docker/lock.sh writes.
FROM python:3.13-slim

COPY docker/requirements-mlflow.txt /tmp/requirements.txt
RUN python -m venv /opt/mlflow \
    && /opt/mlflow/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/requirements.txt \
    && useradd --create-home --uid 1000 mlflow \
    && install -d -o mlflow /artifacts

COPY docker/mlflow-server.sh /usr/local/bin/mlflow-server

ENV PATH=/opt/mlflow/bin:$PATH
USER mlflow
WORKDIR /home/mlflow
EXPOSE 5000
CMD ["sh", "/usr/local/bin/mlflow-server"]
