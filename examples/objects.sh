#!/usr/bin/env bash
# Print the objects in a PNG, one per line, or the reply as it is if jq is not installed. Needs curl. Set AUGU_URL and
# AUGU_TOKEN, and run `bash examples/objects.sh photo.png`. If the quota is used up or the service is busy, curl waits as
# Retry-After says. curl reads the token from its input, because every user of the machine can see its arguments.
set -euo pipefail

show() {
    if command -v jq > /dev/null; then
        jq -r 'if .error then .message else .data.objects[] | "\(.name) \(.score) \(.x) \(.y) \(.width) \(.height)" end'
    else
        cat
    fi
}

printf 'header = "Authorization: Bearer %s"\n' "$AUGU_TOKEN" |
    curl --config - --silent --show-error --fail-with-body --max-time 120 --retry 3 --retry-max-time 90 \
        --header 'Content-Type: image/png' --data-binary "@$1" "$AUGU_URL/images/classify/objects" |
    show
