#!/bin/bash
# ---
# RightScript Name: Show replication
# Description: Role, positions and semi-synchronous state of this database server.
# Inputs: {}
# ...
set -euo pipefail

mariadb -t -e "SELECT @@hostname AS server, @@read_only AS read_only, @@gtid_binlog_pos AS written, @@gtid_slave_pos AS applied;
  SHOW STATUS WHERE Variable_name LIKE 'Rpl_semi_sync_%_status' OR Variable_name = 'Rpl_semi_sync_master_clients'"
mariadb -e "SHOW SLAVE STATUS\G" | grep -E "Master_Host|_Running:|Seconds_Behind_Master|Gtid_IO_Pos|Last_.*Error:" || echo "Follows nobody."
