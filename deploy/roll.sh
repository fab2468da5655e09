#!/bin/sh
# Makes the replicas of docker-compose.scale.yml anew, one after the other, while the others answer:
#
#   docker compose -f docker-compose.scale.yml build && sh deploy/roll.sh
#
# No request fails: nginx leaves a replica out before it is stopped, and until it is healthy again.
set -eu
cd "$(dirname -- "$0")/.."
HEALTHY_SECONDS=${HEALTHY_SECONDS:-120}

compose() {
    docker compose -f docker-compose.scale.yml "$@"
}

health() {
    docker inspect -f '{{.State.Health.Status}}' "$(compose ps -q "$1")"
}

for number in 1 2 3; do
    replica=eval-service-$number
    compose exec -T nginx sh -c \
        "mkdir -p /run/nginx-leaves-out && touch /run/nginx-leaves-out/$number"
    # What nginx had already decided to send there is on its way now.
    sleep 1
    compose up -d --no-deps --no-build --force-recreate "$replica"
    waited=0
    until [ "$(health "$replica")" = healthy ]; do
        if [ "$waited" -ge "$HEALTHY_SECONDS" ]; then
            echo "$replica is not healthy after $waited s; nginx leaves it out." >&2
            exit 1
        fi
        sleep 1
        waited=$((waited + 1))
    done
    compose exec -T nginx rm "/run/nginx-leaves-out/$number"
    echo "$replica is new."
done
