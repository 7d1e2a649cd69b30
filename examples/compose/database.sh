#!/bin/sh
# Makes the database at first start, then serves it to the containers of its network.
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --auth-host=scram-sha-256 --pwfile=/run/secrets/password --no-sync > /dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*'
