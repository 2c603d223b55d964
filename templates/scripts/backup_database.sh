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
# - table_checks.sh
# ...
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a
# shellcheck source=attachments/table_checks.sh disable=SC1091
. "$RS_ATTACH_DIR/table_checks.sh"

state=/var/lib/relaunch-backup
work=$(mktemp -d /run/relaunch-backup.XXXXXX)
trap 'rm -rf "$work"' EXIT
exec 9>"$state/lock"
flock -n 9 || { echo "Another backup runs on this server." >&2; exit 1; }

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

sql() { mariadb -N -B -e "$1"; }
stop_with() { echo "$*" >&2; exit 1; }

role=primary lag=0
if [ -n "$(sql "SHOW ALL SLAVES STATUS")" ]; then role=replica; fi
[ "$role" = primary ] && [ "$(sql "SELECT @@read_only")" = 1 ] &&
  stop_with "This server follows nobody and takes no writes: nobody knows how old its data is."

replica_lag() { mariadb -e "SHOW ALL SLAVES STATUS\G" | awk '$1 == "Seconds_Behind_Master:" {print $2}'; }
if [ "$role" = replica ]; then
  for _ in $(seq "$BACKUP_MAX_LAG"); do
    lag=$(replica_lag)
    [ "$lag" = NULL ] || [ "$lag" -gt "$BACKUP_MAX_LAG" ] || break
    sleep 1
  done
  [ "$lag" != NULL ] || stop_with "Replication does not run here: a backup would be older than it says."
  [ "$lag" -le "$BACKUP_MAX_LAG" ] || stop_with "This replica lags $lag s behind, more than $BACKUP_MAX_LAG s."
fi

# Backups lie in a folder of their data's history: another history of a group of the same name never meets them.
lineage=$(sql "SELECT id FROM relaunch.lineage" 2>/dev/null || true)
[ -n "$lineage" ] || stop_with "This data does not say which history it is of: relaunch-ship-binlogs on the primary sees to that."
export BACKUP_ROOT=$BACKUP_ROOT/$lineage

# What an incremental builds on: the last backup of this very server, if it is still in the store.
kind=$BACKUP_KIND parent=
if [ "$kind" = incremental ]; then
  parent=$(cat "$state/last/id" 2>/dev/null || true)
  if [ -z "$parent" ] || [ "$(cat "$state/last/data" 2>/dev/null)" != "$(stat -c %i /var/lib/mysql/ibdata1)" ] ||
    [ -z "$(rclone lsf "$BACKUP_ROOT/backups/$parent/manifest.json" 2>/dev/null)" ]; then
    echo "There is no backup of this server to build on: this one is full."
    kind=full parent=
  fi
fi
server=$(hostname)
begun=$(date -u +%Y-%m-%dT%H:%M:%SZ)
id=$(date -u +%Y%m%dT%H%M%SZ)-$kind-$server
target=$BACKUP_ROOT/backups/$id
data_bytes=$(du -sb --exclude='binlog.*' --exclude='relay.*' /var/lib/mysql/ | cut -f1)
echo "$id: from the $role, lag $lag s, $((data_bytes / 1000000)) MB of data${parent:+, on top of $parent}"

options=(--backup --stream=mbstream --extra-lsndir="$work/lsn" --target-dir="$work" --tmpdir="$work")
[ "$role" = primary ] || options+=(--slave-info)
if [ "$kind" = incremental ]; then
  lsn=$(awk '$1 == "to_lsn" {print $3}' "$state/last/checkpoints")
  options+=(--incremental-lsn="$lsn")
fi

# One object of the stream, its hash taken on the way. Called by split.
upload() {
  mkfifo "$work/$1.fifo"
  openssl dgst -sha256 -r <"$work/$1.fifo" | cut -d' ' -f1 >"$work/$1.sha256" & # faster than sha256sum of Debian 12
  tee "$work/$1.fifo" | rclone rcat "$target/$1" || return 1
  wait
}
export -f upload
export work target
[ -z "$BACKUP_BANDWIDTH" ] || export RCLONE_BWLIMIT=$BACKUP_BANDWIDTH

progress() {  # every 10 s: how much, how fast, how long still
  local began=$SECONDS bytes
  while sleep 10; do
    bytes=$(tr '\r' '\n' <"$work/progress" | awk '/bytes/ {n = $1} END {print n + 0}')
    [ "$bytes" -gt 0 ] || continue
    local took=$((SECONDS - began)) left=""
    if [ "$kind" = full ] && [ "$bytes" -lt "$data_bytes" ]; then
      left=", about $(((data_bytes - bytes) * took / bytes)) s to go"
    fi
    echo "$((bytes / 1000000)) MB read, $((bytes / took / 1000000)) MB/s$left"
  done
}
progress 9>&- & # neither of the two holds the lock
progress=$!
: >"$work/log"
hurry_at_the_lock 9>&- &
hurry=$!
trap 'kill $progress $hurry 2>/dev/null || true; rm -rf "$work"' EXIT

# shellcheck disable=SC2016  # split sets FILE
if ! mariadb-backup "${options[@]}" 2>"$work/log" |
  dd bs=1M iflag=fullblock status=progress 2>"$work/progress" |
  zstd -q -T1 -3 | age -r "$BACKUP_RECIPIENT" |
  SHELL=/bin/bash split -b 512M -d -a 5 --filter='upload "$FILE"' - data.mbstream.zst.age.; then
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
checkpoints=$(echo "$work"/lsn/*_checkpoints)

# In the store, as long as they were sent?
objects=$(rclone lsf --format sp --separator ' ' "$target" | sort -k2 | while read -r size name; do
  jq -n --arg name "$name" --argjson size "$size" --arg sha256 "$(cat "$work/$name.sha256")" '{$name, size_bytes: $size, $sha256}'
done | jq -s .)
[ "$(jq length <<<"$objects")" = "$(find "$work" -name '*.sha256' | wc -l)" ] || stop_with "Objects are missing in the store."

# Rows as they are at one moment after the backup: a consistent snapshot, whose GTID position is noted. Whoever restores
# replays the binary log to just there and must find the same. Nothing is stopped or locked for it.
coproc DB { mariadb -N -B --unbuffered --force 2>/dev/null; }
exec {to_db}>&"${DB[1]}" {from_db}<&"${DB[0]}" # copies: bash closes its own in subshells
ask() {
  local line
  echo "$1; SELECT '#end';" >&"$to_db"
  while read -r line <&"$from_db" && [ "$line" != '#end' ]; do printf '%s\n' "$line"; done
}
checks='[]' unchecked='[]' check_gtid=
warnings=$({ odd_things "not covered by transactions" || echo "what is odd about the data could not be looked for"; } | jq -R . | jq -s .)
if [ "$BACKUP_CHECK_SECONDS" -gt 0 ]; then
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
fi

jq -n --arg id "$id" --arg kind "$kind" --arg parent "$parent" --arg group "$BACKUP_GROUP" --arg lineage "$lineage" --arg server "$server" \
  --arg role "$role" --arg lag "$lag" --arg version "$(sql "SELECT VERSION()")" \
  --arg backup_version "$(mariadb-backup --version 2>&1 | head -n 1)" --arg begun "$begun" --arg ended "$ended" \
  --arg gtid "$gtid" --arg check_gtid "$check_gtid" --argjson data_bytes "$data_bytes" --argjson objects "$objects" \
  --argjson checks "$checks" --argjson unchecked "$unchecked" --argjson warnings "$warnings" \
  --arg recipient "$BACKUP_RECIPIENT" --arg checkpoints "$(cat "$checkpoints")" '
  {format: 1, $id, $kind, parent: (if $parent == "" then null else $parent end), $group, $lineage, $server, $role,
   lag_seconds: ($lag | tonumber), dialect: "mariadb", $version, $backup_version, $begun, $ended, $gtid, $data_bytes,
   stored_bytes: ([$objects[].size_bytes] | add), $objects, $checkpoints, check: {gtid: $check_gtid, tables: $checks, $unchecked},
   $warnings, $recipient}' >"$work/manifest.json"
rclone rcat "$target/manifest.json" <"$work/manifest.json"

# From now on the next incremental builds on this one.
rm -rf "$state/last.new"
install -d "$state/last.new"
cp "$checkpoints" "$state/last.new/checkpoints"
echo "$id" >"$state/last.new/id"
stat -c %i /var/lib/mysql/ibdata1 >"$state/last.new/data"
rm -rf "$state/last"
mv "$state/last.new" "$state/last"
jq -r '"\(.id) is complete: \(.stored_bytes) bytes in \(.objects | length) objects, position \(.gtid), \(.check.tables | length) tables summed at \(.check.gtid), \(.check.unchecked | length) not", .warnings[]' "$work/manifest.json"
echo "BACKED-UP $id"
