#!/bin/bash
# ---
# RightScript Name: Show replication (MySQL)
# Description: Role, positions and semi-synchronous state of this database server.
# Inputs: {}
# ...
set -euo pipefail

mysql -t -e "SELECT @@hostname AS server, @@super_read_only AS read_only, @@offline_mode AS offline, @@gtid_executed AS executed;
  SHOW STATUS WHERE Variable_name LIKE 'Rpl_semi_sync_%_status' OR Variable_name IN
    ('Rpl_semi_sync_source_clients', 'Rpl_semi_sync_source_wait_sessions')"
mysql -E -e "SHOW REPLICA STATUS" |
  grep -E "Source_Host|_Running:|Seconds_Behind_Source|Retrieved_Gtid_Set|Last_.*Error:" || echo "Follows nobody."
