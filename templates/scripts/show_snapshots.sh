#!/bin/bash
# ---
# RightScript Name: Show snapshots
# Description: The snapshots of this server's volume, the oldest first.
# Inputs: {}
# Attachments:
# - take_snapshot.py
# - snapshot_locks.py
# - volume_kinds.py
# - sql_session.py
# ...
set -euo pipefail
python3 "$RS_ATTACH_DIR/take_snapshot.py" list | jq -r '"\(.id)  \(.lock), \(.locked_seconds) s  \(.gtid)", (.warnings[] | "  " + .)'
df -h --output=target,size,avail /var/lib/mysql/
