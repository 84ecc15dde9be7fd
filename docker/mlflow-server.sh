#!/bin/sh
# An MLflow tracking server as a team runs it: a database behind it, passwords, served artifacts.
# The container starts it, and so do the tests.
#
#   MLFLOW_BACKEND_STORE_URI        database of the runs
#   BUSI_SEARCH_USERS_URI           database of the users
#   MLFLOW_AUTH_ADMIN_PASSWORD      password of the user `admin`, at the first start
#   MLFLOW_FLASK_SERVER_SECRET_KEY  signs the forms of the pages
#   MLFLOW_ARTIFACTS_DESTINATION    folder of the artifacts
#   BUSI_SEARCH_ALLOWED_HOSTS       names under which browsers and clients may call it
set -eu
: "${MLFLOW_BACKEND_STORE_URI:?}" "${BUSI_SEARCH_USERS_URI:?}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}" "${MLFLOW_ARTIFACTS_DESTINATION:?}"

# The only place where MLflow reads the users' database from; it may hold a password.
umask 077
folder=$(mktemp -d)
cat > "$folder/auth.ini" <<INI
[mlflow]
default_permission = READ
admin_username = admin
database_uri = $BUSI_SEARCH_USERS_URI
auth_cache_ttl_seconds = 60
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI

export MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_ARTIFACTS_DESTINATION
export MLFLOW_AUTH_CONFIG_PATH="$folder/auth.ini"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server --app-name basic-auth \
    --host "${MLFLOW_HOST:-127.0.0.1}" --port "${MLFLOW_PORT:-5000}" \
    --workers "${MLFLOW_WORKERS:-2}" \
    --allowed-hosts "${BUSI_SEARCH_ALLOWED_HOSTS:-localhost:*,127.0.0.1:*}"
