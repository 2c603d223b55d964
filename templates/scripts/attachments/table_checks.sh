#!/bin/bash
# Written by relaunch: attachment table_checks.sh of the scripts that back up and restore. Change it there.
#
# What a table holds as two numbers, the same on every server that holds the same rows: how many, and a sum over a
# checksum of each. Meant to be sourced; whoever does has:
#   sql STATEMENT    prints the rows
#   work             a folder; only sum_tables needs it
# shellcheck disable=SC2154
set -euo pipefail

# A name may hold any sign. So it is given to the server as numbers, and what has names in it the server puts together.
literal() { # literal NAME; sets found: a text in SQL, whatever sql_mode is
  local LC_ALL=C at byte
  found="_utf8mb4 X'"
  for ((at = 0; at < ${#1}; at++)); do
    printf -v byte %02x "'${1:at:1}"
    found+=${byte: -2}
  done
  found+="'"
}
quoted() { echo "'\`', REPLACE($1, '\`', '\`\`'), '\`'"; }
# What came before is forgotten first: a statement that fails must not be followed by an earlier one.
run_sql() { echo "SET @statement = NULL; SET @statement = CONCAT($1); PREPARE summing FROM @statement; EXECUTE summing"; }

# check_sql SCHEMA TABLE METHOD, needs ask(): the statements. METHOD: all, or last N: the N highest by primary key.
check_sql() {
  local method=$3 found schema table of column key limit
  literal "$1"
  schema=$found
  literal "$2"
  table=$found column=$(quoted column_name)
  of="table_schema = $schema AND table_name = $table"
  # What is not text MySQL cannot quote.
  echo "SET @columns = NULL, @key = NULL, @found = NULL, @from = CONCAT($(quoted "$schema"), '.', $(quoted "$table"));
    SELECT GROUP_CONCAT(IF(VERSION() LIKE '%MariaDB%', 'QUOTE(CAST(', 'COALESCE(HEX(CAST('), $column,
      IF(VERSION() LIKE '%MariaDB%', ' AS BINARY))', ' AS BINARY)), ''-'')') ORDER BY ordinal_position SEPARATOR ',')
    INTO @columns FROM information_schema.columns WHERE $of AND COALESCE(generation_expression, '') = '';"
  if [ "$method" != all ]; then
    key="FROM information_schema.statistics WHERE $of AND index_name = 'PRIMARY'" limit=${method#last }
    echo "SELECT GROUP_CONCAT($column ORDER BY seq_in_index SEPARATOR ' DESC,') INTO @key $key;"
    if [ "$(ask "SELECT COUNT(*) $key")" = 1 ]; then
      # Not SET, which would lock what it reads, and read it as it is by now.
      run_sql "'SELECT MIN(', @key, '), 1 INTO @lowest, @found FROM (SELECT ', @key, ' FROM ', @from, ' ORDER BY ', @key, ' DESC LIMIT $limit) AS sample'"
      echo "; SET @from = IF(@found, CONCAT(@from, ' WHERE ', @key, ' >= @lowest'), NULL);"
    else # which copies the rows first
      echo "SET @from = CONCAT('(SELECT * FROM ', @from, ' ORDER BY ', @key, ' DESC LIMIT $limit) AS sample');"
    fi
  fi
  run_sql "'SELECT COUNT(*), COALESCE(SUM(CAST(CRC32(CONCAT_WS('','', ', @columns, ')) AS UNSIGNED)), 0) FROM ', @from"
}

open_session() { # open_session CLIENT…: for ask. Not connected anew when it is lost: another session sees other rows
  coproc DB { "$@" --skip-reconnect 2> >(grep --line-buffered '^ERROR [0-9]'); } # of which the number is enough
  exec {to_db}>&"${DB[1]}" {from_db}<&"${DB[0]}" # copies: bash closes its own in subshells
  echo "SET NAMES utf8mb4;" >&"$to_db" # which has every name
}
close_session() { # the client ends with what it reads from
  local writes=${DB[1]} pid=$DB_PID
  exec {to_db}>&- {writes}>&-
  wait "$pid" 2>/dev/null || true
  exec {from_db}<&-
}
ask() { # ask STATEMENTS: prints their rows; one that fails is told, and does not end the session
  local line
  echo "$1; SELECT '#end';" >&"$to_db"
  while read -r line <&"$from_db"; do
    case $line in
      '#end') return 0 ;;
      'ERROR 2'[0-9][0-9][0-9]' '*) break ;; # the client's own: the server, or the session, has ended, and answers no more
      'ERROR '*) printf '%s\n' "$line" >&2 ;;
      *) printf '%s\n' "$line" ;;
    esac
  done
  echo "The session in which rows were counted has ended. ${line:-}" >&2
  return 1
}

# Rows counted and summed in the session as it sees them, the smallest tables first, for as long as there is time. What is
# in relaunch_trial is no data: restore_schema.sh has loaded it for trial, on this server alone.
sum_tables() { # sum_tables SECONDS [SCHEMA]; a line of JSON for each table goes into $work/checks or $work/unchecked
  local deadline=$((SECONDS + $1)) only='' found schema table bytes has_key method summed rows sum plain_schema plain_table
  if [ -n "${2:-}" ]; then
    literal "$2"
    only="AND t.table_schema = $found"
  fi
  : >"$work/summed"
  sql "SELECT CAST(t.table_schema AS BINARY), CAST(t.table_name AS BINARY), COALESCE(t.data_length, 0), EXISTS (SELECT 1 FROM
      information_schema.statistics s WHERE s.table_schema = t.table_schema AND s.table_name = t.table_name
      AND s.index_name = 'PRIMARY') FROM information_schema.tables t
    WHERE t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND t.engine = 'InnoDB'
    $only AND t.table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema', 'relaunch_trial') ORDER BY t.data_length" \
    >"$work/to_sum" || { echo "The tables that are to be summed cannot be listed." >&2; return 1; }
  while IFS=$'\t' read -r schema table bytes has_key; do # with \\, \t and \n in names, as the client prints them
    printf -v plain_schema %b "$schema"
    printf -v plain_table %b "$table"
    method=all rows='' sum=''
    [ "$bytes" -lt 268435456 ] || method="last 100000"
    if [ "$SECONDS" -lt "$deadline" ] && { [ "$method" = all ] || [ "$has_key" != 0 ]; }; then
      summed=$(ask "$(check_sql "$plain_schema" "$plain_table" "$method")") || return 1
      read -r rows sum <<<"$summed" || true
    fi
    printf '%s\t%s\t%s\t%s\t%s\n' "$schema" "$table" "$method" "$rows" "$sum" >>"$work/summed"
  done <"$work/to_sum"
  local fields='split("\t") | map(gsub("\\\\(?<sign>.)"; {n: "\n", t: "\t", "\\": "\\"}[.sign]))'
  jq -Rc "$fields"' | select(.[4] != "") | {schema: .[0], table: .[1], method: .[2], rows: (.[3] | tonumber), sum: .[4]}' "$work/summed" >"$work/checks"
  jq -Rc "$fields"' | select(.[4] == "") | "\(.[0]).\(.[1])"' "$work/summed" >"$work/unchecked"
}

# What a backup or a replica does not hold as the rest, and what would fail or do something else elsewhere: a line each.
odd_things() { # odd_things WHY: what is wrong with a table that is not InnoDB's
  local ours="NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema', 'relaunch', 'relaunch_trial')"
  local gone="NOT IN (SELECT CAST(CONCAT(user, '@', host) AS BINARY) FROM mysql.user)" said="': its definer ', definer, ' does not exist'"
  sql "SELECT CONCAT(table_schema, '.', table_name, ' is ', engine, ': $1') FROM information_schema.tables
      WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') AND engine <> 'InnoDB' AND table_schema $ours
    UNION ALL SELECT CONCAT(table_schema, '.', table_name, ' is a sequence: it is not compared') FROM information_schema.tables
      WHERE table_type = 'SEQUENCE' AND table_schema $ours
    UNION ALL SELECT CONCAT('event ', event_schema, '.', event_name, $said) FROM information_schema.events
      WHERE event_schema $ours AND CAST(definer AS BINARY) $gone
    UNION ALL SELECT CONCAT('trigger ', trigger_schema, '.', trigger_name, $said) FROM information_schema.triggers
      WHERE trigger_schema $ours AND CAST(definer AS BINARY) $gone
    UNION ALL SELECT CONCAT('routine ', routine_schema, '.', routine_name, $said) FROM information_schema.routines
      WHERE routine_schema $ours AND CAST(definer AS BINARY) $gone
    UNION ALL SELECT CONCAT('view ', table_schema, '.', table_name, $said) FROM information_schema.views
      WHERE table_schema $ours AND security_type = 'DEFINER' AND CAST(definer AS BINARY) $gone
    UNION ALL SELECT CONCAT('binlog_format is ', @@global.binlog_format, ': a statement may do something else on a replica')
      FROM DUAL WHERE @@global.binlog_format <> 'ROW'"
}
