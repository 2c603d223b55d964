#!/bin/bash
# Written by relaunch: attachment table_history.sh of the scripts that dump. Change it there.
#
# What the system-versioned tables of a MariaDB held before belongs into its dumps. Meant to be sourced.
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
