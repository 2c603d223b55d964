#!/bin/bash
# ---
# RightScript Name: Import from a server
# Description: |-
#   Brings schemas from a server that is not ours, MariaDB to MariaDB or MySQL to MySQL: a look at it, a consistent copy,
#   its binary log followed from there (attachment import_follow.py, service relaunch-import), the cut-over with both
#   sides compared, or all undone.
# Inputs:
#   DB_USER:
#     Category: Database
#     Description: The app's login; it may use what is imported, and owns its views, triggers and routines.
#     Input Type: single
#     Required: false
#     Default: text:app
#   IMPORT_STEP:
#     Category: Import
#     Description: What to do.
#     Input Type: single
#     Required: false
#     Default: text:status
#     Possible Values:
#     - text:look
#     - text:copy
#     - text:follow
#     - text:status
#     - text:cut-over
#     - text:unlock
#     - text:leave
#     - text:drop
#     - text:forget
#   IMPORT_HOST:
#     Category: Import
#     Description: The other server's name or address.
#     Input Type: single
#     Required: true
#   IMPORT_PORT:
#     Category: Import
#     Description: Its port.
#     Input Type: single
#     Required: true
#   IMPORT_USER:
#     Category: Import
#     Description: The login there.
#     Input Type: single
#     Required: true
#   IMPORT_PASSWORD:
#     Category: Import
#     Description: Its password.
#     Input Type: single
#     Required: true
#   IMPORT_SCHEMAS:
#     Category: Import
#     Description: Names of schemas, with blanks between.
#     Input Type: single
#     Required: true
#   IMPORT_QUIET_SECONDS:
#     Category: Import
#     Description: At the cut-over nothing must have been written there for so long; when all accounts could be locked 0.5 s do.
#     Input Type: single
#     Required: false
#     Default: text:3
#   IMPORT_WAIT_SECONDS:
#     Category: Import
#     Description: How long the cut-over waits for that.
#     Input Type: single
#     Required: false
#     Default: text:120
# Attachments:
# - import_account.sh
# - import_dump.py
# - import_follow.py
# - import_snapshot.py
# - import_source.sh
# - schema_names.py
# - sql_session.py
# - table_history.sh
# ...
# shellcheck disable=SC2154  # variables come from import_account.sh
set -euo pipefail
# shellcheck source=attachments/import_account.sh disable=SC1091
. "$RS_ATTACH_DIR/import_account.sh"

etc=/etc/relaunch/import
work=$(mktemp -d /run/relaunch-import.XXXXXX)
trap 'rm -rf "$work"' EXIT
read -ra schemas <<<"$IMPORT_SCHEMAS"
list=$(for schema in "${schemas[@]}"; do printf ',%s' "$(quoted "$schema")"; done)
list=${list#,}

# shellcheck source=attachments/import_source.sh disable=SC1091
. "$RS_ATTACH_DIR/import_source.sh"
# shellcheck source=attachments/table_history.sh disable=SC1091
. "$RS_ATTACH_DIR/table_history.sh"
install -m 600 /dev/stdin "$work/source.cnf" <<FILE
[client]
host = $(in_file "$IMPORT_HOST")
port = $IMPORT_PORT
user = $(in_file "$IMPORT_USER")
password = $(in_file "$IMPORT_PASSWORD")
$(tls_options)
[mysql]
connect_timeout = 10
FILE
number() { awk 'END {print $1 + 0}'; }
lines() { jq -R . | jq -sc 'map(select(. != ""))'; }

look() {
  local version
  version=$(there "SELECT CONCAT(VERSION(), ' ', @@version_comment)" 2>"$work/error") || {
    jq -nc --arg error "$(cat "$work/error")" '"FACTS " + ({there: null, $error} | tojson)' -r
    return
  }
  sql "$(settings_sql)" >"$work/here"
  if [[ $version == *[Mm]aria* && $client != mariadb || $version != *[Mm]aria* && $client = mariadb ]]; then
    jq -nc --arg version "$version" --slurpfile here "$work/here" '"FACTS " + ({there: {$version}, here: $here[0]} | tojson)' -r
    return
  fi
  there "SELECT collation_name FROM information_schema.columns WHERE table_schema IN ($list) AND collation_name IS NOT NULL
    UNION SELECT table_collation FROM information_schema.tables WHERE table_schema IN ($list) AND table_collation IS NOT NULL" |
    sort -u >"$work/used"
  collations >"$work/known"
  position_there >"$work/position" 2>/dev/null || true
  there "$(settings_sql)" >"$work/there"
  # Lists of tables may be longer than an argument can be.
  there "SELECT CONCAT(table_schema, '.', table_name, ' (', engine, ')') FROM information_schema.tables
    WHERE table_schema IN ($list) AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND engine <> 'InnoDB'" | lines >"$work/odd"
  there "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables t WHERE table_schema IN ($list)
    AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND NOT EXISTS (SELECT 1 FROM information_schema.table_constraints c WHERE c.table_schema = t.table_schema
    AND c.table_name = t.table_name AND c.constraint_type = 'PRIMARY KEY')" | lines >"$work/keyless"
  there "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables
    WHERE table_schema IN ($list) AND table_type = 'SYSTEM VERSIONED'" | lines >"$work/versioned"
  there "SELECT CONCAT(event_schema, '.', event_name) FROM information_schema.events WHERE event_schema IN ($list)" | lines >"$work/events"
  jq -nc --slurpfile there "$work/there" --slurpfile here "$work/here" \
    --slurpfile odd "$work/odd" --slurpfile keyless "$work/keyless" --slurpfile events "$work/events" \
    --slurpfile versioned "$work/versioned" \
    --argjson schemas "$(there "SELECT schema_name FROM information_schema.schemata WHERE schema_name IN ($list)" | lines)" \
    --argjson bytes "$(there "$fresh SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema IN ($list)" | number)" \
    --argjson free "$(df -B1 --output=avail /var/lib/mysql | number)" \
    --argjson unknown "$(comm -23 "$work/used" <(sort -u "$work/known") | lines)" \
    --argjson grants "$(there "SHOW GRANTS" | sed -E "s/ IDENTIFIED .*//" | lines)" \
    --argjson full "$(sql "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_schema IN ($list)" | lines)" \
    --argjson replicas "$(followers_there | cut -f1 | lines)" \
    --arg position "$(tr '\t' ' ' <"$work/position")" \
    --arg cipher "$(there "SHOW SESSION STATUS LIKE 'Ssl_cipher'" | cut -f2)" \
    --arg stage "$(sql "SELECT stage FROM relaunch.import_source" 2>/dev/null || true)" \
    --arg wanted "$(sql "SELECT wanted FROM relaunch.import_source" 2>/dev/null || true)" \
    --arg source "$(sql "SELECT source FROM relaunch.import_source" 2>/dev/null || true)" \
    '"FACTS " + ({there: $there[0], here: $here[0], $schemas, $bytes, $free, odd: $odd[0], keyless: $keyless[0], events: $events[0],
      versioned: $versioned[0], $unknown, $grants, $full, $replicas, $position, $cipher, $stage, $wanted, $source} | tojson)' -r
}

note_table() {
  sql "CREATE TABLE IF NOT EXISTS relaunch.import_source (name VARCHAR(64) PRIMARY KEY, stage VARCHAR(20) NOT NULL,
    wanted TEXT NOT NULL, file VARCHAR(255) NOT NULL, position BIGINT UNSIGNED NOT NULL, foreign_time BIGINT NOT NULL,
    changed DOUBLE NOT NULL, locked TEXT NOT NULL, result TEXT NOT NULL, source VARCHAR(255) NOT NULL DEFAULT '') ENGINE = InnoDB"
  has_column import_source source || sql "ALTER TABLE relaunch.import_source ADD source VARCHAR(255) NOT NULL DEFAULT ''"
}

order_noted() { sql "SELECT wanted, source FROM relaunch.import_source WHERE name = 'import'"; }

of_this_order() {  # NOTED: whether it is; an earlier release did not note from where
  [ "$1" = "$IMPORT_SCHEMAS"$'\t' ] || [ "$1" = "$IMPORT_SCHEMAS"$'\t'"$IMPORT_HOST:$IMPORT_PORT" ]
}

part_of_this_order() {  # NOTED: whether it is; other schemas of it were restored, or imported from a dump, since
  local schema
  for schema in ${1%$'\t'*}; do [[ " $IMPORT_SCHEMAS " == *" $schema "* ]] || return 1; done
  [ "${1#*$'\t'}" = "$IMPORT_HOST:$IMPORT_PORT" ]
}

copy() {
  local stood file position schema stage noted as
  need_primary
  note_table
  stage=$(sql "SELECT stage FROM relaunch.import_source WHERE name = 'import'")
  case $stage in
    following | cut) echo "It is copied already."; return ;;
    copying)
      noted=$(order_noted)
      of_this_order "$noted" || stop_with "An earlier copy, of other schemas or from another server, broke off. Undo it: relaunch db import --cancel"
      echo "An earlier copy broke off: once more from the start"
      drop_schemas
      ;;
  esac
  # `result` holds until the cut-over which of them were there before, and their default collations.
  sql "SET SESSION group_concat_max_len = 65535;
    REPLACE INTO relaunch.import_source (name, stage, wanted, file, position, foreign_time, changed, locked, source, result)
    SELECT 'import', 'copying', $(quoted "$IMPORT_SCHEMAS"), '', 0, 0, 0, '', $(quoted "$IMPORT_HOST:$IMPORT_PORT"),
    COALESCE(GROUP_CONCAT(CONCAT(schema_name, ':', default_collation_name) SEPARATOR ' '), '') FROM information_schema.schemata WHERE schema_name IN ($list)"
  for schema in "${schemas[@]}"; do
    as=$(there "SELECT CONCAT('CHARACTER SET ', default_character_set_name, ' COLLATE ',
      default_collation_name) FROM information_schema.schemata WHERE schema_name = $(quoted "$schema")")
    [[ $as =~ ^CHARACTER\ SET\ [A-Za-z0-9_]+\ COLLATE\ [A-Za-z0-9_]+$ ]] || stop_with "The other server does not say how text in $schema is kept: $as"
    sql "CREATE DATABASE IF NOT EXISTS \`$schema\` $as; ALTER DATABASE \`$schema\` $as"
  done
  sql "DELETE FROM relaunch.import_loading WHERE name IN ($list)" 2>/dev/null || true  # no longer half of a dump, whose import makes the table
  import_account relaunch_import "$work/loader.cnf" "${schemas[@]}"
  dump_there |
    python3 "$RS_ATTACH_DIR/import_dump.py" copy "\`$DB_USER\`@\`%\`" "$work/loader.cnf" | tee "$work/copied"
  stood=$(sed -n 's/^STOOD //p' "$work/copied")
  [ -n "$stood" ] || stop_with "The copy does not say where the other server's binary log stood."
  file=$(jq -r '.[0]' <<<"$stood") position=$(jq -r '.[1]' <<<"$stood")
  for schema in "${schemas[@]}"; do app_may_use "$schema"; done
  sql "UPDATE relaunch.import_source SET stage = 'following', file = $(quoted "$file"), position = $position, changed = UNIX_TIMESTAMP()
    WHERE name = 'import'"
  echo "Copied as of $file $position"
}

# On every member, so that whoever is the primary follows. The account comes to the replicas by replication; its password
# is made from what all members have and nobody else.
follow() {
  local password me
  password=$(printf '%s' "import $IMPORT_PASSWORD $(jq -r .password /etc/relaunch/replication.json)" | sha256sum | cut -d' ' -f1)
  install -d -m 700 "$etc"
  install -m 600 "$work/source.cnf" "$etc/source.cnf"
  install -m 600 /dev/stdin "$etc/ours.cnf" <<FILE
[client]
user = relaunch_import
password = "$password"
default-character-set = utf8mb4
FILE
  if [ "$(sql "SELECT @@read_only")" = 0 ]; then
    import_account relaunch_import "$work/any.cnf" "${schemas[@]}"
    "$client" <<SQL
ALTER USER relaunch_import@localhost IDENTIFIED BY '$password';
GRANT SELECT, UPDATE ON relaunch.import_source TO relaunch_import@localhost;
SQL
  fi
  # A number that no other server has: of a range of its own, by our own.
  me=$((4000000000 + $(sql "SELECT @@server_id") % 200000000))
  jq -n --arg schemas "$IMPORT_SCHEMAS" --arg definer "\`$DB_USER\`@\`%\`" --argjson id "$me" \
    '{schemas: ($schemas | split(" ")), $definer, server_id: $id}' | install -m 600 /dev/stdin "$etc/settings.json"
  install -m 755 "$RS_ATTACH_DIR/import_follow.py" /usr/local/lib/relaunch-import-follow.py
  cat >/etc/systemd/system/relaunch-import.service <<'FILE'
# Written by relaunch: script import_from_server.sh. Change the script, not this file.
[Unit]
Description=Follow a server that is imported from, where this group takes writes
After=mariadb.service mysql.service
[Service]
ExecStart=/usr/bin/python3 -I /usr/local/lib/relaunch-import-follow.py
Restart=always
RestartSec=2
# It lets a change of structure that is under way reach its position.
KillMode=mixed
TimeoutStopSec=1h
[Install]
WantedBy=multi-user.target
FILE
  systemctl daemon-reload
  systemctl enable relaunch-import 2>/dev/null
  systemctl restart --no-block relaunch-import # which may wait for a long statement
}

position_here() { sql "SELECT file, position FROM relaunch.import_source WHERE name = 'import'"; }

stands_there() {  # sets from, to
  read -r from to <<<"$(position_there)"
  [ -n "$to" ] || stop_with "The other server does not say where its binary log stands: nothing was cut over."
}

reached() {  # FILE POSITION FILE POSITION: whether the first is not before the second. Names of log files have equal length.
  [ $# = 4 ] || return 1
  [[ $1 > $3 ]] || { [ "$1" = "$3" ] && [ "$2" -ge "$4" ]; }
}

status() {
  local row
  row=$(sql "SELECT JSON_OBJECT('stage', stage, 'schemas', wanted, 'file', file, 'position', position, 'foreign_time', foreign_time,
    'changed', changed, 'locked', locked, 'result', result, 'now', UNIX_TIMESTAMP()) FROM relaunch.import_source WHERE name = 'import'" 2>/dev/null || true)
  jq -nc --argjson row "${row:-null}" --argjson follower "$(cat /run/relaunch-import.json 2>/dev/null || echo null)" \
    --arg there "$(position_there 2>"$work/error" | tr '\t' ' ' || true)" --arg error "$(cat "$work/error")" \
    '"STATUS " + ({import: $row, $follower, $there, $error} | tojson)' -r
}

# Accounts that may write to these schemas, when we may lock accounts there, and their sessions ended: those of accounts that
# were locked before, too, as a lock ends none. `everyone` says that nobody writes there any more; when it stays empty, the
# application has to be stopped. An administrator who is away may.
everyone='' others=''
lock() {
  local grants every accounts account own noted unknown='' id present='' names=() before=() taken=() left=()
  grants=$(there "SHOW GRANTS" | grep -E "^GRANT (ALL PRIVILEGES|.*CREATE USER).* ON \*\.\*") || return 0
  every=$(writers_there all 2>/dev/null) || unknown="somebody unknown"  # first: who comes between the two is to be locked
  accounts=$(writers_there 2>/dev/null) || return 0
  own=$(there "SELECT CONCAT(QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', 1)), '@', QUOTE(SUBSTRING_INDEX(CURRENT_USER(), '@', -1)))")
  # What an earlier cut-over could not unlock is still to be unlocked.
  noted=$(sql "SELECT locked FROM relaunch.import_source WHERE name = 'import'")
  accounts=$(printf '%s\n' "$accounts" "${noted//\\n/$'\n'}" | grep -vxF -e "$own" -e '' | sort -u || true)
  mapfile -t before < <(grep -vxF -e "$own" -e "$accounts" -e '' <<<"$every")
  [ -n "$accounts${before[*]}" ] || return 0
  # Noted here first: whoever has to undo it must know.
  [ -z "$accounts" ] || sql "UPDATE relaunch.import_source SET locked = $(quoted "$accounts") WHERE name = 'import'"
  while read -r account; do
    [ -n "$account" ] || continue
    if there "ALTER USER $account ACCOUNT LOCK" 2>"$work/error"; then
      taken+=("$account")
    elif grep -qE '^ERROR (1064|1227|1396) ' "$work/error"; then  # MariaDB 10.3 cannot, we may not, it is gone: not locked
      left+=("$account")
    else
      cat "$work/error" >&2
      return 1
    fi
  done <<<"$accounts"
  if [ "${#left[@]}" != 0 ]; then
    sql "UPDATE relaunch.import_source SET locked = $(quoted "$(printf '%s\n' "${taken[@]}")") WHERE name = 'import'"
  fi
  [ "${#taken[@]}${#before[@]}" != 00 ] || return 0
  [ "${#taken[@]}" = 0 ] || echo "Locked there: ${taken[*]}"
  # Sessions of our own name cannot be told from ours: `others` has it.
  mapfile -t names < <(printf '%s\n' "${taken[@]}" "${before[@]}" | grep -vF -e "${own%@*}@" | sed "s/^'//; s/'@.*//; /^$/d" | sort -u)
  for _ in $(seq 10); do
    present=$(sessions_there "${names[@]}")
    [ -n "$present" ] || break
    for id in $present; do there "KILL CONNECTION $id" 2>/dev/null || true; done
    sleep 0.1
  done
  others=$(others_there 2>/dev/null) || others="somebody unknown"
  others=$(printf '%s\n' "${left[@]}" "$others" "$unknown" ${present:+"a session that could not be ended"} | sed '/^$/d' | sort -u | paste -sd, | sed 's/,/, /g')
  # Without PROCESS no session but our own can be seen.
  if ! grep -qE "ALL PRIVILEGES|PROCESS" <<<"$grants"; then others="${others:+$others, }sessions that we may not see"; fi
  if [ -z "$others" ]; then everyone=1; fi
}

# Behind `||` errexit is off in these: each step says itself that it failed. Whom to unlock stays noted until it is done.
unlock() {
  local account noted failed=''
  noted=$(sql "SELECT locked FROM relaunch.import_source WHERE name = 'import'") || return 1
  while read -r account; do
    [ -n "$account" ] || continue
    if there "ALTER USER $account ACCOUNT UNLOCK"; then echo "Unlocked there: $account"; else failed=1; fi
  done <<<"${noted//\\n/$'\n'}"
  [ -z "$failed" ] || return 1
  sql "UPDATE relaunch.import_source SET locked = '' WHERE name = 'import'" || return 1
}

# A server whose accounts are unlocked may be written to: it is followed on, and the next cut-over looks again.
take_back() {
  sql "UPDATE relaunch.import_source SET stage = 'following', result = '' WHERE name = 'import' AND stage = 'cut'" || return 1
  unlock || return 1
}

# Rows and a sum over them of each table, on both sides; how many views, triggers and routines there are. Each side says
# itself how its tables are asked: as root nothing is run here that another server has written.
sums() {  # PROGRAM-FOR-SQL SIDE
  local ask=$1 line statement
  "$ask" "$sums_sql" >"$work/statements-$2" || return 1
  while read -r line; do
    printf -v statement %b "$line"  # the client has escaped in it what a line could not hold
    "$ask" "$statement" || return 1
  done < <(cat "$work/statements-$2" "$work/counts") >"$work/sums-$2"
}
compare() {
  local kind other tables name="REPLACE(c.column_name, '\`', '\`\`')" sums_sql
  sums_sql="SET SESSION group_concat_max_len = 100000000; SELECT CONCAT('SET time_zone = ''+00:00''; SELECT ', QUOTE(CONCAT(c.table_schema, '.', c.table_name)),
    ', COUNT(*), COALESCE(BIT_XOR(CAST(CONV(LEFT(SHA2(CONCAT_WS(''#'', ', GROUP_CONCAT(
      IF(c.data_type IN ('char', 'varchar', 'tinytext', 'text', 'mediumtext', 'longtext', 'enum', 'set', 'json', 'bit', 'binary', 'varbinary',
        'tinyblob', 'blob', 'mediumblob', 'longblob', 'geometry', 'point', 'linestring', 'polygon', 'multipoint', 'multilinestring',
        'multipolygon', 'geometrycollection', 'geomcollection', 'vector'), CONCAT('COALESCE(HEX(\`', $name, '\`), ''~'')'), CONCAT('COALESCE(\`', $name, '\`, ''~'')'))
      ORDER BY c.ordinal_position), '), 256), 16), 16, 10) AS UNSIGNED)), 0) FROM \`', c.table_schema, '\`.\`', REPLACE(c.table_name, '\`', '\`\`'), '\`')
    FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
    WHERE t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND COALESCE(c.generation_expression, '') NOT IN ('ROW START', 'ROW END')
      AND c.table_schema IN ($list) GROUP BY c.table_schema, c.table_name"
  : >"$work/counts"
  tables=$(there "SELECT COUNT(*) FROM information_schema.tables WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND table_schema IN ($list)") || return 1
  for kind in "TABLES table_schema" "VIEWS table_schema" "TRIGGERS trigger_schema" "ROUTINES routine_schema" "EVENTS event_schema"; do
    echo "SELECT '${kind% *}', ${kind#* }, COUNT(*) FROM information_schema.${kind% *} WHERE ${kind#* } IN ($list) GROUP BY 2 ORDER BY 2" >>"$work/counts"
  done
  sums there there &
  other=$!
  sums sql here || { wait "$other" || true; return 1; }
  wait "$other" || return 1
  if ! diff <(sort "$work/sums-there") <(sort "$work/sums-here") >"$work/different"; then
    echo "NOT EQUAL (< there, > here):"
    head -40 "$work/different"
    return 1
  fi
  compared=$(grep -c '\.' "$work/sums-here" || true)
  [ "$compared" = "$tables" ] || { echo "$compared tables were compared, and there are $tables"; return 1; }
}

gone_wrong() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ]; then take_back || echo "WARNING what was locked there could not be unlocked"; fi
  rm -rf "$work"
  exit "$status"
}

cut_over() {
  local from to here wait_until locked since last quiet=$IMPORT_QUIET_SECONDS
  need_primary
  [ "$(sql "SELECT stage FROM relaunch.import_source WHERE name = 'import'")" != cut ] || { result; return; }
  [ "$(sql "SELECT stage FROM relaunch.import_source WHERE name = 'import'")" = following ] || stop_with "There is nothing that is followed."
  stands_there
  for _ in $(seq 20); do
    # shellcheck disable=SC2046  # two words
    reached $(position_here) "$from" "$to" && break
    sleep 0.5
  done
  # shellcheck disable=SC2046
  reached $(position_here) "$from" "$to" || stop_with "It lags: what was written there 10 s ago is not here yet. See: relaunch db import --status"

  began=$(date +%s.%N)
  trap gone_wrong EXIT
  lock
  locked=$(sql "SELECT locked <> '' FROM relaunch.import_source WHERE name = 'import'")
  if [ -n "$everyone" ]; then
    quiet=0.5 since=0
  elif [ "$locked" = 1 ] || [ -n "$others" ]; then
    since=$began
    echo "STOP THE APPLICATION NOW: not all that may write there could be locked ($others). Waiting until nothing is written for $quiet s."
  else
    since=$began
    echo "STOP THE APPLICATION NOW: no account there may be locked by $IMPORT_USER. Waiting until nothing is written for $quiet s."
  fi
  wait_until=$((SECONDS + IMPORT_WAIT_SECONDS))
  while :; do
    stands_there
    sleep 0.1
    here=$(position_here)
    # shellcheck disable=SC2086
    if reached $here "$from" "$to" && [ "$(sql "SELECT $(date +%s.%N) - GREATEST(changed, $since) > $quiet FROM relaunch.import_source")" = 1 ]; then break; fi
    [ $SECONDS -lt $wait_until ] || stop_with "Something still writes there after $IMPORT_WAIT_SECONDS s: nothing was cut over, and it is followed on."
  done
  echo "Everything up to $from $to has arrived"
  last=$(sql "SELECT changed FROM relaunch.import_source")
  compare || stop_with "Both sides are not equal, or could not be compared: nothing was cut over, and it is followed on."
  stands_there
  # shellcheck disable=SC2046  # two words
  until reached $(position_here) "$from" "$to"; do
    [ $SECONDS -lt $((wait_until + 60)) ] || stop_with "It does not arrive any more: nothing was cut over."
    sleep 0.1
  done
  [ "$(sql "SELECT changed FROM relaunch.import_source")" = "$last" ] ||
    stop_with "Something was written there while both sides were compared: nothing was cut over, and it is followed on."
  # Locked out at once, or stopped by a person: the outage begins with the lock, or with the last write.
  sql "UPDATE relaunch.import_source SET stage = 'cut', result = JSON_OBJECT('downtime_seconds',
    ROUND($(date +%s.%N) - IF(locked <> '', $began, changed), 2),
    'tables_compared', $compared, 'position', '$from $to', 'locked', locked) WHERE name = 'import' AND stage = 'following'"
  result
}
result() {
  local said
  said=$(sql "SELECT result FROM relaunch.import_source WHERE name = 'import'")
  echo "CUT-OVER $said"
}

leave() {  # on every member: nothing of it stays
  systemctl kill --signal=KILL relaunch-import 2>/dev/null || true # what is under way is not needed any more
  systemctl disable --now relaunch-import 2>/dev/null || true
  rm -rf "$etc" /etc/systemd/system/relaunch-import.service /usr/local/lib/relaunch-import-follow.py /run/relaunch-import.json
  systemctl daemon-reload
  if [ "$(sql "SELECT @@read_only")" = 0 ]; then sql "DROP USER IF EXISTS relaunch_import@localhost"; fi
}

drop_schemas() {  # as it was before: gone, or empty
  local schema before wanted noted as
  before=$(sql "SELECT result FROM relaunch.import_source WHERE name = 'import' AND stage <> 'cut'")
  wanted=$(sql "SELECT wanted FROM relaunch.import_source WHERE name = 'import' AND stage <> 'cut'")
  for schema in $wanted; do
    echo "Dropping what was imported of $schema"
    sql "DROP DATABASE IF EXISTS \`$schema\`"
    for noted in $before; do
      [ "${noted%%:*}" = "$schema" ] || continue
      as="CHARACTER SET utf8mb4" # as sites' schemas are made: once the names alone were noted
      [[ $noted != *:* ]] || as="COLLATE ${noted#*:}"
      sql "CREATE DATABASE \`$schema\` $as"
    done
  done
}

case $IMPORT_STEP in
  look) look ;;
  copy) copy ;;
  follow) follow ;;
  status) status ;;
  cut-over) cut_over ;;
  unlock) take_back ;;
  leave) leave ;;
  forget) sql "DROP TABLE IF EXISTS relaunch.import_source" ;;
  drop)
    need_primary
    note_table
    unlock || echo "WARNING what was locked there could not be unlocked: $(sql "SELECT locked FROM relaunch.import_source")"
    noted=$(order_noted) # what cannot be read is no other order's
    stage=$(sql "SELECT stage FROM relaunch.import_source WHERE name = 'import'")
    if of_this_order "$noted" || { [ "$stage" = copying ] && part_of_this_order "$noted"; }; then
      drop_schemas
    else
      echo "WARNING nothing is dropped but the note of an earlier import: $(sql "SELECT wanted FROM relaunch.import_source")"
    fi
    sql "DROP TABLE relaunch.import_source"
    ;;
esac
