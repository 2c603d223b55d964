#!/bin/bash
# Written by relaunch: attachment backup_store.sh of the scripts that back up. Change it there.
#
# What a backup is in every dialect, and how it gets into the object store. Meant to be sourced; whoever does has:
#   sql STATEMENT    runs it here as root, prints the rows
#   work             a folder in memory; what grows with the data is a file there: no argument may have more than 128 KiB
#   state            where this server remembers its last backup
# shellcheck disable=SC2154,SC2034
set -euo pipefail

stop_with() { echo "$*" >&2; exit 1; }

if command -v mariadb >/dev/null; then
  replica_status() { mariadb -E -e "SHOW REPLICA STATUS"; }
  fenced="SELECT @@read_only"
else
  replica_status() { mysql -E -e "SHOW REPLICA STATUS"; }
  fenced="SELECT @@super_read_only OR @@offline_mode"
fi
is_fenced() { [ "$(sql "$fenced")" != 0 ]; }

# A server that applies nothing, or lags too far, has older data than a backup of it would say.
find_role() { # find_role SECONDS: so long a replica may lag, and is waited for; sets role, lag
  local longest=$1 status good=0 end=$((SECONDS + $1))
  role=primary lag=0
  status=$(replica_status)
  if [ -z "$status" ]; then
    ! is_fenced || stop_with "This server follows nobody and takes no writes: nobody knows how old its data is."
    return 0
  fi
  role=replica
  # Twice in a row: an applier that stops with an error is started again now and then, and runs for a moment.
  while [ "$good" -lt 2 ]; do
    lag=$(replica_status | awk '$1 ~ /^Seconds_Behind_(Source|Master):$/ {print $2}')
    if [ "$lag" != NULL ] && [ "$lag" -le "$longest" ]; then
      good=$((good + 1))
      sleep 0.5
      continue
    fi
    good=0
    [ "$SECONDS" -lt "$end" ] || break
    sleep 1
  done
  [ "$good" -lt 2 ] || return 0
  [ "$lag" != NULL ] || stop_with "Replication does not run here: a backup would be older than it says."
  stop_with "This replica lags $lag s behind, more than $longest s."
}

# A primary that was fenced or set aside meanwhile may have had what the group does not.
refuse_fenced() { [ "$role" = replica ] || ! is_fenced || stop_with "This server is the primary no more: the backup $id does not count."; }

alone() { # one backup at a time on this server
  exec 9>"$state/lock"
  flock -n 9 || stop_with "Another backup runs on this server."
}

# Backups lie in a folder of their data's history: another history of a group of the same name never meets them.
find_history() { # sets lineage, BACKUP_ROOT
  lineage=$(sql "SELECT id FROM relaunch.lineage" 2>/dev/null || true)
  [ -n "$lineage" ] || stop_with "This data does not say which history it is of: relaunch-ship-binlogs on the primary sees to that."
  export BACKUP_ROOT=$BACKUP_ROOT/$lineage
}

# What an incremental builds on: the last backup of this very server, if it is still in the store.
begin_backup() { # begin_backup FIT: whether what is remembered fits the data; sets kind, parent, id, target, begun, server
  kind=$BACKUP_KIND parent=
  if [ "$kind" = incremental ]; then
    parent=$(cat "$state/last/id" 2>/dev/null || true)
    if [ -z "$parent" ] || ! "$1" || [ -z "$(rclone lsf "$BACKUP_ROOT/backups/$parent/manifest.json" 2>/dev/null)" ]; then
      echo "There is no backup of this server to build on: this one is full."
      kind=full parent=
    fi
  fi
  server=$(hostname)
  begun=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  id=$(date -u +%Y%m%dT%H%M%SZ)-$kind-$server
  target=$BACKUP_ROOT/backups/$id
}

# One object of the stream, its hash taken on the way. Called by split.
upload() {
  mkfifo "$work/$1.fifo"
  openssl dgst -sha256 -r <"$work/$1.fifo" | cut -d' ' -f1 >"$work/$1.sha256" & # faster than sha256sum of Debian 12
  tee "$work/$1.fifo" | rclone rcat "$target/$1" || return 1
  wait
}
export -f upload

to_store() { # to_store NAME: standard input, compressed and encrypted, as objects NAME.00000 … of 512 MB
  export work target
  [ -z "$BACKUP_BANDWIDTH" ] || export RCLONE_BWLIMIT=$BACKUP_BANDWIDTH
  # shellcheck disable=SC2016  # split sets FILE
  dd bs=1M iflag=fullblock status=progress 2>"$work/progress" |
    zstd -q -T1 -1 | age -r "$BACKUP_RECIPIENT" |
    SHELL=/bin/bash split -b 512M -d -a 5 --filter='upload "$FILE"' - "$1."
}

# Every 2 s: how much, how fast, how long still. Of an incremental nobody knows how much there will be.
show_progress() {
  local began=$SECONDS bytes took of left
  while sleep 2; do
    bytes=$(tail -c 300 "$work/progress" | tr '\r' '\n' | awk '/bytes/ {n = $1} END {print n + 0}')
    [ "$bytes" -gt 0 ] || continue
    took=$((SECONDS - began)) of='' left=''
    if [ "$kind" = full ] && [ "$bytes" -lt "$data_bytes" ]; then
      of=" of $((data_bytes / 1000000))" left=", about $(((data_bytes - bytes) * took / bytes)) s to go"
    fi
    echo "… $((bytes / 1000000))$of MB, $((bytes / took / 1000000)) MB/s$left"
  done
}

find_objects() { # a line of JSON each in $work/objects: what is in the store, as long as it was sent
  rclone lsf --format sp --separator ' ' "$target" | sort -k2 | while read -r size name; do
    echo "$name $size $(<"$work/$name.sha256")"
  done | jq -Rc 'split(" ") | {name: .[0], size_bytes: (.[1] | tonumber), sha256: .[2]}' >"$work/objects"
  [ "$(wc -l <"$work/objects")" = "$(find "$work" -name '*.sha256' | wc -l)" ] || stop_with "Objects are missing in the store."
  echo "… all data is in the store"
}

warn() { # warn WHY: a line of JSON each in $work/warnings; WHY is what is wrong with a table that is not InnoDB's
  { odd_things "$1" || echo "what is odd about the data could not be looked for"; } | jq -R . >"$work/warnings"
}

# The manifest comes last: before it is there the backup does not count. From then on the next incremental builds on it.
end_backup() { # end_backup DIALECT MORE: MORE is an object of what only this kind has; $state/last.new what it remembers
  [ "$(sql "SELECT id FROM relaunch.lineage")" = "$lineage" ] ||
    stop_with "The history of this data ended while it was backed up: the backup $id does not count."
  jq -n --arg id "$id" --arg kind "$kind" --arg parent "$parent" --arg group "$BACKUP_GROUP" --arg lineage "$lineage" \
    --arg server "$server" --arg role "$role" --arg lag "$lag" --arg version "$(sql "SELECT VERSION()")" --arg dialect "$1" \
    --arg begun "$begun" --arg ended "$ended" --arg gtid "$gtid" --arg check_gtid "$check_gtid" --argjson data_bytes "$data_bytes" \
    --slurpfile objects "$work/objects" --slurpfile checks "$work/checks" --slurpfile unchecked "$work/unchecked" --slurpfile warnings "$work/warnings" \
    --arg recipient "$BACKUP_RECIPIENT" --argjson more "$2" '
    {format: 1, $id, $kind, parent: (if $parent == "" then null else $parent end), $group, $lineage, $server, $role,
     lag_seconds: ($lag | tonumber), $dialect, $version, $begun, $ended, $gtid, $data_bytes,
     stored_bytes: ([$objects[].size_bytes] | add), $objects, check: {gtid: $check_gtid, tables: $checks, $unchecked},
     $warnings, $recipient} + $more' >"$work/manifest.json"
  rclone rcat "$target/manifest.json" <"$work/manifest.json"
  echo "$id" >"$state/last.new/id"
  rm -rf "$state/last"
  mv "$state/last.new" "$state/last"
  jq -r '"\(.id) is complete: \(.stored_bytes) bytes in \(.objects | length) objects, position \(.gtid), \(.check.tables | length) tables summed at \(.check.gtid), \(.check.unchecked | length) not", .warnings[]' "$work/manifest.json"
  echo "BACKED-UP $id"
}
