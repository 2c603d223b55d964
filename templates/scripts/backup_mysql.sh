#!/bin/bash
# ---
# RightScript Name: Back up database
# Description: |-
#   A full or incremental physical backup to the object store: a clone beside the data, started once by itself so that
#   it is recovered and says its position, then compressed, encrypted, in objects of 512 MB, and last of all a
#   manifest.json that says what it is. Of an incremental only the pages that have changed are stored.
# Inputs:
#   BACKUP_KIND:
#     Category: Backup
#     Description: incremental falls back to full, and says so, when this server has no earlier backup to build on.
#     Input Type: single
#     Required: false
#     Default: text:full
#     Possible Values:
#     - text:full
#     - text:incremental
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
# - mysql_clone.sh
# - mysql_copy.sh
# - table_checks.sh
# - copy_pages.py
# ...
# shellcheck disable=SC2034,SC2154  # variables are given to the attachments, and come from them
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a
BACKUP_KIND=${BACKUP_KIND:-full} BACKUP_BANDWIDTH=${BACKUP_BANDWIDTH:-} # as when it is run by hand

state=/var/lib/relaunch-backup
data=$(realpath /var/lib/mysql) # which is a link where the data lies on a volume
copy=$data-backup # beside the data
work=$(mktemp -d /run/relaunch-backup.XXXXXX)
sockets=$work/sockets
chmod 711 "$work"
install -d -o mysql -g mysql -m 700 "$sockets"
sql() { mysql -N -B -e "$1"; }
here() { sql "$1"; }
for each in backup_store mysql_clone mysql_copy table_checks; do
  # shellcheck source=/dev/null
  . "$RS_ATTACH_DIR/$each.sh"
done
progress=
tidy() {
  [ -z "$progress" ] || kill "$progress" 2>/dev/null || true
  kill_copy
  end_other_clones "SOURCE = 'LOCAL INSTANCE'" || true
  rm -rf "$work" "$copy"
}
alone
trap tidy EXIT
cd "$work"

one_line() { sql "SELECT REPLACE($1, '\n', '')"; }
find_role "${BACKUP_MAX_LAG:-60}"
find_history
has_map() { [ -e "$state/last/map" ]; }
begin_backup has_map
need_disk "$(sql "$clone_bytes")" "$data"
end_other_clones "SOURCE = 'LOCAL INSTANCE'"
warn "its rows are not in this backup, a clone has InnoDB tables only"

# Rows as they are at one moment: a consistent snapshot that has just what this server had executed when it was begun.
# That is so when nothing was under way and nothing has come since: what is committed leaves gtid_owned and enters
# gtid_executed in one step, after its rows can be seen. Nothing is stopped or locked for it. On a server that is never
# still for long enough, the rows of the copy itself are summed.
touch "$work"/{checks,unchecked}
check_gtid='' checked_on=''
snapshot() {
  ask "SET time_zone = '+00:00', group_concat_max_len = 1000000, max_execution_time = $((BACKUP_CHECK_SECONDS * 1000))" >/dev/null
  ask "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ" >/dev/null
  for _ in $(seq 200); do
    before=$(ask "SELECT REPLACE(@@global.gtid_executed, '\n', '')")
    ask "START TRANSACTION WITH CONSISTENT SNAPSHOT" >/dev/null
    owned=$(ask "SELECT @@global.gtid_owned")
    after=$(ask "SELECT REPLACE(@@global.gtid_executed, '\n', '')")
    if [ -z "$owned" ] && [ "$before" = "$after" ]; then
      check_gtid=$after checked_on=server
      return 0
    fi
    ask "ROLLBACK" >/dev/null
    sleep 0.05
  done
  return 1
}

echo "$id: from the $role, lag $lag s${parent:+, on top of $parent}"
rm -rf "$copy"
install -d -o mysql -g mysql -m 750 "$copy"
if ! clone_into "$copy/data" "CLONE LOCAL DATA DIRECTORY = '$copy/data'"; then
  stop_with "The clone failed: $(tail -n 3 clone.said)"
fi
# All that is started from here on has the processor and the disk while nobody else wants them.
renice -n 19 -p $$ >/dev/null
ionice -c 3 -p $$
# Recovered now, and not in each restore; a copy that does not start is no backup.
start_copy "$copy/data" --innodb-buffer-pool-size=64M --innodb-redo-log-capacity=8M
gtid=$(copy_position)
ask_copy -e "SET sql_log_bin = 0; RESET REPLICA ALL"
if [ "$BACKUP_CHECK_SECONDS" -gt 0 ]; then
  open_session mysql -N -B --unbuffered --force
  if snapshot; then
    sum_tables "$BACKUP_CHECK_SECONDS"
  else
    echo "This server is never still: the rows are summed in the copy."
    close_session
    open_session ask_copy --unbuffered --force
    ask "SET time_zone = '+00:00', group_concat_max_len = 1000000, max_execution_time = $((BACKUP_CHECK_SECONDS * 1000))" >/dev/null
    check_gtid=$gtid checked_on=copy
    sum_tables "$BACKUP_CHECK_SECONDS"
  fi
  close_session
fi
stop_copy
data_bytes=$(du -sb --exclude='binlog.*' "$copy/data" | cut -f1)

show_progress 9>&- & # without the lock, which its sleep would hold on to
progress=$!
rm -rf "$state/last.new"
install -d "$state/last.new"
options=(--map "$state/last.new/map")
for each in 'binlog.*' 'relay.*' auto.cnf '*.pem' ib_buffer_pool '#innodb_temp' '#clone'; do options+=(--exclude "$each"); done
[ "$kind" = full ] || options+=(--since "$state/last/map")
python3 "$RS_ATTACH_DIR/copy_pages.py" save "$copy/data" "${options[@]}" | to_store data.tar.zst.age ||
  stop_with "The backup $id failed; without a manifest it does not count."
kill "$progress" 2>/dev/null || true
ended=$(date -u +%Y-%m-%dT%H:%M:%SZ)
find_objects
refuse_fenced
end_backup mysql "$(jq -n --arg on "$checked_on" '{method: "clone", backup_version: "copy_pages 1", checked_on: $on}')"
