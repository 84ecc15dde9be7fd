# The tracking server: MLflow with a database driver and passwords.
#   docker build -f docker/mlflow.Dockerfile -t busi-search-mlflow .
FROM python:3.13-slim

RUN pip install --no-cache-dir "mlflow[auth]==3.17.2" "psycopg[binary]==3.3.9" \
    && useradd --create-home mlflow \
    && install -d -o mlflow /artifacts

COPY docker/mlflow-server.sh /usr/local/bin/mlflow-server

USER mlflow
WORKDIR /home/mlflow
EXPOSE 5000
CMD ["sh", "/usr/local/bin/mlflow-server"]
