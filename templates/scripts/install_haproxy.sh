#!/bin/bash
# ---
# RightScript Name: Install HAProxy
# Description: HAProxy, told to read two files - haproxy.cfg (the script's) and relaunch.cfg (the agent's). Not yet started.
# Packages: haproxy
# Inputs: {}
# ...
set -euo pipefail

systemctl stop haproxy
# Enabled from the image on, so that it comes back by itself after a reboot; but not before it was configured.
install -d /etc/systemd/system/haproxy.service.d
cat >/etc/systemd/system/haproxy.service.d/relaunch.conf <<'FILE'
# Written by relaunch: script install_haproxy.sh. Change the script, not this file.
[Unit]
ConditionPathExists=/etc/haproxy/haproxy.cfg
FILE
systemctl daemon-reload

# haproxy.cfg comes first: its `defaults` count for the back ends and listeners in relaunch.cfg.
cat >/etc/default/haproxy <<'FILE'
# Written by relaunch: script install_haproxy.sh. Change the script, not this file.
EXTRAOPTS="-S /run/haproxy-master.sock -f /etc/haproxy/relaunch.cfg"
FILE

# What the package's sample says would listen nowhere, yet count as ours.
rm -f /etc/haproxy/haproxy.cfg
echo "HAProxy $(haproxy -v | awk 'NR == 1 {print $3}') is installed, stopped until configured."
