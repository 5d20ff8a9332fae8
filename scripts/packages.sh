# What the scripts share: steps that are told, and Debian packages that are installed without their services. Sourced.
# shellcheck shell=bash

step() { printf '\n== %s\n' "$*"; }

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# The tests start servers of their own; Debian would start RabbitMQ, NGINX or Prometheus as a service. A policy that is
# there already stays.
without_services() {
    local policy=/usr/sbin/policy-rc.d ended=0 ours=
    # One of ours may be left of a run that was cut off.
    if [ ! -e "$policy" ] || grep -q scripts/packages.sh "$policy"; then
        ours=yes
        printf '#!/bin/sh\n# scripts/packages.sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root "$@" || ended=$?
    [ -z "$ours" ] || as_root rm -f "$policy"
    return "$ended"
}

# Installs these, if there are any.
install_debian() {
    [ $# -gt 0 ] || return 0
    step "installing $*"
    as_root apt-get update -qq
    without_services env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}
