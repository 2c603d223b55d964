#!/bin/bash
# ---
# RightScript Name: Restore database
# Description: |-
#   Fetches a backup with all it builds on, prepares it, replays the binary log up to where it was asked to, compares
#   what it finds with what was noted when the backup was made, and only then puts it in place. Data that is there is
#   never touched unless the group's name is typed as confirmation, and then it is kept beside.
# Inputs:
#   BACKUP_KEY:
#     Category: Backup
#     Description: The private age key (cred:BACKUP_KEY), given only when this is run; held in memory while it runs.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_BACKUP:
#     Category: Backup
#     Description: Which backup to begin with; latest takes the newest that ended before the moment asked for.
#     Input Type: single
#     Required: false
#     Default: text:latest
#   RESTORE_TO:
#     Category: Backup
#     Description: newest, backup (no binary log), gtid:POSITION (included), or time:YYYY-MM-DD HH:MM:SS in UTC (excluded).
#     Input Type: single
#     Required: false
#     Default: text:newest
#   RESTORE_CONFIRM:
#     Category: Backup
#     Description: The name of the database group, when the data that is here may be replaced.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_GROUP:
#     Category: Backup
#     Description: Whose backups; by default this server's own group's.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_LINEAGE:
#     Category: Backup
#     Description: Which history of that group's data; newest takes the one that began last.
#     Input Type: single
#     Required: false
#     Default: text:newest
#   RESTORE_NEW_LINEAGE:
#     Category: Backup
#     Description: What the history that begins with the restored data is called; made up here when it is blank.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   RESTORE_PHASE:
#     Category: Backup
#     Description: |-
#       prepare does all but putting it in place, swap puts in place what was prepared, discard removes it.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:all
#     Possible Values:
#     - text:all
#     - text:prepare
#     - text:swap
#     - text:discard
#   RESTORE_START:
#     Category: Backup
#     Description: Whether MariaDB is started afterwards, read-only.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:true
# Attachments:
# - table_checks.sh
# - copy_pages.py
# ...
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a
# shellcheck source=attachments/table_checks.sh disable=SC1091
. "$RS_ATTACH_DIR/table_checks.sh"

data=$(realpath /var/lib/mysql) # which is a link where the data lies on a volume
work=$data-restoring # beside the data: putting it in place is a rename
milliseconds() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
began=$(milliseconds)
seconds() { local ms=$(($(milliseconds) - began)); printf '%d.%02d' $((ms / 1000)) $((ms % 1000 / 10)); }
stop_with() { echo "$*" >&2; exit 1; }
server_pid='' writing_pid=
keep=  # what lies in $work stays there
RESTORE_PHASE=${RESTORE_PHASE:-all} RESTORE_LINEAGE=${RESTORE_LINEAGE:-newest} # as when it is run by hand

in_place() { # by renames; done again after it was broken off, it goes on where it was
  local kept
  systemctl stop mariadb 2>/dev/null || true
  if [ -e "$data/relaunch-group" ] && [ ! -e "$work/kept" ]; then
    kept=$data-before-$(date -u +%Y%m%dT%H%M%SZ)
    mkdir "$kept"
    find "$data" -mindepth 1 -maxdepth 1 ! -name relaunch-group -exec mv -t "$kept" {} +
    cp -p "$data/relaunch-group" "$kept"
    echo "What was here is in $kept"
  fi
  [ -e "$work/kept" ] || find "$data" -mindepth 1 -delete
  touch "$work/kept"
  [ ! -e "$work/data" ] || find "$work/data" -mindepth 1 -maxdepth 1 -exec mv -t "$data" {} +
  [ "$RESTORE_START" != true ] || systemctl start mariadb
  cat "$work/restored"
}

tidy() {
  [ -z "$writing_pid" ] || kill "$writing_pid" 2>/dev/null || true
  if [ -n "$server_pid" ]; then kill "$server_pid" 2>/dev/null || true; wait "$server_pid" 2>/dev/null || true; fi
  rm -rf "$secret"
  [ -n "$keep" ] || rm -rf "$work"
}
umask 077
secret=$(mktemp -d /run/relaunch-restore.XXXXXX)
trap tidy EXIT
if [ "$RESTORE_PHASE" = discard ]; then exit 0; fi
if [ "$RESTORE_PHASE" = swap ]; then
  [ "$RESTORE_CONFIRM" = "$BACKUP_GROUP" ] || stop_with "Nothing was touched. To replace what is here: RESTORE_CONFIRM=$BACKUP_GROUP"
  [ -e "$work/restored" ] || stop_with "Nothing is prepared here."
  keep=yes
  in_place
  keep=
  exit 0
fi
[ -n "$BACKUP_KEY" ] || stop_with "BACKUP_KEY is not given: the private age key, cred:BACKUP_KEY"
printf '%s\n' "$BACKUP_KEY" >"$secret/key"

# Nothing is fetched before it is known that it may be put here.
if [ -n "$(find "$data" -mindepth 1 -maxdepth 1 -name 'relaunch-group' 2>/dev/null)" ] && [ "$RESTORE_CONFIRM" != "$BACKUP_GROUP" ]; then
  stop_with "$data holds data of group $(cat "$data/relaunch-group"). Nothing was touched. To replace it: RESTORE_CONFIRM=$BACKUP_GROUP"
fi
case $RESTORE_TO in
  newest | backup | gtid:[0-9]*-[0-9]*-[0-9]* | time:[0-9]*) ;;
  *) stop_with "RESTORE_TO=$RESTORE_TO is none of newest, backup, gtid:POSITION, time:YYYY-MM-DD HH:MM:SS" ;;
esac
rm -rf "$work"
mkdir -p "$work"

# Whose backups, and of which history of its data: histories are never mixed.
root=${BACKUP_ROOT%/*}/${RESTORE_GROUP:-$BACKUP_GROUP}
if [ "$RESTORE_LINEAGE" = newest ]; then
  RESTORE_LINEAGE=$(rclone lsf --dirs-only "$root" | sed -n 's|^\([0-9]\{8\}T[0-9]\{6\}Z-[0-9a-f]*\)/$|\1|p' | sort | tail -n 1) || true
  [ -n "$RESTORE_LINEAGE" ] || stop_with "There are no backups in $root, or the object store cannot be read."
fi
BACKUP_ROOT=$root/$RESTORE_LINEAGE
RESTORE_NEW_LINEAGE=${RESTORE_NEW_LINEAGE:-$(date -u +%Y%m%dT%H%M%SZ)-$(od -An -N3 -tx1 /dev/urandom | tr -d ' ')}

# GTID positions: number DOMAIN POSITION, and whether one holds all of another.
number() { tr ',' '\n' <<<"$2" | awk -F- -v domain="$1" '$1 == domain {n = $3} END {print n + 0}'; }
reaches() { # reaches POSITION WANTED
  local each
  for each in ${2//,/ }; do [ "$(number "${each%%-*}" "$1")" -ge "${each##*-}" ] || return 1; done
}

# The chain: the backup, what it builds on, and so on down to a full one.
echo "Reading manifests in $BACKUP_ROOT"
rclone copy --include '/*/manifest.json' "$BACKUP_ROOT/backups" "$secret/manifests" || stop_with "The object store cannot be read."
before=99999999999999
[[ $RESTORE_TO != time:* ]] || before=$(date -u -d "${RESTORE_TO#time:} UTC" +%Y%m%d%H%M%S)
fits() { # fits ID: complete before the moment asked for
  local manifest=$secret/manifests/$1/manifest.json
  local ended
  ended=$(jq -r .ended "$manifest")
  [ "${ended//[!0-9]/}" -lt "$before" ] || return 1
  [[ $RESTORE_TO != gtid:* ]] || reaches "${RESTORE_TO#gtid:}" "$(jq -r .gtid "$manifest")"
}
if [ "$RESTORE_BACKUP" = latest ]; then
  RESTORE_BACKUP=
  # The ids of one second sort by kind; the newest end counts.
  while read -r _ id; do if fits "$id"; then RESTORE_BACKUP=$id; fi; done < <(
    for file in "$secret"/manifests/*/manifest.json; do [ ! -e "$file" ] || jq -r '"\(.ended) \(.id)"' "$file"; done | sort)
  [ -n "$RESTORE_BACKUP" ] || stop_with "There is no backup of group $BACKUP_GROUP that ended before the moment asked for."
fi
chain=() id=$RESTORE_BACKUP
while [ -n "$id" ]; do
  manifest=$secret/manifests/$id/manifest.json
  [ -e "$manifest" ] || stop_with "MISSING LINK: the backup $id has no manifest in the store${chain[0]:+; ${chain[0]} builds on it}."
  chain=("$id" "${chain[@]}")
  id=$(jq -r '.parent // ""' "$manifest")
done
last=$secret/manifests/$RESTORE_BACKUP/manifest.json
gtid=$(jq -r .gtid "$last")
echo "Chain: ${chain[*]}"
echo "Its position: $gtid, of $(jq -r .ended "$last")"
series() { grep -oE '[0-9]+\.[0-9]+' | head -n 1; }
theirs=$(jq -r .version "$last") mine=$(mariadbd --version | sed 's/.*Ver //')
[ "$(series <<<"$theirs")" = "$(series <<<"$mine")" ] ||
  stop_with "ANOTHER VERSION: $RESTORE_BACKUP is of $theirs, here is ${mine%% *}. Nothing was done. Restore it on a server of that version."

free=$(df --output=avail -B1 "$work" | tail -n 1)
need=$(for id in "${chain[@]}"; do cat "$secret/manifests/$id/manifest.json"; done | jq -s '((map(.data_bytes) | max)
  + ((map(select(.kind == "incremental") | .stored_bytes) | max) // 0) * 8) * 11 / 10 | floor')
[ "$free" -gt "$need" ] || stop_with "NOT ENOUGH DISK: $((need / 1000000)) MB are needed, $((free / 1000000)) MB are free. Nothing was done."

# Of a snapshot are stored pages, which are recovered already; else it is mariadb-backup's stream.
of_pages() { [ "$(jq -r .method "$secret/manifests/$1/manifest.json")" = snapshot ]; }
unpack() { # unpack ID FOLDER: standard input
  if of_pages "$1"; then python3 "$RS_ATTACH_DIR/copy_pages.py" load "$2"; else mbstream -x -p 2 -C "$2"; fi
}
# One object after the other, each compared with the hash in the manifest before any of it is believed.
fetch() { # fetch ID FOLDER
  local manifest=$secret/manifests/$1/manifest.json status=0 notes=$secret/fetching/$1
  mkdir -p "$2" "$notes"
  while read -r name size sha256; do
    mkfifo "$notes/fifo"
    openssl dgst -sha256 -r <"$notes/fifo" >"$notes/sum" & # faster than sha256sum of Debian 12
    rclone cat "$BACKUP_ROOT/backups/$1/$name" 2>>"$notes/rclone" | tee "$notes/fifo" || echo "$name cannot be read" >>"$notes/damaged"
    wait
    rm "$notes/fifo"
    [ "$(cut -d' ' -f1 "$notes/sum")" = "$sha256" ] || echo "DAMAGED OBJECT: $1/$name is not what was stored ($size bytes, sha256 $sha256)" >>"$notes/damaged"
  done < <(jq -r '.objects[] | "\(.name) \(.size_bytes) \(.sha256)"' "$manifest") 2>>"$notes/rclone" |
    age -d -i "$secret/key" 2>"$notes/age" | zstd -q -d | unpack "$1" "$2" || status=$?
  if grep -q "no identity matched" "$notes/age"; then
    stop_with "WRONG KEY: $1 is encrypted to $(jq -r .recipient "$manifest"), which this key does not open."
  fi
  if [ -e "$notes/damaged" ]; then cat "$notes/damaged" >&2; stop_with "The backup $1 cannot be used."; fi
  [ "$status" = 0 ] || stop_with "The backup $1 cannot be unpacked: $(tail -n 3 "$notes/age" "$notes/rclone" 2>/dev/null)"
}
# What was unpacked goes to the disk while more of it comes, and not all of it at the end.
write_on() {
  while sleep 0.5; do find "$work" -type f -size +8M -exec sync --data {} + 2>>"$secret/writing" || true; done
}
# As much as the server itself may take, unless it runs just now and takes it.
memory=$(my_print_defaults --mariadbd | sed -n 's/^--innodb[-_]buffer[-_]pool[-_]size=//p' | tail -n 1)
if [ -z "$memory" ] || pgrep -x mariadbd >/dev/null; then memory=128M; fi
# Through the system's cache, where what was unpacked still is; it is on disk once, at the end.
cached=(--innodb-flush-method=fsync --innodb-doublewrite=OFF)
prepare() {
  if ! mariadb-backup --prepare --target-dir="$work/data" --use-memory="$memory" "${cached[0]}" "$@" >"$secret/log" 2>&1 ||
    ! grep -q "completed OK!" "$secret/log"; then
    tail -n 15 "$secret/log" >&2
    stop_with "The backup could not be prepared."
  fi
}
write_on &
writing_pid=$!
fetch "${chain[0]}" "$work/data"
echo "${chain[0]} is unpacked, $(seconds) s"
for i in "${!chain[@]}"; do
  id=${chain[$i]} next=${chain[$((i + 1))]:-} fetching=
  # While one is prepared the next is fetched. Pages go straight onto those of the one before, and need no preparing.
  if [ -n "$next" ] && ! of_pages "$next"; then fetch "$next" "$work/part-$((i + 1))" & fetching=$!; fi
  if of_pages "$id"; then
    [ "$i" = 0 ] || fetch "$id" "$work/data"
  elif [ "$i" = 0 ]; then
    prepare
  else
    prepare --incremental-dir="$work/part-$i"
    rm -rf "$work/part-$i"
  fi
  echo "$id is in place, $(seconds) s"
  [ -z "$fetching" ] || wait "$fetching" || exit 1
done
rm -rf "$work/data/.copy-pages"
prepared=$(seconds)

# A server of its own on the restored data, unreachable from outside, to replay the binary log into. Its own log begins
# where the backup ends, with the same GTIDs: replicas can follow it.
chown -R mysql:mysql "$work"
chmod 711 "$work" "$secret"
sockets=$secret/sockets
install -d -o mysql -g mysql "$sockets"
ask_file() { mariadb --no-defaults --socket="$sockets/s" -N -B "$@"; }
mariadbd --defaults-file="$work/data/backup-my.cnf" --user=mysql --datadir="$work/data" --socket="$sockets/s" \
  --pid-file="$sockets/pid" --skip-networking --skip-slave-start --log-bin=binlog --binlog-format=ROW --server-id=1 \
  --gtid-strict-mode=ON --sync-binlog=0 --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size="$memory" "${cached[@]}" \
  --max-allowed-packet=1G --event-scheduler=OFF --loose-plugin-load-add= >"$secret/server" 2>&1 &
server_pid=$!
for _ in $(seq 600); do
  ask_file -e "SELECT 1" >/dev/null 2>&1 && break
  kill -0 "$server_pid" 2>/dev/null || { tail -n 20 "$secret/server" >&2; stop_with "MariaDB does not start on the restored data."; }
  sleep 0.1
done
ask_file -e "SET sql_log_bin = 0; RESET MASTER; STOP ALL SLAVES; RESET SLAVE ALL; SET GLOBAL gtid_slave_pos = '';
  SET GLOBAL gtid_binlog_state = '$gtid'; SET GLOBAL gtid_slave_pos = '$gtid'" 2>"$secret/sql" || { cat "$secret/sql" >&2; exit 1; }

reached() { ask_file -e "SELECT @@gtid_binlog_pos"; }
ask() { ask_file -e "SET time_zone = '+00:00', group_concat_max_len = 1000000; $1"; }

# The pieces of one binary log file, put together; a hole is a missing link.
assemble() { # assemble FOLDER NEWEST(yes|no)
  local folder=$1 at=0 start stop name out
  out=$secret/logs/$(basename "${folder%-*}")
  mkdir -p "$secret/logs" "$secret/pieces"
  rm -rf "$secret/pieces"
  rclone copy --transfers 16 "$BACKUP_ROOT/binlogs/$folder" "$secret/pieces" || stop_with "The binary log $folder cannot be read."
  : >"$out"
  local whole=0
  for name in $(find "$secret/pieces" -name '*.age' -printf '%f\n' | sort); do
    start=$((10#${name%%-*})) stop=${name#*-}
    stop=$((10#${stop%%.*}))
    [ "$start" -le "$at" ] || stop_with "MISSING LINK: binary log $folder lacks the bytes $at to $start."
    [ "$stop" -gt "$at" ] || continue
    # Pieces may overlap, where one was sent again because the store's answer did not come.
    age -d -i "$secret/key" "$secret/pieces/$name" 2>"$secret/age" | zstd -q -d | tail -c "+$((at - start + 1))" >>"$out" ||
      stop_with "DAMAGED OBJECT: binary log piece $folder/$name: $(head -n 1 "$secret/age")"
    at=$stop
    [[ $name == *.part.* ]] || whole=$at
  done
  if [ "$2" = no ]; then
    stop=$(find "$secret/pieces" -name 'end-*' -printf '%f\n' | sort | tail -n 1)
    [ "end-$(printf %012d "$at")" = "$stop" ] || stop_with "MISSING LINK: the end of binary log $folder is not in the store."
  else
    truncate -s "$whole" "$out" # what follows the last whole transaction is not to be replayed
  fi
}

# replay LIMIT…: the binary logs in the store, from where we are to the limit (arguments of mariadb-binlog).
replay() {
  local streams stream next folders folder first i position
  mapfile -t streams < <(rclone lsf --dirs-only "$BACKUP_ROOT/binlogs" 2>/dev/null | sed 's|/$||' | sort)
  rclone copy --include '/*/began.json' --include '/*/*/begins' "$BACKUP_ROOT/binlogs" "$secret/begins" || stop_with "The binary logs cannot be read."
  for i in "${!streams[@]}"; do
    stream=${streams[$i]} next=${streams[$((i + 1))]:-}
    position=$(reached)
    # Where the next primary's log takes over, the one before no longer counts: what only it had was never the group's.
    if [ -n "$next" ] && [ -e "$secret/begins/$next/began.json" ] && reaches "$position" "$(jq -r .gtid "$secret/begins/$next/began.json")"; then continue; fi
    mapfile -t folders < <(find "$secret/begins/$stream" -name begins -printf '%P\n' 2>/dev/null | sed 's|/begins$||' | sort)
    [ "${#folders[@]}" -gt 0 ] || continue
    first=
    for folder in "${folders[@]}"; do if reaches "$position" "$(cat "$secret/begins/$stream/$folder/begins")"; then first=$folder; fi; done
    [ -n "$first" ] || stop_with "MISSING LINK: the binary logs of $stream begin after $position."
    rm -rf "$secret/logs"
    for folder in "${folders[@]}"; do
      [[ ! $folder < $first ]] || continue
      if [ "$folder" = "${folders[-1]}" ]; then assemble "$stream/$folder" yes; else assemble "$stream/$folder" no; fi
    done
    local limits=("$@")
    [ -z "$next" ] || limits+=(--stop-position="$(jq -r .gtid "$secret/begins/$next/began.json")")
    mariadb-binlog --start-position="$position" --gtid-strict-mode=0 "${limits[@]}" "$secret"/logs/* 2>"$secret/binlog" |
      ask_file --binary-mode 2>"$secret/sql" || stop_with "Replaying $stream after $position failed: $(cat "$secret/binlog" "$secret/sql")"
  done
}

check() { # what was noted at backup time, against what is here
  local schema table method rows sum found differ=0 count=0
  while IFS=$'\t' read -r schema table method rows sum; do
    found=$(ask "$(check_sql "$schema" "$table" "$method")" 2>&1 | tr '\t' ' ')
    count=$((count + 1))
    [ "$found" = "$rows $sum" ] || { echo "DIFFERENT: $schema.$table ($method): noted $rows rows, sum $sum; found $found" >&2; differ=1; }
  done < <(jq -r '.check.tables[] | [.schema, .table, .method, .rows, .sum] | @tsv' "$last")
  [ "$differ" = 0 ] || stop_with "The restored data is not what was backed up."
  checked=$count
}
checked=0 check_gtid=$(jq -r '.check.gtid // ""' "$last")
if [ "$RESTORE_TO" != backup ]; then
  limit=()
  if [[ $RESTORE_TO == gtid:* ]]; then limit=(--stop-position="${RESTORE_TO#gtid:}"); fi
  if [[ $RESTORE_TO == time:* ]]; then limit=(--stop-datetime="${RESTORE_TO#time:}"); fi
  export TZ=UTC
  # First to where rows were summed, if that is on the way.
  if [ -n "$check_gtid" ] && [[ $RESTORE_TO != time:* ]] &&
    { [[ $RESTORE_TO != gtid:* ]] || reaches "${RESTORE_TO#gtid:}" "$check_gtid"; }; then
    reaches "$(reached)" "$check_gtid" || replay --stop-position="$check_gtid"
    [ "$(reached)" = "$check_gtid" ] || reaches "$(reached)" "$check_gtid" || stop_with "MISSING LINK: the binary logs in the store end at $(reached), before $check_gtid."
    check
  fi
  replay "${limit[@]}"
  if [[ $RESTORE_TO == gtid:* ]] && ! reaches "$(reached)" "${RESTORE_TO#gtid:}"; then
    stop_with "MISSING LINK: the binary logs in the store end at $(reached), before ${RESTORE_TO#gtid:}."
  fi
  if [[ $RESTORE_TO == gtid:* ]]; then
    wanted=${RESTORE_TO#gtid:} found=$(reached)
    for each in ${wanted//,/ }; do
      [[ ,$found, == *,$each,* ]] || stop_with "NO SUCH POSITION: this history has no $each; it is at $found there. Nothing was touched."
    done
  fi
elif [ "$gtid" = "$check_gtid" ]; then
  check
fi
echo "Rows are replayed and compared, $(seconds) s"
mariadb-check --no-defaults --socket="$sockets/s" --all-databases --silent >"$secret/tables" 2>&1 || true
! grep -iE '^(error|warning|status)|corrupt' "$secret/tables" || stop_with "Table checks found faults: $(cat "$secret/tables")"
echo "Tables are checked, $(seconds) s"
position=$(reached)
# From here on it is a history of its own.
ask_file -e "SET sql_log_bin = 0; CREATE DATABASE IF NOT EXISTS relaunch CHARACTER SET utf8mb4;
  CREATE TABLE IF NOT EXISTS relaunch.lineage (one TINYINT PRIMARY KEY, id VARCHAR(40) NOT NULL) ENGINE = InnoDB;
  REPLACE INTO relaunch.lineage VALUES (1, '$RESTORE_NEW_LINEAGE')"
ask_file -e "SET GLOBAL gtid_slave_pos = '$position'; SET GLOBAL innodb_fast_shutdown = 1; SHUTDOWN"
wait "$server_pid" || true
server_pid=
kill "$writing_pid" && writing_pid=

echo "$BACKUP_GROUP" >"$work/data/relaunch-group"
chown mysql:mysql "$work/data/relaunch-group"
sync -f "$work"
! grep "error syncing" "$secret/writing" >&2 || stop_with "The disk does not take what is restored."
echo "Restored to $position in $(seconds) s; $checked tables compared, table checks are clean"
jq -nc --arg id "$RESTORE_BACKUP" --arg gtid "$position" --argjson seconds "$(seconds)" --argjson prepared "$prepared" \
  --argjson checked "$checked" --argjson chain "${#chain[@]}" --arg lineage "$RESTORE_NEW_LINEAGE" --arg from "$RESTORE_LINEAGE" \
  '"RESTORED " + ({$id, $gtid, $seconds, prepared_seconds: $prepared, tables_compared: $checked, chain_length: $chain, $lineage, $from} | tojson)' -r >"$work/restored"
keep=yes # whatever goes wrong from now on: what was prepared is not lost
if [ "$RESTORE_PHASE" = prepare ]; then
  cat "$work/restored"
else
  in_place
  keep=
fi
