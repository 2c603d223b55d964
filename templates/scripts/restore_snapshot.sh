#!/bin/bash
# ---
# RightScript Name: Restore database from a snapshot
# Description: |-
#   Lays out a snapshot of this server's volume beside the data and recovers it there, while the database goes on. Then
#   `Restore database` with RESTORE_PHASE=swap puts it in place, or with discard removes it.
# Inputs:
#   RESTORE_SNAPSHOT:
#     Category: Backup
#     Description: Which one, as `take_snapshot.py list` shows them; latest takes the newest.
#     Input Type: single
#     Required: false
#     Default: text:latest
#   RESTORE_CONFIRM:
#     Category: Backup
#     Description: The name of the database group, whose data here is going to be replaced.
#     Input Type: single
#     Required: true
#   RESTORE_NEW_LINEAGE:
#     Category: Backup
#     Description: What the history that begins with the restored data is called; made up here when it is blank.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
# Attachments:
# - restore_store.sh
# - mariadb_copy.sh
# - mysql_copy.sh
# - take_snapshot.py
# - snapshot_locks.py
# - volume_kinds.py
# - sql_session.py
# ...
# shellcheck disable=SC2034,SC2154  # variables are given to the attachments, and come from them
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a

dialect=mysql
if command -v mariadbd >/dev/null; then dialect=mariadb; fi
unit=$dialect
data=$(realpath /var/lib/mysql)
work=$data-restoring # as in `Restore database`, which puts it in place
secret=$(mktemp -d /run/relaunch-restore.XXXXXX)
sockets=$secret/sockets
for each in restore_store "${dialect}_copy"; do
  # shellcheck source=/dev/null
  . "$RS_ATTACH_DIR/$each.sh"
done
tidy() {
  kill_copy
  rm -rf "$secret"
  [ -n "$keep" ] || rm -rf "$work"
}
alone
trap tidy EXIT

[ "$RESTORE_CONFIRM" = "$BACKUP_GROUP" ] || stop_with "Nothing was touched. To replace what is here: RESTORE_CONFIRM=$BACKUP_GROUP"
RESTORE_NEW_LINEAGE=${RESTORE_NEW_LINEAGE:-$(date -u +%Y%m%dT%H%M%SZ)-$(od -An -N3 -tx1 /dev/urandom | tr -d ' ')}

rm -rf "$work"
mkdir -m 711 "$work"
chmod 711 "$secret"
install -d -o mysql -g mysql "$sockets"
record=$(python3 "$RS_ATTACH_DIR/take_snapshot.py" lay-out "$RESTORE_SNAPSHOT" "$work/data")
{ read -r id; read -r from; read -r redo; } < <(jq -r '.id, .lineage, .settings.innodb_redo_log_capacity' <<<"$record")
options=(--innodb-buffer-pool-size=64M --innodb-doublewrite=ON) # a page may have been half written
# Another size would have the redo log made anew. What was just laid out is in the system's cache, where direct reads do not look.
[ "$dialect" = mariadb ] || options+=(--innodb-redo-log-capacity="$redo" --innodb-flush-method=fsync)
start_copy "$work/data" "${options[@]}"
gtid=$(copy_position)
echo "A server on a copy of the snapshot $id answers after $(seconds) s, at $gtid"
# From here on it is a history of its own.
if [ "$dialect" = mariadb ]; then
  forget="RESET MASTER; STOP ALL SLAVES; RESET SLAVE ALL; SET GLOBAL gtid_slave_pos = ''; SET GLOBAL gtid_binlog_state = '$gtid';
    SET GLOBAL gtid_slave_pos = '$gtid'"
else
  forget="SET GLOBAL super_read_only = OFF; STOP REPLICA; RESET REPLICA ALL; RESET BINARY LOGS AND GTIDS;
    SET GLOBAL gtid_purged = '$gtid'"
fi
ask_copy -e "SET GLOBAL innodb_flush_log_at_trx_commit = 1; SET sql_log_bin = 0; $forget; $(new_lineage)"
leave_copy
sync -f "$work"
mark_as_ours
rm -f "$work/data/auto.cnf" "$work/data/relaunch-group.accounts"
jq -nc --arg id "$id" --arg gtid "$gtid" --argjson seconds "$(seconds)" --arg lineage "$RESTORE_NEW_LINEAGE" --arg from "$from" \
  '"RESTORED " + ({$id, $gtid, $seconds, prepared_seconds: $seconds, tables_compared: 0, chain_length: 0, $lineage, $from} | tojson)' -r |
  tee "$work/restored"
keep=yes
