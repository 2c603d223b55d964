#!/bin/bash
# ---
# RightScript Name: Restore one schema
# Description: |-
#   One schema out of its own backup, on the primary, under its name or another. Fetched, compared with its hash and
#   loaded once for trial before anything that is there is touched; what it replaces is backed up first.
# Inputs:
#   BACKUP_KEY:
#     Category: Backup
#     Description: The private age key (cred:BACKUP_KEY), given only when this is run.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_SCHEMA:
#     Category: Backup
#     Description: Which.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_AS:
#     Category: Backup
#     Description: Under which name; by default its own.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_BACKUP:
#     Category: Backup
#     Description: Which backup of it; latest takes the newest.
#     Input Type: single
#     Required: false
#     Default: text:latest
#   RESTORE_GROUP:
#     Category: Backup
#     Description: Whose backups; by default this server's own group's.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_LINEAGE:
#     Category: Backup
#     Description: Of which history of that group's data; newest takes the one that began last.
#     Input Type: single
#     Required: false
#     Default: text:newest
#   RESTORE_CONFIRM:
#     Category: Backup
#     Description: The schema's name, when one of that name has tables that may be replaced.
#     Input Type: single
#     Required: false
#     Default: blank
#   RESTORE_PHASE:
#     Category: Backup
#     Description: |-
#       prove loads it into a server of its own that begins empty and goes away, compares what it holds with what was noted, and
#       touches nothing else.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:all
#     Possible Values:
#     - text:all
#     - text:prove
# Attachments:
# - table_checks.sh
# - schema_dump.sh
# - schema_names.py
# - table_history.sh
# ...
# shellcheck disable=SC2154  # variables come from the attachment
set -euo pipefail
set -a
# shellcheck source=/dev/null
. /etc/relaunch/backup.env
set +a

work=/var/lib/mysql-schema
# shellcheck source=attachments/table_checks.sh disable=SC1091
. "$RS_ATTACH_DIR/table_checks.sh"
# shellcheck source=attachments/schema_dump.sh disable=SC1091
. "$RS_ATTACH_DIR/schema_dump.sh"
# shellcheck source=attachments/table_history.sh disable=SC1091
. "$RS_ATTACH_DIR/table_history.sh"
stop_with() { echo "$*" >&2; exit 1; }
name=${RESTORE_AS:-$RESTORE_SCHEMA} trial=relaunch_trial server_pid='' began=$SECONDS
RESTORE_PHASE=${RESTORE_PHASE:-all} # as when it is run by hand
for each in "$RESTORE_SCHEMA" "$name"; do
  [[ $each =~ ^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$ ]] || stop_with "$each is no schema's name here: letters, digits, _ and - only"
done
case $name in mysql | sys | relaunch | relaunch_trial | information_schema | performance_schema) stop_with "$name is not to be replaced." ;; esac
[ -n "$BACKUP_KEY" ] || stop_with "BACKUP_KEY is not given: the private age key, cred:BACKUP_KEY"
if [ "$RESTORE_PHASE" = all ]; then
  [ "$(sql "$writable")" = 1 ] || stop_with "This server takes no writes: a schema is restored on the primary."
  tables=$(sql "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '$name'")
  [ "$tables" = 0 ] || [ "$RESTORE_CONFIRM" = "$name" ] ||
    stop_with "$name has $tables tables. Nothing was touched. To replace it: RESTORE_CONFIRM=$name"
fi

umask 077
secret=$(mktemp -d /run/relaunch-restore.XXXXXX)
rm -rf "$work"
mkdir "$work"
chmod 711 "$work" # a server of its own lies there when a backup is proven
tidy() {
  [ "$RESTORE_PHASE" = prove ] || sql "SET sql_log_bin = 0; DROP DATABASE IF EXISTS $trial" || true
  if [ -n "$server_pid" ]; then kill -KILL "$server_pid" 2>/dev/null || true; wait "$server_pid" 2>/dev/null || true; fi
  rm -rf "$secret" "$work"
}
trap tidy EXIT
printf '%s\n' "$BACKUP_KEY" >"$secret/key"
unset BACKUP_KEY # or all that is started here would have it, the servers on the copies too

root=${BACKUP_ROOT%/*}/${RESTORE_GROUP:-$BACKUP_GROUP}
if [ "$RESTORE_LINEAGE" = newest ]; then
  RESTORE_LINEAGE=$(rclone lsf --dirs-only "$root" | sed -n 's|^\([0-9]\{8\}T[0-9]\{6\}Z-[0-9a-f]*\)/$|\1|p' | sort | tail -n 1) || RESTORE_LINEAGE=
fi
from=$root/$RESTORE_LINEAGE/schemas/$RESTORE_SCHEMA
if [ "$RESTORE_BACKUP" = latest ]; then
  RESTORE_BACKUP=$(rclone lsf --recursive --include '/*-schema-*/manifest.json' "$from" | sort | tail -n 1) || RESTORE_BACKUP=
  RESTORE_BACKUP=${RESTORE_BACKUP%/manifest.json}
  [ -n "$RESTORE_BACKUP" ] || stop_with "There is no backup of the schema $RESTORE_SCHEMA in $from, or the object store cannot be read."
fi
rclone cat "$from/$RESTORE_BACKUP/manifest.json" >"$secret/manifest" || stop_with "MISSING LINK: $RESTORE_BACKUP has no manifest."
free=$(df --output=avail -B1 "$work" | tail -n 1) need=$(($(jq .stored_bytes "$secret/manifest") * 30))
[ "$free" -gt "$need" ] || stop_with "NOT ENOUGH DISK: about $((need / 1000000)) MB are needed, $((free / 1000000)) MB are free. Nothing was done."
rclone copyto "$from/$RESTORE_BACKUP/dump.sql.zst.age" "$work/dump" || stop_with "$RESTORE_BACKUP cannot be read."
[ "$(sha256sum <"$work/dump" | cut -d' ' -f1)" = "$(jq -r '.objects[0].sha256' "$secret/manifest")" ] ||
  stop_with "DAMAGED OBJECT: $RESTORE_BACKUP/dump.sql.zst.age is not what was stored."
plain() { age -d -i "$secret/key" "$work/dump" 2>"$secret/age" | zstd -q -d; }
# A present row of before MariaDB 11.5 ends in 2038: to a newer server that is past.
in_this_year() {  # a filter
  local history="^\/\*M![0-9]+ SET .*system_versioning_insert_history=" version
  version=$(jq -r .version "$secret/manifest")
  if [ "$client" = mariadb ] && [ "$(printf '%s\n' "$version" 11.5 | sort -V | tail -n 1)" = 11.5 ] && [ "$(sql "$last_year_sql")" = 2106 ]; then
    LC_ALL=C sed -E "/${history}1/,/${history}@/ s/'2038-01-19 03:14:07\.999999'\)/'2106-02-07 06:28:15.999999')/g"
  else
    cat
  fi
}
load() { # load SCHEMA [STATEMENTS to begin with]
  plain | in_this_year | python3 "$RS_ATTACH_DIR/schema_names.py" "$1" |
    { [ -z "${2:-}" ] || echo "$2"; cat; } | "${here[@]}" --binary-mode --comments --max-allowed-packet=1G "$1"
}

compare() { # what was noted at backup time, against what is loaded; prints how many tables. In a subshell: one session each
  local table method noted found compared=0
  jq -r '.check.tables // [] | .[] | [.table, .method, "\(.rows) \(.sum)"] | @tsv' "$secret/manifest" >"$work/noted" ||
    stop_with "What was noted of the tables of $RESTORE_BACKUP cannot be read. Nothing was touched."
  open_session "${here[@]}" -N -B --unbuffered --force
  ask "SET SESSION group_concat_max_len = 1000000; SET SESSION time_zone = '+00:00'" >/dev/null
  while IFS=$'\t' read -r table method noted; do
    printf -v table %b "$table" # jq has escaped in it what the lines could not hold
    found=$(ask "$(check_sql "$trial" "$table" "$method")" | tr '\t' ' ')
    [ "$found" = "$noted" ] || stop_with "DIFFERENT: $RESTORE_SCHEMA.$table: noted rows and sum $noted, found $found. Nothing was touched."
    compared=$((compared + 1))
  done <"$work/noted"
  echo "$compared"
}

as=$(jq -r '.default // empty | "CHARACTER SET \(.character_set) COLLATE \(.collation)"' "$secret/manifest") # older ones do not say it
# Once for trial, seen by nobody else: whatever is wrong with it shows before anything is replaced.
[ "$RESTORE_PHASE" = all ] || start_scratch "$work/scratch" || stop_with "There is nothing to prove the backup on."
sql "SET sql_log_bin = 0; DROP DATABASE IF EXISTS $trial; CREATE DATABASE $trial $as"
if ! load "$trial" "SET sql_log_bin = 0;"; then
  ! grep -q "no identity matched" "$secret/age" || stop_with "WRONG KEY: $RESTORE_BACKUP is encrypted to $(jq -r .recipient "$secret/manifest")."
  stop_with "The backup $RESTORE_BACKUP cannot be loaded. Nothing was touched. $(cat "$secret/age")"
fi
compared=$(compare)
if [ "$RESTORE_PHASE" = prove ]; then
  count=$(sql "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '$trial'")
  echo "$RESTORE_SCHEMA of $RESTORE_BACKUP can be loaded: $count tables, $compared compared"
  jq -nc --arg id "$RESTORE_BACKUP" --arg schema "$RESTORE_SCHEMA" --argjson tables "$count" --arg gtid "$(jq -r .gtid "$secret/manifest")" \
    --argjson compared "$compared" --argjson seconds "$((SECONDS - began))" \
    '"RESTORED " + ({$id, $schema, $tables, $gtid, tables_compared: $compared, $seconds} | tojson)' -r
  exit 0
fi
sql "SET sql_log_bin = 0; DROP DATABASE $trial"

if [ "$tables" != 0 ]; then
  kept=$BACKUP_ROOT/$(sql "SELECT id FROM relaunch.lineage")/schemas/$name/$(date -u +%Y%m%dT%H%M%SZ)-replaced-$(hostname)
  now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
  sums_of "$name" 30 >"$work/before"
  dump_schema "$name" | tee >(tail -c 200 >"$secret/tail") |
    zstd -q -T1 -3 | age -r "$BACKUP_RECIPIENT" >"$work/kept"
  grep -q "^-- Dump completed" "$secret/tail" || stop_with "What is in $name could not be backed up first. Nothing was touched."
  sums_of "$name" 30 >"$work/after"
  sums_of_both "$work/before" "$work/after" >"$work/check"
  rclone copyto "$work/kept" "$kept/dump.sql.zst.age"
  jq --arg id "$(basename "$kept")" --arg schema "$name" --arg sha256 "$(sha256sum <"$work/kept" | cut -d' ' -f1)" \
    --arg server "$(hostname)" --arg now "$now" --slurpfile check "$work/check" \
    --argjson default "$(default_of "$name")" --argjson size "$(stat -c %s "$work/kept")" '. + {$id, $schema, $server, $default, role: "primary", lag_seconds: 0, begun: $now, ended: $now, gtid: "", check: $check[0], stored_bytes: $size,
      objects: [{name: "dump.sql.zst.age", size_bytes: $size, $sha256}]}' "$secret/manifest" | rclone rcat "$kept/manifest.json"
  echo "What was in $name is kept as the backup $(basename "$kept")"
fi
# What we do here as root nothing would refuse on a server that leads no more, and nobody would have it.
[ "$(sql "$writable")" = 1 ] || stop_with "This server takes no writes any more: another one leads now. Nothing was touched."
sql "DROP DATABASE IF EXISTS \`$name\`; CREATE DATABASE \`$name\` ${as:-CHARACTER SET utf8mb4}"
sql "DELETE FROM relaunch.import_loading WHERE name = '$name'" 2>/dev/null || true # no longer half of a dump; imports make the table
# Nor of a copy; what else is of it stays noted.
sql "UPDATE relaunch.import_source SET wanted = TRIM(REPLACE(CONCAT(' ', wanted, ' '), ' $name ', ' ')) WHERE stage = 'copying';
  DELETE FROM relaunch.import_source WHERE stage = 'copying' AND wanted = ''" 2>/dev/null || true
load "$name"
[ "$(sql "$writable")" = 1 ] ||
  stop_with "Another server leads since, which may have only a part of $name: restore it again there."
count=$(sql "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '$name'")
echo "$name: $count tables from $RESTORE_BACKUP, as of $(jq -r .gtid "$secret/manifest")"
jq -nc --arg id "$RESTORE_BACKUP" --arg schema "$name" --argjson tables "$count" --arg gtid "$(jq -r .gtid "$secret/manifest")" \
  '"RESTORED " + ({$id, $schema, $tables, $gtid} | tojson)' -r
