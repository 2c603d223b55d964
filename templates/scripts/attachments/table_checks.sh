#!/bin/bash
# Written by relaunch: attachment table_checks.sh of the scripts that back up and restore. Change it there.
#
# What a table holds as two numbers, the same on every server that holds the same rows: how many, and a sum over a
# checksum of each. Meant to be sourced; whoever does has sql STATEMENT.
# shellcheck disable=SC2034
set -euo pipefail

# check_sql SCHEMA TABLE METHOD, needs ask(): the statements. METHOD: all, or last N: the N highest by primary key.
check_sql() {
  local schema=$1 table=$2 method=$3 columns key
  # What is not text MySQL cannot quote.
  columns=$(ask "SELECT GROUP_CONCAT(IF(VERSION() LIKE '%MariaDB%', 'QUOTE(CAST(\`', 'COALESCE(HEX(CAST(\`'),
      REPLACE(column_name, '\`', '\`\`'), IF(VERSION() LIKE '%MariaDB%', '\` AS BINARY))', '\` AS BINARY)), ''-'')')
      ORDER BY ordinal_position SEPARATOR ',') FROM information_schema.columns
    WHERE table_schema = '$schema' AND table_name = '$table'
      AND COALESCE(generation_expression, '') = ''")
  key=$(ask "SELECT GROUP_CONCAT('\`', REPLACE(column_name, '\`', '\`\`'), '\` DESC' ORDER BY seq_in_index SEPARATOR ',')
    FROM information_schema.statistics
    WHERE table_schema = '$schema' AND table_name = '$table' AND index_name = 'PRIMARY'")
  local from="\`$schema\`.\`$table\`"
  case $method:$key in
    all:*) ;;
    *,*) from="(SELECT * FROM $from ORDER BY $key LIMIT ${method#last }) AS sample" ;; # which copies the rows first
    *)
      echo "SET @lowest = (SELECT MIN(${key% DESC}) FROM (SELECT ${key% DESC} FROM $from ORDER BY $key LIMIT ${method#last }) AS sample);"
      from="$from WHERE ${key% DESC} >= @lowest"
      ;;
  esac
  echo "SELECT COUNT(*), COALESCE(SUM(CAST(CRC32(CONCAT_WS(',', $columns)) AS UNSIGNED)), 0) FROM $from"
}

open_session() { # open_session CLIENT…: for ask
  coproc DB { "$@" 2>/dev/null; }
  exec {to_db}>&"${DB[1]}" {from_db}<&"${DB[0]}" # copies: bash closes its own in subshells
}
close_session() { # the client ends with what it reads from
  local writes=${DB[1]} pid=$DB_PID
  exec {to_db}>&- {writes}>&-
  wait "$pid" 2>/dev/null || true
  exec {from_db}<&-
}
ask() {
  local line
  echo "$1; SELECT '#end';" >&"$to_db"
  while read -r line <&"$from_db" && [ "$line" != '#end' ]; do printf '%s\n' "$line"; done
}

# Rows counted and summed in the session as it sees them, the smallest tables first, for as long as there is time.
sum_tables() { # sum_tables SECONDS [SCHEMA]; sets checks, unchecked
  local deadline=$((SECONDS + $1)) only=${2:+"AND t.table_schema = '$2'"} schema table bytes has_key method rows sum
  checks='[]' unchecked='[]'
  while IFS=$'\t' read -r schema table bytes has_key; do
    method=all
    [ "$bytes" -lt 268435456 ] || method="last 100000"
    if [ "$SECONDS" -ge "$deadline" ] || { [ "$method" != all ] && [ "$has_key" = 0 ]; }; then
      unchecked=$(jq -c --arg t "$schema.$table" '. + [$t]' <<<"$unchecked")
      continue
    fi
    read -r rows sum <<<"$(ask "$(check_sql "$schema" "$table" "$method")")" || true
    if [ -z "${sum:-}" ]; then
      unchecked=$(jq -c --arg t "$schema.$table" '. + [$t]' <<<"$unchecked")
      continue
    fi
    checks=$(jq -c --arg schema "$schema" --arg table "$table" --arg method "$method" --argjson rows "$rows" --arg sum "$sum" \
      '. + [{$schema, $table, $method, $rows, $sum}]' <<<"$checks")
  done < <(sql "SELECT t.table_schema, t.table_name, COALESCE(t.data_length, 0), EXISTS (SELECT 1 FROM
      information_schema.statistics s WHERE s.table_schema = t.table_schema AND s.table_name = t.table_name
      AND s.index_name = 'PRIMARY') FROM information_schema.tables t
    WHERE t.table_type = 'BASE TABLE' AND t.engine = 'InnoDB'
    $only AND t.table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY t.data_length")
}

# What a backup or a replica does not hold as the rest, and what would fail or do something else elsewhere: a line each.
odd_things() { # odd_things WHY: what is wrong with a table that is not InnoDB's
  local ours="NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema', 'relaunch')"
  local gone="NOT IN (SELECT CAST(CONCAT(user, '@', host) AS BINARY) FROM mysql.user)" said="': its definer ', definer, ' does not exist'"
  sql "SELECT CONCAT(table_schema, '.', table_name, ' is ', engine, ': $1') FROM information_schema.tables
      WHERE table_type = 'BASE TABLE' AND engine <> 'InnoDB' AND table_schema $ours
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
