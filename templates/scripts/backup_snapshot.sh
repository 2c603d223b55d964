#!/bin/bash
# ---
# RightScript Name: Back up database by snapshot
# Description: |-
#   A snapshot of the volume that the data lies on, taken in milliseconds and kept here; then, unless only that is
#   wanted, a full or incremental backup of it to the object store: a server started once on a copy of the snapshot
#   recovers it and says its position, and the pages that have changed are stored, compressed and encrypted.
# Inputs:
#   BACKUP_KIND:
#     Category: Backup
#     Description: |-
#       local takes the snapshot and stores nothing; incremental falls back to full, and says so, when this server has no
#       earlier backup to build on.
#     Input Type: single
#     Required: false
#     Default: text:full
#     Possible Values:
#     - text:full
#     - text:incremental
#     - text:local
#   SNAPSHOTS_KEPT:
#     Category: Backup
#     Description: So many snapshots stay on the volume; fewer when it has too little room.
#     Input Type: single
#     Required: false
#     Default: text:6
#   BACKUP_BANDWIDTH:
#     Category: Backup
#     Description: Bytes a second to the object store at most, like 20M; blank for no limit.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   BACKUP_MAX_LAG:
#     Category: Backup
#     Description: Seconds a replica may lag behind; it is waited for as long as this, too, and else nothing is done.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:60
#   BACKUP_CHECK_SECONDS:
#     Category: Backup
#     Description: How long rows may be counted and summed, smallest tables first; 0 for not at all.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:30
# Attachments:
# - backup_store.sh
# - mariadb_copy.sh
# - mysql_copy.sh
# - table_checks.sh
# - copy_pages.py
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

BACKUP_KIND=${BACKUP_KIND:-full} BACKUP_BANDWIDTH=${BACKUP_BANDWIDTH:-} # as when it is run by hand
dialect=mysql client=mysql
if command -v mariadbd >/dev/null; then dialect=mariadb client=mariadb; fi
state=/var/lib/relaunch-backup
copy=$(realpath /var/lib/mysql)-snapshot # on the volume, so that it shares its blocks
work=$(mktemp -d /run/relaunch-backup.XXXXXX)
sockets=$work/sockets
chmod 711 "$work"
install -d -o mysql -g mysql -m 700 "$sockets"
sql() { "$client" -N -B -e "$1"; }
for each in backup_store "${dialect}_copy" table_checks; do
  # shellcheck source=/dev/null
  . "$RS_ATTACH_DIR/$each.sh"
done
snapshots() { python3 "$RS_ATTACH_DIR/take_snapshot.py" "$@"; }
progress=
tidy() {
  [ -z "$progress" ] || kill "$progress" 2>/dev/null || true
  kill_copy
  rm -rf "$work" "$copy"
}
alone
trap tidy EXIT
cd "$work"

find_role "${BACKUP_MAX_LAG:-60}"
snapshots take --keep "$SNAPSHOTS_KEPT" >record
jq -r '"Snapshot \(.id): \(.lock), \(.locked_seconds) s, at \(.gtid)", .warnings[]' record
if [ "$BACKUP_KIND" = local ]; then
  echo "BACKED-UP $(jq -r .id record)"
  exit 0
fi
find_history
has_map() { [ -e "$state/last/map" ]; }
begin_backup has_map
echo "$id: from the $role, lag $lag s${parent:+, on top of $parent}"

# A copy that shares its blocks with the snapshot. It is recovered now, and not in each restore; one that does not start
# is no backup.
ionice -c 3 -p $$
renice -n 19 -p $$ >/dev/null
options=(--innodb-buffer-pool-size=64M --innodb-doublewrite=ON) # a page may have been half written
# Another size would have the redo log made anew.
[ "$dialect" = mariadb ] || options+=(--innodb-redo-log-capacity="$(jq -r .settings.innodb_redo_log_capacity record)")
# What no replica has yet may never become the group's: as a replica MariaDB rolls it back. Its clients wait still.
if [ "$(jq -r .waiting record)" = true ]; then
  [ "$dialect" = mariadb ] || stop_with "Commits wait for a replica: the snapshot is kept here, and nothing is stored."
  options+=(--init-rpl-role=SLAVE)
fi
rm -rf "$copy"
mkdir -m 711 "$copy"
snapshots lay-out "$(jq -r .id record)" "$copy/data" >/dev/null
start_copy "$copy/data" "${options[@]}"
gtid=$(copy_position)
jq '.warnings[]' record >warnings
if [ "$(jq -r .exact record)" = true ] && [ "$gtid" != "$(jq -r .gtid record)" ]; then
  jq --arg found "$gtid" '"under the lock it was at \(.gtid), recovered it is at \($found)"' record >>warnings
fi

# Rows are summed in the copy: it has just what its position says, and nobody is slowed down.
touch "$work"/{checks,unchecked}
check_gtid=
if [ "$BACKUP_CHECK_SECONDS" -gt 0 ]; then
  check_gtid=$gtid
  open_session ask_copy --unbuffered --force
  ask "SET time_zone = '+00:00', group_concat_max_len = 1000000" >/dev/null
  sum_tables "$BACKUP_CHECK_SECONDS"
fi
stop_copy

data_bytes=$(du -sb --exclude='binlog.*' --exclude='relay[.-]*' "$copy/data" | cut -f1)
show_progress 9>&- & # its sleep outlives it, and must not hold the lock
progress=$!
rm -rf "$state/last.new"
install -d "$state/last.new"
options=(--map "$state/last.new/map")
for each in 'binlog.*' 'relay*' auto.cnf '*.pem' '*.pid' master.info multi-master.info ib_buffer_pool ibtmp1 '#innodb_temp' '#clone'; do
  options+=(--exclude "$each")
done
[ "$kind" = full ] || options+=(--since "$state/last/map")
python3 "$RS_ATTACH_DIR/copy_pages.py" save "$copy/data" "${options[@]}" | to_store data.tar.zst.age ||
  stop_with "The backup $id failed; without a manifest it does not count."
kill "$progress" 2>/dev/null || true
ended=$(date -u +%Y-%m-%dT%H:%M:%SZ)
find_objects
refuse_fenced
end_backup "$dialect" "$(jq '{method: "snapshot", backup_version: "copy_pages 1", snapshot: .id, lock, locked_seconds, exact}' record)"
