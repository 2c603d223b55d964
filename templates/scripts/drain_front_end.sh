#!/bin/bash
# ---
# RightScript Name: Drain front end
# Description: Apache finishes the requests it has, takes no new ones, and stops.
# Inputs: {}
# ...
set -euo pipefail

if ! systemctl is-active --quiet apache2; then
  echo "Apache is not running."
  exit 0
fi
apachectl graceful-stop
for _ in $(seq 100); do
  pgrep -x apache2 >/dev/null || break
  sleep 0.1
done
systemctl stop apache2
echo "Apache has stopped."
