#!/bin/bash
# Written by relaunch: script install_mariadb.sh. Change the script, not this file.
#
# Lets MariaDB take writes if, and only if, the controller says now that this server is the primary.
# --after-restart: what systemd calls; silent while the server has not joined its group yet.
set -euo pipefail

if [ "${1:-}" = --after-restart ] && [ ! -e /var/lib/mysql/relaunch-group ]; then
  exit 0
fi
epoch=$(timeout 20 relaunch-local may-write)
durability=$(relaunch-local get database | jq -r .durability)

# How long a commit waits for the replica's acknowledgement. available: 3 s, and not at all without a replica.
# strict: until there is one. The source side is on only here, on the primary: on a replica it would stop the applier.
if [ "$durability" = strict ]; then timeout_ms=315360000000 wait_without=ON; else timeout_ms=3000 wait_without=OFF; fi
mariadb <<SQL
SET GLOBAL rpl_semi_sync_master_timeout = $timeout_ms;
SET GLOBAL rpl_semi_sync_master_wait_no_slave = $wait_without;
SET GLOBAL rpl_semi_sync_master_enabled = ON;
SET GLOBAL read_only = OFF;
SQL
echo "MariaDB takes writes: primary, epoch $epoch, durability $durability"
