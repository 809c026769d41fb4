#!/usr/bin/env bash
# The image's health check: the worker's own word. Docker only marks a deaf worker as unhealthy, so
# the third failure in a row asks it to end and the sixth ends it, and systemd starts another.
# Failures count once it has been live: a cold model takes minutes, and Docker's start period keeps
# Docker alone from counting.
#   healthcheck.sh [process that is told to end and whose children are ended: the container's first]
set -euo pipefail

readonly INIT=${1:-1} PORT=${CIS_HEALTH_PORT:?is not set: the worker tells its health nowhere}

# Straight to the port: no proxy of the environment is asked.
readonly ASK='
import http.client, sys
asked = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=5)
asked.request("GET", "/livez")
answer = asked.getresponse()
sys.exit(0 if answer.status == 200 else f"/livez: {answer.status} {answer.read(500).decode()}")
'

# A line per failure since it was live last. It bears the start of the process in its name, in clock
# ticks, since /tmp may outlive it.
stat=$(<"/proc/$INIT/stat")
read -ra fields <<<"${stat##*) }"
readonly FAILURES=${TMPDIR:-/tmp}/health-failures-$INIT-${fields[19]}

if python -I -c "$ASK" "${CIS_HEALTH_HOST:-127.0.0.1}" "$PORT"; then
    : >"$FAILURES" || true # a full disk does not make it deaf
    exit 0
fi
[[ -e $FAILURES ]] || exit 1
echo >>"$FAILURES"
failures=$(wc -l <"$FAILURES")
if ((failures >= 6)); then
    # Not the first process itself: the kernel lets nothing within the container kill that.
    for status in /proc/[0-9]*/status; do
        if grep -qsx "PPid:[[:space:]]*$INIT" "$status"; then
            pid=${status#/proc/}
            kill -KILL "${pid%/status}" || true # it may have ended meanwhile
        fi
    done
elif ((failures >= 3)); then
    kill -TERM "$INIT"
fi
exit 1
