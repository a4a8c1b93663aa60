#!/usr/bin/env bash
# Print the objects in a PNG, a line for each if jq is there, else the reply as it comes. Needs curl. Set AUGU_URL and
# AUGU_TOKEN, then run `bash examples/objects.sh photo.png`. curl waits as Retry-After says if the quota is used up or
# the line is full; the token is in curl's input, since everybody on the machine can read its arguments.
set -euo pipefail

shown() {
    if command -v jq > /dev/null; then
        jq -r 'if .error then .message else .data.objects[] | "\(.name) \(.score) \(.x) \(.y) \(.width) \(.height)" end'
    else
        cat
    fi
}

printf 'header = "Authorization: Bearer %s"\n' "$AUGU_TOKEN" |
    curl --config - --silent --show-error --fail-with-body --max-time 120 --retry 3 --retry-max-time 90 \
        --header 'Content-Type: image/png' --data-binary "@$1" "$AUGU_URL/images/classify/objects" |
    shown
