#!/bin/sh
# Writes down the secret that RabbitMQ's servers and rabbitmqctl share, then does what it is told: a file, because
# newer versions no longer take it from the environment.
set -eu

: "${ERLANG_COOKIE:?is empty: set it in secrets.env}"
cookie=/var/lib/rabbitmq/.erlang.cookie
rm -f "$cookie"
umask 077
printf %s "$ERLANG_COOKIE" >"$cookie"
chmod 400 "$cookie"
chown rabbitmq "$cookie"
unset ERLANG_COOKIE
exec docker-entrypoint.sh "$@"
