#!/bin/sh
# Gives the connector, another user, what it needs to connect: the node's key, the consortium's CA
# and the client certificate. Nothing else of the hospital's books. Run it as root after every
# `wardround site join` and every `site keys --rotate`.
#
#   hand-over.sh STATE_DIR CONNECTOR_DIR USER
set -eu
if [ $# -ne 3 ]; then
    echo "Expected STATE_DIR CONNECTOR_DIR USER, found $# arguments." >&2
    exit 1
fi
state=$1 connector=$2 user=$3
# Left by a run that was cut off.
rm -f "$connector"/.*.coming
put() {
    [ -e "$1" ] || return 0
    install -o "$user" -g "$user" -m 600 "$1" "$connector/.$2.coming"
    mv -f "$connector/.$2.coming" "$connector/$2"
}
install -d -o "$user" -g "$user" -m 700 "$connector"
put "$state/keys/node.key" node.key
put "$state/ca.pem" ca.pem
put "$state/client.pem" client.pem
