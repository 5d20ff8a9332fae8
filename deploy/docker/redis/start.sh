#!/bin/sh
# Starts one server or one Sentinel of the Redis that holds the state.
#   start.sh server     asks the Sentinels who the master is, and becomes that, or a replica of it
#   start.sh sentinel   watches; what it has learnt lies in /data and outlives a restart
# A server that just took its first configuration again would, after a failover and a restart of all, make an old copy
# the master. So only what two Sentinels say counts, and until they do nothing is started: Tidegate goes on without.
#
#   REDIS_PASSWORD   of servers and Sentinels
#   REDIS_SELF       this one's name, by which the others reach it
#   REDIS_FIRST      the server that is master when there was none before
#   REDIS_SENTINELS  host:port, separated by blanks
#   REDIS_FOLDER     default /data; REDIS_PORT default 6379 or 26379; REDIS_CONFIG default /etc/redis/state.conf
set -eu

: "${REDIS_PASSWORD:?is empty: set it in secrets}" "${REDIS_SELF:?}"
folder=${REDIS_FOLDER:-/data}
# Read by redis-cli; on its command line others would see it.
export REDISCLI_AUTH="$REDIS_PASSWORD"

# The name that two Sentinels call the master, if two do. An error is no name: with -e it is not printed as one.
master() {
    for sentinel in $REDIS_SENTINELS; do
        timeout 2 redis-cli -e -h "${sentinel%:*}" -p "${sentinel##*:}" \
            SENTINEL GET-MASTER-ADDR-BY-NAME tidegate 2>/dev/null | sed -n 1p | grep -v ' '
    done | sort | uniq -c | awk '$1 >= 2 { print $2 }'
}

server() {
    port=${REDIS_PORT:-6379}
    until found=$(master) && [ -n "$found" ]; do
        echo "waiting until two Sentinels name a master"
        sleep 2
    done
    umask 077
    {
        echo "include ${REDIS_CONFIG:-/etc/redis/state.conf}"
        echo "dir $folder"
        echo "port $port"
        echo "replica-announce-ip $REDIS_SELF"
        echo "requirepass $REDIS_PASSWORD"
        echo "masterauth $REDIS_PASSWORD"
        [ "$found" = "$REDIS_SELF" ] || echo "replicaof $found $port"
    } >"$folder/redis.conf"
    echo "the master is $found, this is $REDIS_SELF"
    exec redis-server "$folder/redis.conf"
}

sentinel() {
    port=${REDIS_PORT:-26379}
    umask 077
    # What it has learnt stays; the password is the present one at each start.
    if [ -s "$folder/sentinel.conf" ]; then
        grep -vE '^(requirepass|user default|sentinel auth-pass) ?' "$folder/sentinel.conf" >"$folder/sentinel.new"
        printf 'sentinel auth-pass tidegate %s\nrequirepass %s\n' "$REDIS_PASSWORD" "$REDIS_PASSWORD" >>"$folder/sentinel.new"
        mv "$folder/sentinel.new" "$folder/sentinel.conf"
    else
        cat >"$folder/sentinel.conf" <<CONF
port $port
dir $folder
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $REDIS_SELF
sentinel monitor tidegate ${REDIS_FIRST:?} 6379 2
sentinel down-after-milliseconds tidegate 5000
sentinel failover-timeout tidegate 60000
sentinel parallel-syncs tidegate 1
sentinel auth-pass tidegate $REDIS_PASSWORD
requirepass $REDIS_PASSWORD
CONF
    fi
    # A Sentinel ends when it does not find the name of the server it watches.
    watched=$(awk '$1 == "sentinel" && $2 == "monitor" { print $4 }' "$folder/sentinel.conf")
    case "$watched" in
        *[!0-9.]*)
            until getent hosts "$watched" >/dev/null; do
                echo "waiting until $watched has an address"
                sleep 2
            done
            ;;
    esac
    exec redis-sentinel "$folder/sentinel.conf"
}

case "${1:-}" in
    server) server ;;
    sentinel) sentinel ;;
    *)
        echo "say server or sentinel" >&2
        exit 64
        ;;
esac
