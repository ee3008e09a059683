#!/usr/bin/env bash
# Debian's PostgreSQL as the official image has it: POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD_FILE; a socket that trusts who is inside.

set -euo pipefail
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
data=/var/lib/postgresql/data

if [ ! -e $data/ready ]; then
    rm -rf "${data:?}"/*
    initdb --auth-host=scram-sha-256 --auth-local=trust --encoding=UTF8 --locale=C --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $data
    echo 'host all all all scram-sha-256' >> $data/pg_hba.conf
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D $data postgres
    touch $data/ready
fi
exec postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
