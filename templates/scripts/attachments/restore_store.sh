#!/bin/bash
# Written by relaunch: attachment restore_store.sh of the scripts that restore. Change it there.
#
# What a restore is in every dialect: which history, which backups of it, fetched and compared with their hashes; the
# binary log put together; what was noted at backup time compared; the data put in place. Meant to be sourced; whoever does has:
#   data      the data directory
#   work      a folder beside it
#   secret    a folder in memory, with the private key in the file key
#   unit      what systemd starts
#   reaches POSITION WANTED    whether the first position has all of the second
#   ask_copy WORD…             the client of the server on the restored data
#   check_tables WORD…         what checks its tables
# shellcheck disable=SC2154,SC2034
set -euo pipefail

milliseconds() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
began=$(milliseconds)
seconds() { local ms=$(($(milliseconds) - began)); printf '%d.%02d' $((ms / 1000)) $((ms % 1000 / 10)); }
stop_with() { echo "$*" >&2; exit 1; }
keep= # what lies in $work stays there

alone() { # one restore at a time on this server: to be asked for before anything of ours could be removed
  exec 9>/run/relaunch-restore.lock
  flock -n 9 && return
  rm -rf "$secret"
  stop_with "Another restore is at work on this server. Nothing was touched: wait for its end, then restore again."
}

# What the server leaves is only kept to be looked at: a crash leaves it as good, within a tenth of the time, and without
# waiting for commits that wait for a replica. Tables without transactions would be torn, so they have it stop in order.
stop_for_good() {
  local client=$unit foreign # they are called alike
  foreign=$(timeout 2 "$client" -N -B -e "SELECT COUNT(*) FROM information_schema.tables WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
    AND engine <> 'InnoDB' AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')" 2>/dev/null) || true
  [ "$foreign" != 0 ] || systemctl kill --signal=KILL "$unit" 2>/dev/null || true
  systemctl stop "$unit" 2>/dev/null || true
  systemctl reset-failed "$unit" 2>/dev/null || true # or this would count against its next starts
}

in_place() { # by renames; done again after it was broken off, it goes on where it was
  local kept
  stop_for_good
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
  [ "$RESTORE_START" != true ] || systemctl start "$unit"
  cat "$work/restored"
}

swap() {
  keep=yes
  [ "$RESTORE_CONFIRM" = "$BACKUP_GROUP" ] || stop_with "Nothing was touched. To replace what is here: RESTORE_CONFIRM=$BACKUP_GROUP"
  [ -e "$work/restored" ] || stop_with "Nothing is prepared here."
  if [ -n "$RESTORE_NEW_LINEAGE" ] && ! grep -qF "\"lineage\":\"$RESTORE_NEW_LINEAGE\"" "$work/restored"; then
    stop_with "What is prepared here is another restore's: $(cat "$work/restored"). Nothing was touched: restore again."
  fi
  in_place
  keep=
}

# Nothing is fetched before it is known that it may be put here.
refuse_without_confirmation() {
  [ -n "$BACKUP_KEY" ] || stop_with "BACKUP_KEY is not given: the private age key, cred:BACKUP_KEY"
  if [ -e "$data/relaunch-group" ] && [ "$RESTORE_CONFIRM" != "$BACKUP_GROUP" ]; then
    stop_with "$data holds data of group $(cat "$data/relaunch-group"). Nothing was touched. To replace it: RESTORE_CONFIRM=$BACKUP_GROUP"
  fi
}

# Whose backups, and of which history of its data: histories are never mixed.
choose_history() { # sets RESTORE_LINEAGE, BACKUP_ROOT, RESTORE_NEW_LINEAGE
  local root=${BACKUP_ROOT%/*}/${RESTORE_GROUP:-$BACKUP_GROUP}
  if [ "$RESTORE_LINEAGE" = newest ]; then
    RESTORE_LINEAGE=$(rclone lsf --dirs-only "$root" | sed -n 's|^\([0-9]\{8\}T[0-9]\{6\}Z-[0-9a-f]*\)/$|\1|p' | sort | tail -n 1) || RESTORE_LINEAGE=
    [ -n "$RESTORE_LINEAGE" ] || stop_with "There are no backups in $root, or the object store cannot be read."
  fi
  BACKUP_ROOT=$root/$RESTORE_LINEAGE
  RESTORE_NEW_LINEAGE=${RESTORE_NEW_LINEAGE:-$(date -u +%Y%m%dT%H%M%SZ)-$(od -An -N3 -tx1 /dev/urandom | tr -d ' ')}
}

manifest() { echo "$secret/manifests/$1/manifest.json"; }

# A line each, "ENDED ID", by one process: within a year there are thousands.
every_backup() {
  python3 -c '
import json, pathlib, sys
for file in pathlib.Path(sys.argv[1]).glob("*/manifest.json"):
    try:
        told = json.loads(file.read_bytes())
        print(told["ended"], told["id"])
    except (ValueError, KeyError, TypeError) as error:
        print(f"{file.parent.name}: its manifest cannot be read: {error}", file=sys.stderr)
' "$secret/manifests"
}

# The chain: the backup, what it builds on, and so on down to a full one.
choose_chain() { # sets RESTORE_BACKUP, chain, last (its manifest), gtid
  local before=99999999999999 id ended
  echo "Reading manifests in $BACKUP_ROOT"
  # One list of all of them, not one for each.
  rclone copy --fast-list --transfers 16 --checkers 16 --include '/*/manifest.json' "$BACKUP_ROOT/backups" "$secret/manifests" ||
    stop_with "The object store cannot be read."
  [[ $RESTORE_TO != time:* ]] || before=$(date -u -d "${RESTORE_TO#time:} UTC" +%Y%m%d%H%M%S)
  if [ "$RESTORE_BACKUP" = latest ]; then
    RESTORE_BACKUP=
    # The ids of one second sort by kind; the newest end counts.
    while read -r ended id; do
      [ "${ended//[!0-9]/}" -lt "$before" ] || continue
      [[ $RESTORE_TO != gtid:* ]] || reaches "${RESTORE_TO#gtid:}" "$(jq -r .gtid "$(manifest "$id")")" || continue
      RESTORE_BACKUP=$id
    done < <(every_backup | sort)
    [ -n "$RESTORE_BACKUP" ] || stop_with "There is no backup of group $BACKUP_GROUP that ended before the moment asked for."
  fi
  chain=() id=$RESTORE_BACKUP
  while [ -n "$id" ]; do
    [ -e "$(manifest "$id")" ] || stop_with "MISSING LINK: the backup $id has no manifest in the store${chain[0]:+; ${chain[0]} builds on it}."
    [[ " ${chain[*]} " != *" $id "* ]] || stop_with "MISSING LINK: the backup $id builds on itself."
    chain=("$id" "${chain[@]}")
    id=$(jq -r '.parent // ""' "$(manifest "$id")")
  done
  last=$(manifest "$RESTORE_BACKUP")
  gtid=$(jq -r .gtid "$last")
  echo "Chain: ${chain[*]}"
  echo "Its position: $gtid, of $(jq -r .ended "$last")"
}

must_have_no_more() { # must_have_no_more WHAT POSITION: than the position asked for
  reaches "${RESTORE_TO#gtid:}" "$2" || stop_with "NO SUCH POSITION: $1 has more than ${RESTORE_TO#gtid:}: $2. Nothing was touched."
}

need_room() { # need_room BYTES
  local free
  free=$(df --output=avail -B1 "$work" | tail -n 1)
  [ "$free" -gt "$1" ] || stop_with "NOT ENOUGH DISK: $(($1 / 1000000)) MB are needed, $((free / 1000000)) MB are free. Nothing was done."
}

# Each object is compared with the hash in the manifest before any of it is believed. All of this is held up by the
# processor alone, so age and rclone look for unused memory less often, and mbstream keeps what it has had.
fetch() { # fetch ID COMMAND…: which gets what was backed up on its standard input
  local id=$1 status=0 notes=$secret/fetching/$1
  shift
  mkdir -p "$notes"
  local -x GOGC=400 GLIBC_TUNABLES=glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=268435456
  {
    { python3 "$RS_ATTACH_DIR/fetch_objects.py" "$BACKUP_ROOT/backups/$id" 3 <"$(manifest "$id")" 2>"$notes/objects" || touch "$notes/damaged"; } |
      age -d -i "$secret/key" 2>"$notes/age" | zstd -q -d | "$@" 2>"$notes/unpacking"
  } 3>&1 || status=$? # there it says how far it is
  if grep -q "no identity matched" "$notes/age"; then
    stop_with "WRONG KEY: $id is encrypted to $(jq -r .recipient "$(manifest "$id")"), which this key does not open."
  fi
  [ ! -e "$notes/damaged" ] || stop_with "The backup $id cannot be used. $(cat "$notes/objects")"
  [ "$status" = 0 ] || stop_with "The backup $id cannot be unpacked: $(tail -q -n 3 "$notes"/{age,objects,unpacking})"
  echo "… $id is fetched"
}

# What was unpacked goes to the disk while more of it comes, and not all of it at the end.
writing_pid=
write_on() {
  : >"$secret/writing"
  while sleep 0.2; do find "$work" -path "$work/logs" -prune -o -type f -size +8M -exec sync --data {} + 2>>"$secret/writing" || true; done 9>&- &
  writing_pid=$!
}
stop_writing_on() {
  [ -z "$writing_pid" ] || kill "$writing_pid" 2>/dev/null || true
  writing_pid=
}
write_rest() { # until all of it is on disk
  stop_writing_on
  rm -rf "$work/logs" "$work/pieces"
  sync -f "$work"
  ! grep "error syncing" "$secret/writing" >&2 || stop_with "The disk does not take what is restored."
}

# Names in the store go into sums, where a name may be a command: what is not called as the shipper calls it is left alone.
log_folders() { sed -nE 's|^([A-Za-z0-9_.-]+\.[0-9]{6,10}-[0-9a-f]{8})/$|\1|p'; }
log_pieces() { sed -nE '/^[0-9]{12,15}-[0-9]{12,15}(\.part)?\.binlog\.zst\.age$/p'; }
streams=() logs_of='' logs_bytes=0 # of which stream the logs are put together in $work/logs, and how many bytes
BEGINS_AT_ONCE=64
find_logs() { # sets streams; what each began with is below $secret/begins
  [ ! -e "$secret/begins" ] || return 0 # what has come since is not missing
  local listed
  listed=$(rclone lsf --dirs-only "$BACKUP_ROOT/binlogs") || stop_with "The binary logs cannot be read."
  mapfile -t streams < <(sed -n 's|/$||p' <<<"$listed" | sort)
  rclone copy --include '/*/began.json' "$BACKUP_ROOT/binlogs" "$secret/begins" || stop_with "The binary logs cannot be read."
}

fetch_begins() { # fetch_begins STREAM FOLDER…: what these files begin with, as far as the store knows, to below $secret/begins
  local stream=$1 status=0
  shift
  printf '%s/begins\n' "${@/#/$stream/}" |
    rclone copy --no-traverse --transfers 16 --checkers 16 --files-from-raw - "$BACKUP_ROOT/binlogs" "$secret/begins" || status=$?
  case $status in
    0 | 3 | 4) ;; # of the last two: there is none of them
    *) stop_with "The binary logs of $stream cannot be read." ;;
  esac
}

taken_over_at() { # taken_over_at STREAM: the position at which its primary took over
  if [ -e "$secret/begins/$1/began.json" ]; then jq -r .gtid "$secret/begins/$1/began.json"; fi
}

# The files of one stream from a position on to what is asked for, put together in $work/logs; nothing when the stream has
# none. They follow each other by their numbers: what one begins with is only needed to find the first and the last.
fetch_logs() { # fetch_logs STREAM POSITION
  local stream=$1 position=$2 listed folders folder begins first='' start end i number before=''
  [ "$stream" != "$logs_of" ] || return 0
  logs_of=$stream logs_bytes=0
  listed=$(rclone lsf --dirs-only "$BACKUP_ROOT/binlogs/$stream") || stop_with "The binary logs of $stream cannot be read."
  mapfile -t folders < <(log_folders <<<"$listed" | sort)
  rm -rf "$work/logs"
  [ "${#folders[@]}" -gt 0 ] || return 0
  # The newest first: within a year there are tens of thousands, and a restore mostly begins minutes ago.
  for ((end = ${#folders[@]}; end > 0; end = start)); do
    start=$((end > BEGINS_AT_ONCE ? end - BEGINS_AT_ONCE : 0))
    fetch_begins "$stream" "${folders[@]:start:end-start}"
    for ((i = end - 1; i >= start; i--)); do
      begins=$secret/begins/$stream/${folders[i]}/begins
      if [ -e "$begins" ] && reaches "$position" "$(cat "$begins")"; then
        first=${folders[i]}
        break 2
      fi
    done
  done
  [ -n "$first" ] || stop_with "MISSING LINK: the binary logs of $stream begin after $position."
  for folder in "${folders[@]}"; do
    [[ ! $folder < $first ]] || continue
    number=${folder%-*}
    number=$((10#${number##*.}))
    [ -z "$before" ] || [ "$number" = $((before + 1)) ] ||
      stop_with "MISSING LINK: of $stream the store has no binary logs between the numbers $before and $number."
    before=$number
    if [ "$folder" = "${folders[-1]}" ]; then assemble "$stream/$folder" yes; else assemble "$stream/$folder" no; fi
    ! is_past "$stream/$folder" || break
  done
}

# Whether a file, and so all after it, has nothing of what is asked for: it was made at the moment or later, or begins with
# all of the position.
is_past() { # is_past FOLDER
  local begins=$secret/begins/$1/begins
  case $RESTORE_TO in
    time:*) [ "$((16#${1##*-}))" -ge "$(date -u -d "${RESTORE_TO#time:} UTC" +%s)" ] ;;
    gtid:*) [ -e "$begins" ] && reaches "$(cat "$begins")" "${RESTORE_TO#gtid:}" ;;
    *) false ;;
  esac
}

not_for_want_of_disk() { # not_for_want_of_disk NOTES: what the commands said that failed
  ! grep -i "no space left on device" "$1" >&2 || stop_with "NOT ENOUGH DISK for the binary log. Nothing was touched."
}

# The pieces of one binary log file, put together; a hole is a missing link.
assemble() { # assemble FOLDER NEWEST(yes|no)
  local folder=$1 at=0 whole=0 size start stop names name out
  out=$work/logs/$(basename "${folder%-*}")
  rm -rf "$work/pieces"
  mkdir -p "$work/logs" "$work/pieces"
  rclone copy --transfers 16 "$BACKUP_ROOT/binlogs/$folder" "$work/pieces" 2>"$secret/copying" || {
    not_for_want_of_disk "$secret/copying"
    stop_with "The binary log $folder cannot be read: $(tail -n 3 "$secret/copying")"
  }
  names=$(find "$work/pieces" -type f -printf '%f\n' | log_pieces | sort)
  size=$(awk -F '[-.]' '$2 + 0 > most {most = $2 + 0} END {printf "%.0f", most}' <<<"$names")
  logs_bytes=$((logs_bytes + size))
  need_room $((size + logs_bytes)) # what is replayed is written to the restored server's own log
  : >"$out"
  for name in $names; do
    start=$((10#${name%%-*})) stop=${name#*-}
    stop=$((10#${stop%%.*}))
    [ "$start" -le "$at" ] || stop_with "MISSING LINK: binary log $folder lacks the bytes $at to $start."
    [ "$stop" -gt "$at" ] || continue
    # Pieces may overlap, where one was sent again because the store's answer did not come.
    # No more than there is room for, whatever it unpacks to.
    { age -d -i "$secret/key" "$work/pieces/$name" 2>"$secret/age" | zstd -q -d | head -c $((stop - start + 1)) |
      tail -c "+$((at - start + 1))" >>"$out"; } 2>"$secret/unpacking" || {
      not_for_want_of_disk "$secret/unpacking"
      stop_with "DAMAGED OBJECT: binary log piece $folder/$name: $(head -q -n 1 "$secret"/{age,unpacking})"
    }
    [ "$(stat -c %s "$out")" = "$stop" ] || stop_with "DAMAGED OBJECT: binary log piece $folder/$name does not hold as many bytes as it says."
    at=$stop
    [[ $name == *.part.* ]] || whole=$at
  done
  if [ "$2" = no ]; then
    stop=$(find "$work/pieces" -name 'end-*' -printf '%f\n' | sort | tail -n 1)
    [ "end-$(printf %012d "$at")" = "$stop" ] || stop_with "MISSING LINK: the end of binary log $folder is not in the store."
    python3 "$RS_ATTACH_DIR/binlog_events.py" whole "$out" # a server that crashed leaves half an event, which would end the replay
  elif [ "$whole" = 0 ]; then # no log file is empty: what decodes it would refuse it
    rm "$out"
    rmdir --ignore-fail-on-non-empty "$work/logs"
  else
    truncate -s "$whole" "$out" # what follows the last whole transaction is not to be replayed
  fi
}

# Whether a replay up to POSITION or TIME has come to that in the logs that are put together. NEXT is where the stream after
# them begins: when they end before it there is a hole, unless it was the limit that ended the replay.
came_to_its_end() { # came_to_its_end POSITION TIME NEXT
  local position
  position=$(copy_position)
  if [ -n "$1" ] && reaches "$position" "$1"; then return 0; fi
  if [ -z "$3" ] || reaches "$position" "$3"; then return 1; fi
  if [ -n "$2" ] && python3 "$RS_ATTACH_DIR/binlog_events.py" comes-to "$2" "$work"/logs/*; then return 0; fi
  stop_with "MISSING LINK: the binary logs of $logs_of in the store end at $position, and those after them begin at $3."
}

checked=0 tables_checked=''
# The rows as they were noted at backup time, in one session, while in others the tables are checked. What is replayed
# afterwards this server has written itself.
compare() {
  local schema table method rows sum found differ=0
  jq -r '.check.tables[] | [.schema, .table, .method, .rows, .sum] | @tsv' "$last" >"$secret/noted" ||
    stop_with "What was noted of the tables of $RESTORE_BACKUP cannot be read."
  begin_table_checks
  open_session ask_copy --unbuffered --force
  ask "SET time_zone = '+00:00', group_concat_max_len = 1000000" >/dev/null
  while IFS=$'\t' read -r schema table method rows sum; do
    printf -v schema %b "$schema" # jq has escaped in them what the lines could not hold
    printf -v table %b "$table"
    found=$(ask "$(check_sql "$schema" "$table" "$method")" 2>&1 | tr '\t' ' ') || stop_with "$found"
    checked=$((checked + 1))
    [ "$found" = "$rows $sum" ] || { echo "DIFFERENT: $schema.$table ($method): noted $rows rows, sum $sum; found $found" >&2; differ=1; }
  done <"$secret/noted"
  close_session
  end_table_checks # first: a table that is damaged may have been read as rows that differ, too
  [ "$differ" = 0 ] || stop_with "The restored data is not what was backed up."
}

begin_table_checks() {
  check_tables --all-databases --silent >"$secret/tables" 2>&1 &
  checking_pid=$!
}
end_table_checks() {
  wait "$checking_pid" || echo "status $?: the checks did not come to their end" >>"$secret/tables"
  ! grep -iE '^(error|warning|status)|corrupt' "$secret/tables" || stop_with "Table checks found faults: $(cat "$secret/tables")"
  tables_checked=yes
}
check_tables_once() {
  [ -z "$tables_checked" ] || return 0
  begin_table_checks
  end_table_checks
}

new_lineage() { # the statements: from here on it is a history of its own
  echo "SET sql_log_bin = 0; CREATE DATABASE IF NOT EXISTS relaunch CHARACTER SET utf8mb4;
    CREATE TABLE IF NOT EXISTS relaunch.lineage (one TINYINT PRIMARY KEY, id VARCHAR(40) NOT NULL) ENGINE = InnoDB;
    REPLACE INTO relaunch.lineage VALUES (1, '$RESTORE_NEW_LINEAGE')"
}

# By a file that is made anew: what lies there may be a link that came with the data.
mark_as_ours() { install -o mysql -g mysql -m 600 /dev/stdin "$work/data/relaunch-group" <<<"$BACKUP_GROUP"; }

end_restore() { # end_restore POSITION PREPARED_SECONDS
  mark_as_ours
  echo "Restored to $1 in $(seconds) s; $checked tables compared, table checks are clean"
  jq -nc --arg id "$RESTORE_BACKUP" --arg gtid "$1" --argjson seconds "$(seconds)" --argjson prepared "$2" \
    --argjson checked "$checked" --argjson chain "${#chain[@]}" --arg lineage "$RESTORE_NEW_LINEAGE" --arg from "$RESTORE_LINEAGE" \
    '"RESTORED " + ({$id, $gtid, $seconds, prepared_seconds: $prepared, tables_compared: $checked, chain_length: $chain, $lineage, $from} | tojson)' -r >"$work/restored"
  keep=yes # whatever goes wrong from now on: what was prepared is not lost
  if [ "$RESTORE_PHASE" = prepare ]; then
    cat "$work/restored"
  else
    in_place
    keep=
  fi
}
