#!/bin/bash
# ---
# RightScript Name: Leave database group
# Description: No more requests are sent here, then MariaDB shuts down in order.
# Inputs: {}
# ...
set -euo pipefail

relaunch-local tag -d database || echo "The tag could not be taken back."
if systemctl is-active --quiet mariadb; then
  # Commits that wait for an acknowledgement end without one: their clients lose the connection.
  systemctl stop mariadb
fi
echo "MariaDB has stopped."
