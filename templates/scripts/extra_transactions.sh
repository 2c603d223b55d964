#!/bin/bash
# ---
# RightScript Name: Extra transactions
# Description: |-
#   Which transactions are in this server's binary log and in nobody's else, readable: of an old primary after a failover,
#   say. Reads the log's files, so the database need not run. Changes nothing, and applies nothing anywhere.
# Inputs:
#   KNOWN_POSITIONS:
#     Category: Database
#     Description: What the present primary has, as it says when this script runs there with this input blank.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   EXTRA_BYTES:
#     Category: Database
#     Description: How much of the report is printed; all of it is kept here, in /var/lib/relaunch-extra.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:3500000
# Attachments:
# - extra_transactions.py
# ...
set -euo pipefail

if [ -z "${KNOWN_POSITIONS:-}" ]; then
  if command -v mariadb >/dev/null; then
    known=$(mariadb -N -B -e "SELECT CONCAT(@@gtid_binlog_state, '/', @@gtid_slave_pos)")
  else
    known=$(mysql -N -B -e "SELECT REPLACE(@@global.gtid_executed, '\n', '')")
  fi
  echo "POSITIONS $(jq -cn --arg positions "$known" '{$positions}')"
  exit
fi
export KNOWN_POSITIONS EXTRA_BYTES
exec python3 "$RS_ATTACH_DIR/extra_transactions.py"
