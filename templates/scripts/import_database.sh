#!/bin/bash
# ---
# RightScript Name: Import database
# Description: |-
#   Loads a dump of mariadb-dump or mysqldump (plain, gzip, zstd) on the primary; replicas get it by replication. All of
#   it is looked through before anything is changed, and a dump that breaks off leaves nothing behind.
# Inputs:
#   DB_USER:
#     Category: Database
#     Description: The app's login; it may use what is imported, and owns its views, triggers and routines.
#     Input Type: single
#     Required: false
#     Default: text:app
#   IMPORT_STEP:
#     Category: Import
#     Description: load, or clean to remove what a broken import left.
#     Input Type: single
#     Required: false
#     Default: text:load
#     Possible Values:
#     - text:load
#     - text:clean
#   IMPORT_DUMP:
#     Category: Import
#     Description: The SHA-256 of the dump, which the controller has.
#     Input Type: single
#     Required: false
#     Default: blank
#   IMPORT_SCHEMA:
#     Category: Import
#     Description: Where to load it; as the dump says when blank.
#     Input Type: single
#     Required: false
#     Default: blank
#   IMPORT_CONFIRM:
#     Category: Import
#     Description: The deployment's name, to replace schemas that have tables.
#     Input Type: single
#     Required: false
#     Default: blank
#   IMPORT_RUN:
#     Category: Import
#     Description: What this run's notes are known by; clean removes what was noted under the same name.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
# Attachments:
# - import_account.sh
# - import_dump.py
# - schema_names.py
# - table_history.sh
# ...
# shellcheck disable=SC2154  # variables come from import_account.sh
set -euo pipefail
# shellcheck source=attachments/import_account.sh disable=SC1091
. "$RS_ATTACH_DIR/import_account.sh"
# shellcheck source=attachments/table_history.sh disable=SC1091
. "$RS_ATTACH_DIR/table_history.sh"

reader=$RS_ATTACH_DIR/import_dump.py
folder=/var/lib/relaunch-import
loader=relaunch_import_dump  # relaunch_import may be following a server
install -d -m 700 "$folder"
exec 9>"$folder/lock"
flock -n 9 || stop_with "Another import runs on this server."
need_primary
sql "CREATE TABLE IF NOT EXISTS relaunch.import_loading (name VARCHAR(64) PRIMARY KEY, saved VARCHAR(255) NOT NULL,
  begun DATETIME NOT NULL, run VARCHAR(64) NOT NULL DEFAULT '') ENGINE = InnoDB"
has_column import_loading run || sql "ALTER TABLE relaunch.import_loading ADD run VARCHAR(64) NOT NULL DEFAULT ''"
run=${IMPORT_RUN:-by-hand-$(date -u +%Y%m%dT%H%M%SZ)-$$}
warn() { echo "WARNING $*"; }

# What this run noted as loading is half: it goes, and what was there before comes back. What another run noted may have
# been filled in another way since: it is touched only while it has no tables.
# A name of a file, "empty COLLATION" for an empty schema, nothing when there was none.
# Behind `||` errexit is off in here: each step says itself that it failed, and the note of it stays.
clean() {
  local schema own saved tables noted as lost=''
  noted=$(sql "SELECT name, run = $(quoted "$run"), saved FROM relaunch.import_loading") || return 1
  while IFS=$'\t' read -r schema own saved <&8; do
    [ -n "$schema" ] || continue
    tables=$(tables_in "$schema") || return 1
    if [ "$own" != 1 ] && [ "$tables" != 0 ]; then
      warn "an earlier import of $schema broke off, so it may be half${saved:+ (before: $saved)}. To replace it, import it with --confirm; if it is whole, on the primary: DELETE FROM relaunch.import_loading WHERE name = '$schema'"
      continue
    fi
    if [[ ${saved:-empty} != empty* ]] && [ ! -e "$saved" ]; then
      if [ "$tables" != 0 ]; then
        lost+="$schema is half loaded. What was in it before is in $saved on the former primary: bring it here by hand."
        continue
      fi
      warn "what was in $schema before is in $saved on the former primary: bring it here by hand"
    else
      echo "Removing what was loaded of $schema"
      sql "DROP DATABASE IF EXISTS \`$schema\`" || return 1
      if [[ $saved = empty* ]]; then
        as="CHARACTER SET utf8mb4" # as sites' schemas are made: once "empty" alone was noted
        [ "$saved" = empty ] || as="COLLATE ${saved#empty }"
        sql "CREATE DATABASE \`$schema\` $as" || return 1
      elif [ -n "$saved" ]; then
        echo "Bringing back what $schema was before"
        zstd -dc "$saved" | "$client" --binary-mode --comments --max-allowed-packet=1G || return 1
      fi
    fi
    sql "DELETE FROM relaunch.import_loading WHERE name = $(quoted "$schema")" || return 1
  done 8<<<"$noted"
  sql "DROP USER IF EXISTS $loader@localhost" || return 1
  rm -f "$folder/loader.cnf"
  [ -z "$lost" ] || { echo "$lost" >&2; return 1; }
}

if [ "$IMPORT_STEP" = clean ]; then
  clean
  find "$folder" -name 'dump-*' -delete
  exit 0
fi

dump=$folder/dump-$IMPORT_DUMP
[ -e "$dump" ] || python3 "$reader" fetch "$IMPORT_DUMP" "$dump"
trap 'rm -f "$dump" "$folder/facts" "$folder/loader.cnf"' EXIT
echo "Looking through the dump"
python3 "$reader" look "$dump" >"$folder/facts"
fact() { jq -r "$1" "$folder/facts"; }
echo "$(fact .written_by) of $(fact .server), $(fact .tables) tables, $(($(fact .bytes) / 1000000)) MB of text"

# Refuse, before anything is touched.
[ "$(fact .complete)" = true ] || stop_with "The dump breaks off: its last line is not '-- Dump completed'."
mapfile -t schemas < <(fact '.schemas[]')
if [ "$(fact .unnamed)" = true ]; then
  [ -n "$IMPORT_SCHEMA" ] || stop_with "The dump does not say which schema it is of: say --schema NAME."
  [ "${#schemas[@]}" = 0 ] || stop_with "The dump has tables of a schema it does not name, and of ${schemas[*]}: import them one by one."
  schemas=("$IMPORT_SCHEMA")
elif [ -n "$IMPORT_SCHEMA" ]; then
  [ "${#schemas[@]}" = 1 ] || stop_with "The dump has ${#schemas[@]} schemas (${schemas[*]}): --schema can rename one only. Leave it out."
  schemas=("$IMPORT_SCHEMA")
fi
if [ "${#schemas[@]}" = 0 ] || [ "$(fact .tables)" = 0 ]; then stop_with "There is no table in this dump."; fi
for schema in "${schemas[@]}"; do
  [[ $schema =~ ^[A-Za-z0-9_$-]{1,64}$ ]] || stop_with "A schema called $schema cannot be imported: letters, digits, _ \$ - only."
  [ "$schema" != relaunch ] || stop_with "The schema relaunch is ours: import the others, or rename it."
done
known=$(collations)
unknown=$(comm -23 <(fact '.collations[]' | tr '[:upper:]' '[:lower:]' | sort -u) <(tr '[:upper:]' '[:lower:]' <<<"$known" | sort -u) | paste -sd' ')
[ -z "$unknown" ] || stop_with "This server does not know the collations $unknown. Change them there, or in the dump: utf8mb4_0900_ai_ci is MySQL's, utf8mb4_uca1400_ai_ci MariaDB's, utf8mb4_unicode_ci both know."
if [ "$client" = mariadb ]; then
  year=$(sql "$last_year_sql")
  other=$(fact ".last_years - [\"$year\"] | .[]")
  [ -z "$other" ] || stop_with "The dump has the history of tables of a MariaDB whose present rows end in $other, here in $year: they would be gone. Dump without --dump-history, or into MariaDB 11.5 and newer by its own mariadb-dump with --dump-history --update-history."
fi
free=$(df -B1 --output=avail /var/lib/mysql | tail -1)
[ "$free" -gt $(($(fact .bytes) * 2)) ] ||
  stop_with "The dump has $(($(fact .bytes) / 1000000)) MB of text, and of the disk only $((free / 1000000)) MB are free: twice as much is needed."

# What is odd is named, and goes on.
odd=$(fact '.engines | to_entries[] | select(.key | ascii_downcase | . != "innodb" and . != "default") | "\(.key): \(.value | join(", "))"' | paste -sd';')
[ -z "$odd" ] || warn "tables that are not transactional, so that a failover may lose or repeat their rows, and backups lock them: $odd"
[ "$(fact '.without_primary_key | length')" = 0 ] ||
  warn "tables without a primary key, which replicas change slowly: $(fact '.without_primary_key | join(", ")')"
[ "$(fact '.code.EVENT // [] | length')" = 0 ] || warn "events, which do not run here by themselves: $(fact '.code.EVENT | join(", ")')"
[ "$(fact '.floats | length')" = 0 ] || warn "of a FLOAT a dump holds six digits, of a DOUBLE all; here: $(fact '.floats | join(", ")')"
[ "$(fact '.definers | length')" = 0 ] || warn "DEFINER becomes $DB_USER@% instead of $(fact '.definers | keys | join(", ")')"
[ "$(fact '.dropped | length')" = 0 ] ||
  warn "left out, as it is of another server: $(fact '.dropped | to_entries | map("\(.key) (\(.value))") | join(", ")')"
[ "$(fact '.system | length')" = 0 ] || warn "left out: the system schemas $(fact '.system | join(", ")')"

# What broke off earlier goes first; then what is there is saved, noted and replaced.
clean
full=()
deployment=$(relaunch-local get server.deployment)
for schema in "${schemas[@]}"; do
  if [ "$(tables_in "$schema")" != 0 ]; then full+=("$schema"); fi
done
if [ "${#full[@]}" != 0 ] && [ "$IMPORT_CONFIRM" != "$deployment" ]; then
  stop_with "There are tables in ${full[*]}: nothing was done. To replace them say --confirm $deployment."
fi
ended() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ]; then clean || true; fi
  rm -f "$dump" "$folder/facts" "$folder/loader.cnf"
  exit "$status"
}
trap ended EXIT
for schema in "${schemas[@]}"; do
  saved=$(collation_of "$schema")
  saved=${saved:+empty $saved}
  if [[ " ${full[*]} " == *" $schema "* ]]; then
    saved=$folder/before-$schema-$(date -u +%Y%m%dT%H%M%SZ).sql.zst
    echo "Saving what is in $schema to $saved"
    refuse_endless "event_schema = $(quoted "$schema")" sql
    history=
    [ "$client" != mariadb ] || history=$(history_words "table_schema = $(quoted "$schema")" "" sql)
    # shellcheck disable=SC2086  # options, as separate words
    "$dumper" "${dump_words[@]}" $history --max-allowed-packet=1G --databases "$schema" | zstd -q -3 -o "$saved"
  fi
  sql "REPLACE INTO relaunch.import_loading (name, saved, begun, run)
    VALUES ($(quoted "$schema"), $(quoted "$saved"), UTC_TIMESTAMP(), $(quoted "$run"))"
  sql "DROP DATABASE IF EXISTS \`$schema\`"
  named="\"$schema\"" # in the dump
  [ -z "$IMPORT_SCHEMA" ] || named=".schemas[0] // $named"
  as=$(fact ".databases[$named] // \"CHARACTER SET utf8mb4\"")
  sql "CREATE DATABASE IF NOT EXISTS \`$schema\` $as"
done
import_account "$loader" "$folder/loader.cnf" "${schemas[@]}"
# First: it owns the views, and one that calls a function, or checks its rows, is made only if its owner may use these.
for schema in "${schemas[@]}"; do app_may_use "$schema"; done
rename=$IMPORT_SCHEMA
python3 "$reader" load "$dump" "\`$DB_USER\`@\`%\`" "$folder/loader.cnf" ${rename:+"$rename"}

sql "DELETE FROM relaunch.import_loading WHERE run = $(quoted "$run")"
for schema in "${schemas[@]}"; do # no longer half of a copy; what else is of it stays noted
  sql "UPDATE relaunch.import_source SET wanted = TRIM(REPLACE(CONCAT(' ', wanted, ' '), ' $schema ', ' ')) WHERE stage = 'copying';
    DELETE FROM relaunch.import_source WHERE stage = 'copying' AND wanted = ''" 2>/dev/null || true
done
sql "DROP USER $loader@localhost"
jq -nc --slurpfile facts "$folder/facts" --arg schemas "${schemas[*]}" --arg position "$(own_position)" \
  '"IMPORTED " + ({schemas: ($schemas | split(" ")), tables: $facts[0].tables, bytes: $facts[0].bytes, $position} | tojson)' -r
echo "Back up now: relaunch db backup $deployment"
