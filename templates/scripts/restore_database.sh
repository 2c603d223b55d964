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
#     Description: |-
#       What the history that begins with the restored data is called; made up here when it is blank. With swap, what
#       was prepared is put in place only if it was prepared with this one.
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
# - restore_store.sh
# - mariadb_copy.sh
# - table_checks.sh
# - copy_pages.py
# - fetch_objects.py
# - binlog_events.py
# - mariadb_replay.py
# ...
# shellcheck disable=SC2034,SC2154  # variables are given to the attachments, and come from them
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a
# As when it is run by hand:
RESTORE_PHASE=${RESTORE_PHASE:-all} RESTORE_BACKUP=${RESTORE_BACKUP:-latest} RESTORE_START=${RESTORE_START:-true}
RESTORE_GROUP=${RESTORE_GROUP:-$BACKUP_GROUP} RESTORE_LINEAGE=${RESTORE_LINEAGE:-newest}
RESTORE_CONFIRM=${RESTORE_CONFIRM:-} RESTORE_NEW_LINEAGE=${RESTORE_NEW_LINEAGE:-}

data=$(realpath /var/lib/mysql) # which is a link where the data lies on a volume
work=$data-restoring # beside the data: putting it in place is a rename
unit=mariadb
umask 077
secret=$(mktemp -d /run/relaunch-restore.XXXXXX)
sockets=$secret/sockets
for each in restore_store mariadb_copy table_checks; do
  # shellcheck source=/dev/null
  . "$RS_ATTACH_DIR/$each.sh"
done
tidy() {
  kill_copy
  stop_writing_on
  rm -rf "$secret"
  [ -n "$keep" ] || rm -rf "$work"
}
alone
trap tidy EXIT
case $RESTORE_PHASE in
  discard) exit 0 ;;
  swap)
    swap
    exit 0
    ;;
esac
refuse_without_confirmation
printf '%s\n' "$BACKUP_KEY" >"$secret/key"
unset BACKUP_KEY # or all that is started here would have it, the servers on the copies too

# GTID positions: number DOMAIN POSITION, and whether one holds all of another.
number() { tr ',' '\n' <<<"$2" | awk -F- -v domain="$1" '$1 == domain {n = $3} END {print n + 0}'; }
reaches() { # reaches POSITION WANTED
  local each
  for each in ${2//,/ }; do [ "$(number "${each%%-*}" "$1")" -ge "${each##*-}" ] || return 1; done
}
case $RESTORE_TO in
  newest | backup | gtid:[0-9]*-[0-9]*-[0-9]* | time:[0-9]*) ;;
  *) stop_with "RESTORE_TO=$RESTORE_TO is none of newest, backup, gtid:POSITION, time:YYYY-MM-DD HH:MM:SS" ;;
esac
rm -rf "$work"
mkdir -p "$work"
choose_history
choose_chain
series() { grep -oE '[0-9]+\.[0-9]+' | head -n 1; }
theirs=$(jq -r .version "$last") mine=$(mariadbd --version | sed 's/.*Ver //')
[ "$(series <<<"$theirs")" = "$(series <<<"$mine")" ] ||
  stop_with "ANOTHER VERSION: $RESTORE_BACKUP is of $theirs, here is ${mine%% *}. Nothing was done. Restore it on a server of that version."
need_room "$(for id in "${chain[@]}"; do cat "$(manifest "$id")"; done | jq -s '((map(.data_bytes) | max)
  + ((map(select(.kind == "incremental") | .stored_bytes) | max) // 0) * 8) * 11 / 10 | floor')"

# Of a snapshot are stored pages, which are recovered already; else it is mariadb-backup's stream.
of_pages() { [ "$(jq -r .method "$(manifest "$1")")" = snapshot ]; }
unpack() { # unpack ID FOLDER
  mkdir -p "$2"
  if of_pages "$1"; then
    fetch "$1" python3 "$RS_ATTACH_DIR/copy_pages.py" load "$2"
  else
    fetch "$1" mbstream -x -p 2 -C "$2"
  fi
}
# As much memory as the server itself may take, unless it runs just now and takes it.
memory=$(my_print_defaults --mariadbd | sed -n 's/^--innodb[-_]buffer[-_]pool[-_]size=//p' | tail -n 1)
if [ -z "$memory" ] || pgrep -x mariadbd >/dev/null; then memory=128M; fi
# Through the system's cache, where what was unpacked still is; it is on disk once, at the end.
cached=--innodb-flush-method=fsync
prepare() {
  if ! mariadb-backup --prepare --target-dir="$work/data" --use-memory="$memory" "$cached" "$@" >"$secret/log" 2>&1 ||
    ! grep -q "completed OK!" "$secret/log"; then
    tail -n 15 "$secret/log" >&2
    stop_with "The backup could not be prepared."
  fi
}
write_on
unpack "${chain[0]}" "$work/data"
echo "${chain[0]} is unpacked, $(seconds) s"
for i in "${!chain[@]}"; do
  id=${chain[$i]} next=${chain[$((i + 1))]:-} fetching=
  # While one is prepared the next is fetched. Pages go straight onto those of the one before, and need no preparing.
  if [ -n "$next" ] && ! of_pages "$next"; then unpack "$next" "$work/part-$((i + 1))" & fetching=$!; fi
  if of_pages "$id"; then
    [ "$i" = 0 ] || unpack "$id" "$work/data"
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

chown -R mysql:mysql "$work/data" # and nothing that is written to as root from here on
chmod 711 "$work" "$secret"
install -d -o mysql -g mysql "$sockets"
# InnoDB goes on to note the place in the binary log of where the backup was made, until our own places come after it, by
# number: with a place that is not in its log, no fresh replica could join a primary whose commits wait for one. A new
# log takes the number after the highest that lies there.
noted=$(cat "$work"/data/*_binlog_pos_innodb 2>/dev/null | sed -n '1s/.*\.\([0-9]\+\)[[:space:]].*/binlog.\1/p' || true)
[ -z "$noted" ] || touch "$work/data/$noted"
start_copy "$work/data" --innodb-buffer-pool-size="$memory" "$cached" --innodb-doublewrite=OFF
ask_copy -e "SET sql_log_bin = 0; RESET MASTER; STOP ALL SLAVES; RESET SLAVE ALL; SET GLOBAL gtid_slave_pos = '';
  SET GLOBAL gtid_binlog_state = '$gtid'; SET GLOBAL gtid_slave_pos = '$gtid'" 2>"$secret/sql" || { cat "$secret/sql" >&2; exit 1; }
[ -z "$noted" ] || rm "$work/data/$noted"
check_tables() { mariadb-check --no-defaults --skip-ssl --socket="$sockets/s" "$@"; }
echo "A server on it answers, $(seconds) s"

logs() { python3 "$RS_ATTACH_DIR/binlog_events.py" "$@"; }
lesser() { # of two positions, in each domain that both have
  tr ',' '\n' <<<"$1,$2" | awk -F- '{if ($1 in at) print (at[$1] < $3 ? all[$1] : $0); at[$1] = $3 + 0; all[$1] = $0}' | paste -sd,
}

replay() { # replay POSITION TIME: the binary logs in the store, from where we are to the one or the other; blank is no limit
  local stream next i position limits stop
  find_logs
  for i in "${!streams[@]}"; do
    stream=${streams[$i]} next=${streams[$((i + 1))]:-} position=$(copy_position) limits=() stop=$1
    if [ -n "$1" ] && reaches "$position" "$1"; then return; fi
    # Before format 2 a server that had been seeded said that its log begins with nothing.
    if [ -n "$next" ] && jq -e '.gtid != "" or .format == 2' "$secret/begins/$next/began.json" >/dev/null 2>&1; then
      # Where the next primary's log takes over, the one before no longer counts: what only it had was never the group's.
      next=$(taken_over_at "$next")
      if reaches "$position" "$next"; then continue; fi
      [ -z "$1" ] && stop=$next || stop=$(lesser "$1" "$next")
      [ -n "$stop" ] || continue
    else
      next=
    fi
    fetch_logs "$stream" "$position"
    [ -e "$work/logs" ] || continue
    logs goes-on "$position" "$work"/logs/* 2>"$secret/sql" || stop_with "The binary logs of $stream: $(cat "$secret/sql")"
    [ -z "$stop" ] || limits+=(--stop-position="$stop")
    [ -z "$2" ] || limits+=(--stop-datetime="$2")
    TZ=UTC mariadb-binlog --start-position="$position" --gtid-strict-mode=0 "${limits[@]}" "$work"/logs/* 2>"$secret/binlog" |
      python3 "$RS_ATTACH_DIR/mariadb_replay.py" | ask_copy --binary-mode --comments 2>"$secret/sql" ||
      stop_with "Replaying $stream after $position failed: $(cat "$secret/binlog" "$secret/sql")"
    if came_to_its_end "$1" "$2" "$next"; then return; fi
  done
}
must_reach() {
  reaches "$(copy_position)" "$1" || stop_with "MISSING LINK: the binary logs in the store end at $(copy_position), before $1."
}
check_gtid=$(jq -r '.check.gtid // ""' "$last")
if [ "$check_gtid" = "$gtid" ]; then compare; fi
case $RESTORE_TO in
  newest | gtid:*)
    wanted=""
    [ "$RESTORE_TO" = newest ] || wanted=${RESTORE_TO#gtid:}
    # First to where rows were summed, if that is on the way.
    if [ -n "$check_gtid" ] && [ "$check_gtid" != "$gtid" ] && { [ -z "$wanted" ] || reaches "$wanted" "$check_gtid"; }; then
      replay "$check_gtid" ""
      must_reach "$check_gtid"
      compare
    fi
    replay "$wanted" ""
    must_reach "$wanted"
    found=$(copy_position)
    for each in ${wanted//,/ }; do
      [[ ,$found, == *,$each,* ]] || stop_with "NO SUCH POSITION: this history has no $each; it is at $found there. Nothing was touched."
    done
    ;;
  time:*) replay "" "${RESTORE_TO#time:}" ;;
esac
check_tables_once
echo "The binary log is replayed, rows are compared, tables are checked, $(seconds) s"
position=$(copy_position)
ask_copy -e "$(new_lineage)"
ask_copy -e "SET GLOBAL gtid_slave_pos = '$position'"
stop_copy
write_rest
end_restore "$position" "$prepared"
