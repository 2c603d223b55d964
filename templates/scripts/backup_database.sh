#!/bin/bash
# ---
# RightScript Name: Back up database
# Description: |-
#   A full or incremental physical backup to the object store: mariadb-backup, compressed, encrypted, in objects of
#   512 MB, and last of all a manifest.json that says what it is. Nothing is written to this server's disk.
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
#     Description: How long rows may be counted and summed afterwards, smallest tables first; 0 for not at all.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:30
# Attachments:
# - backup_store.sh
# - table_checks.sh
# ...
# shellcheck disable=SC2034,SC2154  # variables are given to the attachments, and come from them
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a
BACKUP_KIND=${BACKUP_KIND:-full} BACKUP_BANDWIDTH=${BACKUP_BANDWIDTH:-} # as when it is run by hand

state=/var/lib/relaunch-backup
work=$(mktemp -d /run/relaunch-backup.XXXXXX)
sql() { mariadb -N -B -e "$1"; }
for each in backup_store table_checks; do
  # shellcheck source=/dev/null
  . "$RS_ATTACH_DIR/$each.sh"
done
progress='' hurry=''
tidy() {
  local each
  for each in $progress $hurry; do kill "$each" 2>/dev/null || true; done
  rm -rf "$work"
}
trap tidy EXIT
alone

# All that is started here has the processor and the disk while nobody else wants them: whoever serves queries goes first…
chrt --idle --pid 0 $$
ionice -c 3 -p $$
# …until mariadb-backup holds up commits: they would wait for it, so then it waits for nobody.
hurry_at_the_lock() {
  local pid
  grep -q -m 1 "BACKUP STAGE BLOCK_COMMIT" < <(tail --pid=$$ -s 0.1 -n +1 -f "$work/log") || return 0
  for pid in $(pgrep -g 0); do
    chrt --other --pid 0 "$pid" && ionice -c 2 -n 0 -p "$pid"
  done 2>/dev/null || true
}

find_role "${BACKUP_MAX_LAG:-60}"
find_history
of_this_data() { [ "$(cat "$state/last/data" 2>/dev/null)" = "$(stat -c %i /var/lib/mysql/ibdata1)" ]; }
begin_backup of_this_data
data_bytes=$(du -sb --exclude='binlog.*' --exclude='relay.*' /var/lib/mysql/ | cut -f1)
echo "$id: from the $role, lag $lag s, $((data_bytes / 1000000)) MB of data${parent:+, on top of $parent}"

# Commits are held up until the copier of the redo log looks once more: that is a second when nothing else is said.
options=(--backup --stream=mbstream --extra-lsndir="$work/lsn" --target-dir="$work" --tmpdir="$work" --log-copy-interval=20)
[ "$role" = primary ] || options+=(--slave-info)
if [ "$kind" = incremental ]; then
  options+=(--incremental-lsn="$(awk '$1 == "to_lsn" {print $3}' "$state/last/checkpoints")")
fi
: >"$work/log"
show_progress 9>&- & # neither of the two holds the lock
progress=$!
hurry_at_the_lock 9>&- &
hurry=$!
if ! mariadb-backup "${options[@]}" 2>"$work/log" | to_store data.mbstream.zst.age; then
  grep -v '^\[00\]' "$work/log" | tail -n 15 >&2
  tail -n 15 "$work/log" >&2
  stop_with "The backup $id failed; without a manifest it does not count."
fi
kill "$progress" "$hurry" 2>/dev/null || true
grep -q "completed OK!" "$work/log" || stop_with "mariadb-backup did not complete: $(tail -n 5 "$work/log")"
ended=$(date -u +%Y-%m-%dT%H:%M:%SZ)

# The position of the data. On a replica it is what was applied, on the primary what was written.
gtid=$(sed -n "s/.*gtid_slave_pos = '\([^']*\)'.*/\1/p" "$work/log" | tail -n 1)
[ -n "$gtid" ] || gtid=$(sed -n "s/.*GTID of the last change '\([^']*\)'.*/\1/p" "$work/log" | tail -n 1)
find_objects

# Rows as they are at one moment after the backup: a consistent snapshot, whose GTID position is noted. Whoever restores
# replays the binary log to just there and must find the same. Nothing is stopped or locked for it.
touch "$work"/{checks,unchecked}
check_gtid=
warn "not covered by transactions"
if [ "$BACKUP_CHECK_SECONDS" -gt 0 ]; then
  open_session mariadb -N -B --unbuffered --force
  ask "SET time_zone = '+00:00', group_concat_max_len = 1000000, max_statement_time = $BACKUP_CHECK_SECONDS" >/dev/null
  ask "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ" >/dev/null
  ask "START TRANSACTION WITH CONSISTENT SNAPSHOT" >/dev/null
  file=$(ask "SHOW STATUS LIKE 'binlog_snapshot_file'" | cut -f2)
  position=$(ask "SHOW STATUS LIKE 'binlog_snapshot_position'" | cut -f2)
  check_gtid=$(ask "SELECT BINLOG_GTID_POS('$file', $position)")
  # A server that has written no event of its own yet has the position it was seeded with.
  [ -n "$check_gtid" ] || check_gtid=$gtid
  sum_tables "$BACKUP_CHECK_SECONDS"
  ask "ROLLBACK" >/dev/null
  close_session
fi

rm -rf "$state/last.new"
install -d "$state/last.new"
cp "$work"/lsn/*_checkpoints "$state/last.new/checkpoints"
stat -c %i /var/lib/mysql/ibdata1 >"$state/last.new/data"
refuse_fenced
end_backup mariadb "$(jq -n --arg version "$(mariadb-backup --version 2>&1 | head -n 1)" \
  --arg checkpoints "$(cat "$state/last.new/checkpoints")" '{backup_version: $version, $checkpoints}')"
