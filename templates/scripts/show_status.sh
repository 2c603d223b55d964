#!/bin/bash
# ---
# RightScript Name: Show status
# Description: Load, memory, disk, failed units, and the state of what relaunch's templates install.
# Inputs: {}
# ...
set -euo pipefail

echo "== $(hostname)"
echo "load    $(cut -d' ' -f1-3 /proc/loadavg)"
awk '/^MemTotal|^MemAvailable/ {printf "%-14s %d MB\n", $1, $2 / 1024}' /proc/meminfo
df -h --output=target,size,used,pcent / | sed 's/^/disk    /'

echo "== units"
for unit in apache2 haproxy app mariadb; do
  if systemctl cat "$unit" >/dev/null 2>&1; then
    echo "$unit: $(systemctl is-active "$unit" || true)"
  fi
done
systemctl --failed --no-legend --plain | sed 's/^/failed: /'

if [ -S /run/haproxy/admin.sock ] && [ -r /etc/haproxy/relaunch.cfg ]; then
  echo "== HAProxy: back end, server, state"
  curl -fsS --max-time 5 "http://127.0.0.1:8404/stats;csv" |
    awk -F, '$2 != "FRONTEND" && $2 != "BACKEND" && NR > 1 {print $1, $2, $18}'
fi

if systemctl is-active --quiet mariadb 2>/dev/null; then
  echo "== MariaDB"
  mariadb --batch --skip-column-names -e "SELECT 'read_only', @@read_only; SELECT 'position', @@gtid_current_pos;
    SHOW STATUS WHERE Variable_name IN ('Rpl_semi_sync_master_status', 'Rpl_semi_sync_master_clients', 'Rpl_semi_sync_slave_status')"
  mariadb -e "SHOW SLAVE STATUS\G" | grep -E "Master_Host|_Running:|Seconds_Behind_Master|Last_.*Error:" || true
fi
