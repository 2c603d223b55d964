#!/bin/bash
# Written by relaunch: attachment import_source.sh of the script import_from_server.sh. Change it there.
#
# The server that is not ours, asked in its own dialect, which is ours too: the other one is refused after the look. Meant
# to be sourced, after import_account.sh; needs: work (a folder), schemas and list (as words, for SQL), and
# table_history.sh.
# shellcheck disable=SC2034,SC2154  # variables come from there, and are for there
set -euo pipefail

tls_options() {  # of a client: encrypted when it can be; the certificate is not checked, nobody here knows it
  if [ "$client" = mariadb ]; then
    echo "disable-ssl-verify-server-cert"
  else
    printf '%s\n' "ssl-mode = PREFERRED" "get-server-public-key"
  fi
}

fresh=''   # put before a question for sizes: MySQL's are a day old else, and 5.7 knows no such setting
[ "$client" = mariadb ] || fresh='/*!80000 SET SESSION information_schema_stats_expiry = 0 */;'

there() { "$client" --defaults-extra-file="$work/source.cnf" -N -B -e "$1"; }

position_there() {  # FILE POSITION
  if [ "$client" = mysql ] && there "SHOW BINARY LOG STATUS" >"$work/stands" 2>/dev/null; then :; else
    there "SHOW MASTER STATUS" >"$work/stands"
  fi
  head -1 "$work/stands" | cut -f1,2
}

followers_there() { there "SHOW REPLICAS" 2>/dev/null || there "SHOW SLAVE HOSTS" 2>/dev/null || true; }

sessions_there() {  # USER…: numbers of their sessions
  there "SHOW PROCESSLIST" | awk -F'\t' -v names="$(printf '%s\n' "$@")" \
    'BEGIN {split(names, each, "\n"); for (i in each) wanted[each[i]] = 1} $2 in wanted {print $1}'
}

rights_sql() {  # as a table: accounts and roles with rights on these schemas, or on something in them
  local schema table where=''
  for schema in "${schemas[@]}"; do where+=" OR $(quoted "$schema") LIKE db"; done
  echo "(SELECT user, host FROM mysql.db WHERE ${where# OR }"
  for table in tables_priv columns_priv procs_priv; do echo "UNION SELECT user, host FROM mysql.$table WHERE db IN ($list)"; done
  echo ")"
}

modes="SET SESSION sql_mode = ''"  # a backslash escapes, in names of schemas that are patterns

role_edges() {  # how many tables of them MySQL has: 5.7 has no roles
  there "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'mysql' AND table_name = 'role_edges'"
}

# Accounts that may write to these schemas and can be locked; without `all` those that are not locked yet. A role is none.
writers_there() {  # [all]
  local only="u.is_role = 'N'" edges
  local unlocked="NOT EXISTS (SELECT 1 FROM mysql.global_priv p WHERE p.user = u.user AND p.host = u.host
    AND JSON_VALUE(p.priv, '\$.account_locked') = 1)"
  if [ "$client" = mysql ]; then
    only="1 = 1" unlocked="u.account_locked = 'N'"
    edges=$(role_edges) || return 1
    if [ "$edges" = 1 ]; then only+=" AND NOT EXISTS (SELECT 1 FROM mysql.role_edges e WHERE e.from_user = u.user AND e.from_host = u.host)"; fi
  fi
  [ "${1:-}" = all ] || only+=" AND $unlocked"
  there "$modes; SELECT DISTINCT CONCAT(QUOTE(u.user), '@', QUOTE(u.host)) FROM mysql.user u JOIN $(rights_sql) w
    ON w.user = u.user AND w.host = u.host WHERE $only"
}

# Who may write there by other ways than a right of an account of its own that can be locked: roles; the account that we
# use; whoever may write everywhere and is connected now; who writes to the server that it follows; events, which run
# though the account that made them is locked.
others_there() {
  local everywhere="'Y' IN (u.insert_priv, u.update_priv, u.delete_priv)" found users name mandatory edges=0
  local me="SUBSTRING_INDEX(CURRENT_USER(), '@', 1)" no_role="u.is_role = 'N'"
  if [ "$client" = mysql ]; then
    no_role="1 = 1"
    edges=$(role_edges) || return 1
  fi
  found="SELECT CONCAT('role ', w.user) FROM $(rights_sql) w LEFT JOIN mysql.user u ON u.user = w.user AND u.host = w.host AND $no_role
    WHERE u.user IS NULL UNION SELECT w.user FROM $(rights_sql) w WHERE w.user = $me"
  if [ "$client" = mariadb ]; then
    found+=" UNION SELECT CONCAT('role ', u.user) FROM mysql.user u WHERE u.is_role = 'Y' AND $everywhere"
  elif [ "$edges" = 1 ]; then
    found+=" UNION SELECT CONCAT('role ', e.from_user) FROM mysql.role_edges e JOIN mysql.user u ON u.user = e.from_user AND u.host = e.from_host
      LEFT JOIN $(rights_sql) w ON w.user = e.from_user AND w.host = e.from_host WHERE w.user IS NOT NULL OR $everywhere"
    mandatory=$(there "SHOW GLOBAL VARIABLES LIKE 'mandatory_roles'") || return 1
    [ -z "$(cut -f2 <<<"$mandatory")" ] || echo "mandatory roles"
  fi
  there "$modes; $found" || return 1
  there "SELECT CONCAT('event ', event_schema, '.', event_name) FROM information_schema.events
    WHERE status = 'ENABLED' AND @@global.event_scheduler = 'ON' AND event_schema IN ($list)" || return 1
  found=$(there "SHOW PROCESSLIST") || return 1
  if awk -F'\t' '$2 == "system user" && $5 != "Daemon" {follows = 1} END {exit !follows}' <<<"$found"; then
    echo "whoever writes to the server that it follows"
  fi
  users=$(there "SELECT DISTINCT u.user FROM mysql.user u WHERE $no_role AND $everywhere AND u.user <> $me") || return 1
  while read -r name; do
    [ -n "$name" ] || continue
    found=$(sessions_there "$name") || return 1
    [ -z "$found" ] || echo "$name"
  done <<<"$users"
}

settings_sql() {  # what of a server's settings counts, as one JSON object; ON and OFF are 1 and 0
  if [ "$client" = mariadb ]; then
    echo "SELECT JSON_OBJECT('version', CONCAT(VERSION(), ' ', @@version_comment), 'server_id', @@server_id,
      'log_bin', @@log_bin + 0, 'binlog_format', @@binlog_format, 'binlog_row_image', @@binlog_row_image, 'sql_mode', @@sql_mode,
      'lower_case_table_names', @@lower_case_table_names + 0)"
  else
    echo "SELECT JSON_OBJECTAGG(LOWER(VARIABLE_NAME), CASE VARIABLE_VALUE WHEN 'ON' THEN '1' WHEN 'OFF' THEN '0' ELSE VARIABLE_VALUE END)
      FROM performance_schema.global_variables WHERE VARIABLE_NAME IN ('version', 'server_id', 'log_bin', 'binlog_format',
        'binlog_row_image', 'binlog_transaction_compression', 'sql_mode', 'lower_case_table_names')"
  fi
}

# One transaction that sees one moment, and where the binary log stood at that moment. MariaDB locks nothing for it.
dump_there() {
  local how=(--defaults-extra-file="$work/source.cnf") year history
  refuse_endless "event_schema IN ($list)" there
  if [ "$client" = mariadb ]; then
    year=$(sql "$last_year_sql")
    history=$(history_words "table_schema IN ($list)" "$year" there)
    # shellcheck disable=SC2086  # options, as separate words
    "$dumper" "${how[@]}" "${dump_words[@]}" $history --master-data=2 --quick --max-allowed-packet=1G --databases "${schemas[@]}"
  else
    python3 "$RS_ATTACH_DIR/import_snapshot.py" "$work/source.cnf" "${schemas[@]}" -- \
      "$dumper" "${how[@]}" "${dump_words[@]}" --quick --max-allowed-packet=1G --databases "${schemas[@]}"
  fi
}
