#!/bin/sh
# Sets what queues may hold, as `tidegate check` prints it for the prefix tidegate, the virtual host / and 16
# partitions.
# Run once by compose.yaml, beside a server: rabbitmqctl reaches it by its Erlang name.
set -eu

policy() {
    rabbitmqctl --node rabbit@rabbitmq-1 set_policy -p / --priority 10 --apply-to queues "$1" "$2" "$3"
}

policy tidegate-work '^tidegate\.(chat\.[0-9]+|events)$' '{"max-length":58823,"max-length-bytes":252645135}'
policy tidegate-dead '^tidegate\.dead$' '{"max-length":100000,"max-length-bytes":1073741824}'
policy tidegate-parked '^tidegate\.parked$' '{"max-length":100000,"max-length-bytes":1073741824}'
