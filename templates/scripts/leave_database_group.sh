#!/bin/bash
# ---
# RightScript Name: Leave database group
# Description: No more writes here, replication stops cleanly, MariaDB shuts down.
# Inputs: {}
# ...
set -euo pipefail

relaunch-local tag -d database || echo "The tag could not be taken back."
if systemctl is-active --quiet mariadb; then
  timeout 60 mariadb -e "SET GLOBAL read_only = ON; STOP ALL SLAVES"
  systemctl stop mariadb
fi
echo "MariaDB has stopped."
