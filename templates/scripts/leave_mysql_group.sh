#!/bin/bash
# ---
# RightScript Name: Leave database group (MySQL)
# Description: No more requests are sent here, then MySQL shuts down in order.
# Inputs: {}
# ...
set -euo pipefail

relaunch-local tag -d database || echo "The tag could not be taken back."
if systemctl is-active --quiet mysql; then
  # Commits that wait for an acknowledgement end without one: their clients lose the connection (ExecStop of the unit).
  systemctl stop mysql
fi
echo "MySQL has stopped."
