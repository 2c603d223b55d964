#!/bin/bash
# ---
# RightScript Name: Restart app
# Description: Restarts the app's process; meanwhile the other servers answer.
# Inputs: {}
# ...
set -euo pipefail

systemctl restart app
echo "$(cat /etc/app/name) runs as process $(systemctl show -P MainPID app)."
