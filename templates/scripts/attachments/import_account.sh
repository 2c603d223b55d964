#!/bin/bash
# Written by relaunch: attachment import_account.sh of the scripts that import. Change it there.
#
# The account that imported data is written with, and the schemas it is written to; on MariaDB and on MySQL. Meant to be
# sourced.
# shellcheck disable=SC2034  # what is set here is for whoever sources it
set -euo pipefail

dump_words=(--single-transaction --routines --events --triggers --hex-blob)
if command -v mariadb >/dev/null; then
  client=mariadb
  dumper=mariadb-dump
  # SUPER: to make triggers and functions that do not say they are deterministic.
  import_rights="SUPER, SET USER, BINLOG REPLAY"
else
  client=mysql
  dumper=mysqldump
  dump_words+=(--set-gtid-purged=OFF --no-tablespaces --skip-column-statistics)
  # No SUPER: with it a session survives a fence.
  import_rights="SET_ANY_DEFINER, REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN"
fi

stop_with() { echo "$*" >&2; exit 1; }
sql() { "$client" -N -B -e "$1"; }

own_position() {
  if [ "$client" = mariadb ]; then sql "SELECT @@gtid_binlog_pos"; else sql "SELECT REPLACE(@@global.gtid_executed, '\n', '')"; fi
}

collations() {  # that this server knows; some of MariaDB's have two names
  sql "SELECT collation_name FROM information_schema.collation_character_set_applicability"
  if [ "$client" = mariadb ]; then
    sql "SELECT full_collation_name FROM information_schema.collation_character_set_applicability" 2>/dev/null || true
  fi
}

quoted() {  # a string for SQL
  local value=${1//\\/\\\\}
  printf "'%s'" "${value//\'/\'\'}"
}

in_file() {  # a value for an option file
  local value=${1//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}

need_primary() {
  [ "$(sql "SELECT @@read_only")" = 0 ] || stop_with "This server takes no writes now: it is not the primary."
}

# It may write to these schemas and no others, and not where writes are refused: a fence holds for an import, too.
import_account() {  # NAME FILE SCHEMA…
  local name=$1 file=$2 password schema
  shift 2
  password=$(head -c 24 /dev/urandom | base64 | tr -d '/+=')
  {
    echo "CREATE USER IF NOT EXISTS $name@localhost;"
    echo "ALTER USER $name@localhost IDENTIFIED BY '$password';"
    echo "GRANT $import_rights ON *.* TO $name@localhost;"
    for schema in "$@"; do echo "GRANT ALL PRIVILEGES ON \`${schema//_/\\_}\`.* TO $name@localhost;"; done
  } | "$client"
  install -m 600 /dev/stdin "$file" <<FILE
[client]
user = $name
password = "$password"
default-character-set = utf8mb4
FILE
}

app_may_use() {  # SCHEMA
  sql "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES, CREATE TEMPORARY TABLES, LOCK TABLES,
    CREATE VIEW, SHOW VIEW, TRIGGER, EXECUTE ON \`$1\`.* TO $(quoted "$DB_USER")@'%'"
}

tables_in() {  # SCHEMA: how many tables and views it has
  sql "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = $(quoted "$1")"
}

collation_of() {  # SCHEMA: its default; nothing when there is none
  sql "SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = $(quoted "$1")"
}

has_column() {  # TABLE COLUMN: one of ours, which an earlier release may have made without it
  [ "$(sql "SELECT COUNT(*) FROM information_schema.columns
    WHERE table_schema = 'relaunch' AND table_name = '$1' AND column_name = '$2'")" = 1 ]
}
