#!/bin/bash
# Written by relaunch: attachment schema_dump.sh of the scripts that back up and restore one schema. Change it there.
#
# One schema as statements, of one moment, from MariaDB or MySQL, whichever is here. Meant to be sourced; whoever does
# has: work    a folder in memory
# shellcheck disable=SC2154,SC2034
set -euo pipefail

common=(--single-transaction --routines --events --triggers --hex-blob)
if command -v mariadb >/dev/null; then
  client=mariadb dialect=mariadb
  writable="SELECT @@read_only = 0"
  # The position stands in the dump as a comment: it is told, not obeyed.
  dump_schema() { ionice -c 3 nice -n 19 mariadb-dump "${common[@]}" --master-data=2 --gtid "$1"; }
  # A server that has written no event of its own yet has the position it was seeded with.
  position_before() { sql "SELECT @@gtid_slave_pos"; }
  watch_dump() { :; }
  position_of_dump() { # position_of_dump BEFORE: the dump's first bytes are in $work/head
    local said
    said=$(sed -n "s/.*gtid_slave_pos='\([^']*\)'.*/\1/p" "$work/head" | head -n 1)
    echo "${said:-$1}"
  }
else
  client=mysql dialect=mysql
  writable="SELECT @@super_read_only = 0 AND @@offline_mode = 0"
  dump_schema() { ionice -c 3 nice -n 19 mysqldump "${common[@]}" --set-gtid-purged=OFF "$1"; }
  # Its own way to tell the position takes a global read lock. So it is what is there before the dump begins, and whether
  # more had come when its snapshot was taken is looked up while it runs.
  position_before() { executed; }
  executed() { sql "SELECT REPLACE(@@global.gtid_executed, '\n', '')"; }
  watch_dump() { # beside the dump, whose end will be in $work/tail
    local begun="SELECT COUNT(*) FROM information_schema.innodb_trx JOIN performance_schema.session_connect_attrs
      ON processlist_id = trx_mysql_thread_id WHERE attr_name = 'program_name' AND attr_value = 'mysqldump'"
    for _ in $(seq 200); do
      [ "$(sql "$begun")" = 0 ] || break
      [ ! -s "$work/tail" ] || break # it is over already
      sleep 0.05
    done
    executed >"$work/until"
  }
  position_of_dump() {
    local until
    until=$(cat "$work/until")
    [ "$until" = "$1" ] || echo "The server was not still when this began: its moment is between $1 and $until." >&2
    echo "$1"
  }
fi
sql() { "$client" -N -B -e "$1"; }
