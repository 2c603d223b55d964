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
release=
if [ "$durability" = strict ]; then
  timeout_ms=315360000000 wait_without=ON
else
  timeout_ms=3000 wait_without=OFF
  # Coming from strict: commits that have begun to wait would do so for ever. Switching off lets go of them.
  if [ "$(mariadb -N -e "SELECT @@rpl_semi_sync_master_timeout > 10000")" = 1 ]; then
    release="SET GLOBAL rpl_semi_sync_master_enabled = OFF;"
  fi
fi
mariadb <<SQL
$release
SET GLOBAL rpl_semi_sync_master_timeout = $timeout_ms;
SET GLOBAL rpl_semi_sync_master_wait_no_slave = $wait_without;
SET GLOBAL rpl_semi_sync_master_enabled = ON;
SET GLOBAL read_only = OFF;
SQL
echo "MariaDB takes writes: primary, epoch $epoch, durability $durability"
