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
#     Description: newest, backup (no binary log), gtid:SET (all of it, and no more), or time:YYYY-MM-DD HH:MM:SS in UTC (excluded).
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
#     Description: Whether MySQL is started afterwards, read-only.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:true
# Attachments:
# - restore_store.sh
# - mysql_copy.sh
# - table_checks.sh
# - gtid_sets.py
# - copy_pages.py
# - fetch_objects.py
# - binlog_events.py
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
unit=mysql
umask 077
secret=$(mktemp -d /run/relaunch-restore.XXXXXX)
sockets=$secret/sockets
for each in restore_store mysql_copy table_checks; do
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

gtids() { python3 "$RS_ATTACH_DIR/gtid_sets.py" "$@"; }
reaches() { gtids holds "$1" "$2"; }
case $RESTORE_TO in
  newest | backup | time:[0-9]*) ;;
  gtid:*) gtids union "${RESTORE_TO#gtid:}" "" >/dev/null || stop_with "RESTORE_TO=$RESTORE_TO: give the whole set, as SELECT @@gtid_executed says" ;;
  *) stop_with "RESTORE_TO=$RESTORE_TO is none of newest, backup, gtid:SET, time:YYYY-MM-DD HH:MM:SS" ;;
esac
rm -rf "$work"
mkdir -p "$work"
choose_history
choose_chain
[[ $RESTORE_TO != gtid:* ]] || must_have_no_more "the backup $RESTORE_BACKUP" "$gtid"
series() { grep -oE '[0-9]+\.[0-9]+' | head -n 1; }
theirs=$(jq -r .version "$last") mine=$(mysqld --version | awk '{print $3}')
[ "$(series <<<"$theirs")" = "$(series <<<"$mine")" ] ||
  stop_with "ANOTHER VERSION: $RESTORE_BACKUP is of $theirs, here is $mine. Nothing was done. Restore it on a server of that version."
need_room "$(for id in "${chain[@]}"; do cat "$(manifest "$id")"; done | jq -s 'map(.data_bytes) | max * 11 / 10 | floor')"
write_on
for id in "${chain[@]}"; do
  fetch "$id" python3 "$RS_ATTACH_DIR/copy_pages.py" load "$work/data"
  echo "$id is unpacked, $(seconds) s"
done
rm -rf "$work/data/.copy-pages"
prepared=$(seconds)

chown -R mysql:mysql "$work/data" # and nothing that is written to as root from here on
chmod 711 "$work" "$secret"
install -d -o mysql -g mysql "$sockets"
# As much memory as the server itself may take, unless it runs just now and takes it.
memory=$(my_print_defaults mysqld | sed -n 's/^--innodb[-_]buffer[-_]pool[-_]size=//p' | tail -n 1)
if [ -z "$memory" ] || pgrep -x mysqld >/dev/null; then memory=128M; fi
# What was just written is in the system's cache, where direct reads do not look.
start_copy "$work/data" --innodb-buffer-pool-size="$memory" --innodb-flush-method=fsync
ask_copy -e "SET sql_log_bin = 0; RESET REPLICA ALL"
check_tables() { mysqlcheck --no-defaults --user=root --socket="$sockets/s" "$@"; }

# What comes after the position, in the logs that are put together.
decoded() { TZ=UTC mysqlbinlog --exclude-gtids="$position" "$@" "$work"/logs/* 2>"$secret/binlog"; }

replay() { # replay SET TIME: the binary logs in the store, from where we are to the one or the other; blank is no limit
  local stream next i position wanted
  find_logs
  for i in "${!streams[@]}"; do
    stream=${streams[$i]} next=${streams[$((i + 1))]:-} position=$(copy_position) wanted=$1
    if [ -n "$1" ] && reaches "$position" "$1"; then return; fi
    if [ -n "$next" ] && [ -e "$secret/begins/$next/began.json" ]; then
      # Where the next primary took over, it had just this; what else the one before had was never the group's.
      next=$(taken_over_at "$next")
      if reaches "$position" "$next"; then continue; fi
      wanted=$next
      [ -z "$1" ] || wanted=$(gtids common "$1" "$next")
    else
      next=
    fi
    fetch_logs "$stream" "$position"
    [ -e "$work/logs" ] || continue
    if [ -n "$1" ]; then
      decoded ${next:+--include-gtids="$next"} | sed -n "s/^SET @@SESSION.GTID_NEXT= '\([^']*:[0-9]*\)'.*/\1/p" |
        gtids unbroken "$1" || stop_with "The position is not one that this history ever had. Nothing was touched."
    fi
    decoded ${wanted:+--include-gtids="$wanted"} ${2:+--stop-datetime="$2"} | ask_copy --binary-mode --comments 2>"$secret/sql" ||
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
    [ -z "$wanted" ] || must_have_no_more "what is restored" "$(copy_position)"
    ;;
  time:*) replay "" "${RESTORE_TO#time:}" ;;
esac
check_tables_once
echo "The binary log is replayed, rows are compared, tables are checked, $(seconds) s"
position=$(copy_position)
ask_copy -e "$(new_lineage)"
stop_copy
write_rest
end_restore "$position" "$prepared"
