#!/bin/bash
# Written by relaunch: attachment table_checks.sh of the scripts that back up and restore. Change it there.
#
# What a table holds as two numbers, the same on every server that holds the same rows: how many, and a sum over a
# checksum of each. Meant to be sourced.
set -euo pipefail

# check_sql SCHEMA TABLE METHOD, needs ask(): the statement. METHOD: all, or last N: the N highest by primary key.
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
  [ "$method" = all ] || from="(SELECT * FROM $from ORDER BY $key LIMIT ${method#last }) AS sample"
  echo "SELECT COUNT(*), COALESCE(SUM(CAST(CRC32(CONCAT_WS(',', $columns)) AS UNSIGNED)), 0) FROM $from"
}
