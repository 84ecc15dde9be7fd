#!/bin/sh
# What the official image of PostgreSQL does at its first start, as far as docker-compose.yml relies
# on it: a cluster in the volume, a user with a password, a database, and the SQL beside it.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
    chown postgres:postgres /var/lib/postgresql
    exec setpriv --reuid=postgres --regid=postgres --clear-groups sh "$0" "$@"
fi
if [ ! -s "$data/PG_VERSION" ]; then
    rm -rf "$data"
    secret=$(mktemp)
    printf %s "$POSTGRES_PASSWORD" > "$secret"
    "$bin/initdb" -D "$data" -E UTF8 --locale=C.UTF-8 -U "$POSTGRES_USER" \
        --pwfile="$secret" --auth=scram-sha-256 > /dev/null
    rm "$secret"
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    export PGPASSWORD="$POSTGRES_PASSWORD"
    "$bin/pg_ctl" -D "$data" -w start -o "-c listen_addresses='' -k /tmp" > /dev/null
    psql="$bin/psql -v ON_ERROR_STOP=1 -h /tmp -U $POSTGRES_USER"
    $psql -d postgres -c "CREATE DATABASE $POSTGRES_DB"
    for file in /docker-entrypoint-initdb.d/*.sql; do $psql -d "$POSTGRES_DB" -f "$file"; done
    "$bin/pg_ctl" -D "$data" -w -m fast stop > /dev/null
fi
exec "$bin/postgres" -D "$data" -c listen_addresses='*' -k /tmp
