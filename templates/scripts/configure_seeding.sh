#!/bin/bash
# ---
# RightScript Name: Configure seeding
# Description: |-
#   Lets new replicas of the deployment copy this server's data: a socket of systemd's on port 4444, which starts a
#   small program for each who asks, with TLS both ways. Nothing runs while nobody asks.
# Inputs:
#   SEED_BANDWIDTH:
#     Category: Database
#     Description: Bytes a second a new replica may take from here, like 50000000; blank for no limit.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
# Attachments:
# - give_seed.py
# ...
set -euo pipefail

[[ ${SEED_BANDWIDTH:-} =~ ^[0-9]*$ ]] || { echo "SEED_BANDWIDTH must be a number of bytes a second, not $SEED_BANDWIDTH" >&2; exit 1; }
address=$(relaunch-local get server.address)
install -D -m 755 "$RS_ATTACH_DIR/give_seed.py" /usr/local/lib/relaunch/give-seed

cat >/etc/systemd/system/relaunch-give-seed.socket <<FILE
# Written by relaunch: script configure_seeding.sh. Change the script, not this file.
[Unit]
Description=New replicas ask here for this server's data
[Socket]
ListenStream=$address:4444
FreeBind=true
Accept=true
MaxConnections=8
KeepAlive=true
KeepAliveTimeSec=20
KeepAliveIntervalSec=10
KeepAliveProbes=3
[Install]
WantedBy=sockets.target
FILE
cat >/etc/systemd/system/relaunch-give-seed@.service <<FILE
# Written by relaunch: script configure_seeding.sh. Change the script, not this file.
[Unit]
Description=Gives this server's data to a new replica
# A taker that was killed is no failure of this server's.
CollectMode=inactive-or-failed
[Service]
Environment=SEED_BANDWIDTH=${SEED_BANDWIDTH:-}
ExecStart=/usr/local/lib/relaunch/give-seed
StandardInput=socket
StandardOutput=journal
StandardError=journal
FILE
systemctl daemon-reload
systemctl enable --quiet relaunch-give-seed.socket
systemctl restart relaunch-give-seed.socket
echo "New replicas may copy this server's data from $address:4444${SEED_BANDWIDTH:+, $SEED_BANDWIDTH bytes a second at most}"
