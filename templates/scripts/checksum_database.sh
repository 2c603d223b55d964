#!/bin/bash
# ---
# RightScript Name: Checksum database
# Description: |-
#   Compares this primary's tables with its replicas', in short pieces by primary key, at the very same position: each
#   piece is summed by a statement that the replicas run again at their turn. Tells what differs and mends nothing.
# Inputs:
#   REPLICATION_PASSWORD:
#     Category: Database
#     Description: The replicas are read with it.
#     Input Type: single
#     Required: true
#   CHECKSUM_ID:
#     Category: Database
#     Description: Names this comparison in the table relaunch.checksums.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:by-hand
#   CHECKSUM_REPLICAS:
#     Category: Database
#     Description: NAME=ADDRESS of each replica, parted by blanks; all that follow when it is blank.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   CHECKSUM_CHUNK_SECONDS:
#     Category: Database
#     Description: How long a piece should take. Writes to its rows wait that long, no others.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:0.2
#   CHECKSUM_WAIT_SECONDS:
#     Category: Database
#     Description: How long a replica may take to come to a piece before the comparison is given up.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:300
# Attachments:
# - checksum_database.py
# - sql_session.py
# ...
set -euo pipefail

if [ -z "${CHECKSUM_REPLICAS:-}" ]; then
  CHECKSUM_REPLICAS=$(relaunch-local get database | jq -r '[.replicas[] | "\(.name)=\(.address)"] | join(" ")')
fi
export REPLICATION_PASSWORD CHECKSUM_ID CHECKSUM_REPLICAS CHECKSUM_CHUNK_SECONDS CHECKSUM_WAIT_SECONDS
exec nice -n 10 python3 "$RS_ATTACH_DIR/checksum_database.py"
