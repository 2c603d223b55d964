#!/bin/bash
# Written by relaunch: attachment table_history.sh of the scripts that dump. Change it there.
#
# What the system-versioned tables of a MariaDB held before belongs into its dumps, and what no dump can hold is named.
# Meant to be sourced.
set -euo pipefail

# A present row ends in the last year that a server knows, 2106 since MariaDB 11.5. To a server of another year it is past.
last_year_sql="SELECT IF(FROM_UNIXTIME(2147483648) IS NULL, 2038, 2106)"

# The words for mariadb-dump, none where there is no such table. It gives up at one whose history counts transactions.
history_words() {  # CONDITION YEAR PROGRAM…: of the tables' schemas; of the server it is for, blank: the same; that asks
  local condition=$1 year=$2 found
  shift 2
  found=$("$@" "SELECT CASE
    WHEN NOT EXISTS (SELECT 1 FROM information_schema.tables WHERE table_type = 'SYSTEM VERSIONED' AND $condition) THEN ''
    WHEN EXISTS (SELECT 1 FROM information_schema.columns WHERE generation_expression = 'ROW START' AND data_type = 'bigint'
      AND $condition) THEN 'transactions' ELSE ($last_year_sql) END") || return 1
  case $found in
    '') ;;
    transactions) echo "WARNING history of tables stays behind: that of some counts transactions, which no dump can tell" >&2 ;;
    "${year:-$found}") echo --dump-history ;;
    2038) echo --dump-history --update-history ;;
    *) echo "WARNING history of tables stays behind: it ends in $found, which MariaDB knows since 11.5 only" >&2 ;;
  esac
}

# mysqldump, and mariadb-dump before 11, look for a delimiter that an event with ;; does not have, and never end.
refuse_endless() {  # CONDITION PROGRAM…: of the events' schemas; that asks
  local condition=$1 found
  shift
  found=$("$@" "SELECT CONCAT(event_schema, '.', event_name) FROM information_schema.events
    WHERE event_definition LIKE '%;;%' AND $condition") || return 1
  if [ -z "$found" ] || [[ $(mariadb-dump --version 2>/dev/null) =~ from\ 1[1-9]\. ]]; then
    return 0
  fi
  echo "The text of an event has ;; in it, at which the dump would never end. Write it in another way: ${found//$'\n'/, }" >&2
  return 1
}

# A server prints six digits of a FLOAT, whatever it holds.
warn_of_floats() {  # CONDITION PROGRAM…: of the columns' schemas; that asks
  local condition=$1 found
  shift
  found=$("$@" "SELECT CONCAT(table_schema, '.', table_name, '.', column_name) FROM information_schema.columns
    WHERE data_type = 'float' AND numeric_scale IS NULL AND $condition") || return 1
  [ -z "$found" ] || echo "WARNING of a FLOAT the dump holds six digits, of a DOUBLE all: ${found//$'\n'/, }" >&2
}
