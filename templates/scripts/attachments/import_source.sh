#!/bin/bash
# Written by relaunch: attachment import_source.sh of the script import_from_server.sh. Change it there.
#
# The server that is not ours, asked in its own dialect, which is ours too: the other one is refused after the look. Meant
# to be sourced, after import_account.sh; needs: work (a folder), schemas and list (as words, for SQL).
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
  local how=(--defaults-extra-file="$work/source.cnf")
  if [ "$client" = mariadb ]; then
    "$dumper" "${how[@]}" "${dump_words[@]}" --master-data=2 --quick --max-allowed-packet=1G --databases "${schemas[@]}"
  else
    python3 "$RS_ATTACH_DIR/import_snapshot.py" "$work/source.cnf" "${schemas[@]}" -- \
      "$dumper" "${how[@]}" "${dump_words[@]}" --quick --max-allowed-packet=1G --databases "${schemas[@]}"
  fi
}
