#!/bin/bash
# Written by relaunch: attachment schema_dump.sh of the scripts that back up and restore one schema. Change it there.
#
# One schema as statements, of one moment, from MariaDB or MySQL, whichever is here. Meant to be sourced; whoever does
# has: work    a folder in memory
#      table_checks.sh sourced, and for dump_schema table_history.sh
# shellcheck disable=SC2154,SC2034
set -euo pipefail

common=(--single-transaction --routines --events --triggers --hex-blob --skip-add-locks --max-allowed-packet=1G)
if command -v mariadb >/dev/null; then
  client=mariadb dialect=mariadb
  writable="SELECT @@read_only = 0"
  # The position stands in the dump as a comment: it is told, not obeyed.
  dump_schema() {
    local found history
    may_be_dumped "$1" || return 1
    history=$(history_words "table_schema = $found" "" sql)
    # shellcheck disable=SC2086  # options, as separate words
    ionice -c 3 nice -n 19 mariadb-dump "${common[@]}" $history --master-data=2 --gtid "$1"
  }
  # A server that has written no event of its own yet has the position it was seeded with.
  position_before() { sql "SELECT @@gtid_slave_pos"; }
  watch_dump() { :; }
  make_scratch() { mariadb-install-db --no-defaults --user=mysql --datadir="$1" --auth-root-authentication-method=socket --skip-test-db --force --skip-name-resolve >"$1.log" 2>&1; }
  server=(mariadbd --no-defaults --skip-log-bin --loose-plugin-load-add=)
  # It stands at the dump's beginning, and since MariaDB 11 at its end.
  position_of_dump() { # position_of_dump BEFORE: the dump's first bytes are in $work/head, its last in $work/tail
    local said
    said=$(sed -n "s/.*gtid_slave_pos='\([^']*\)'.*/\1/p" "$work/head" "$work/tail" | head -n 1)
    echo "${said:-$1}"
  }
else
  client=mysql dialect=mysql
  writable="SELECT @@super_read_only = 0 AND @@offline_mode = 0"
  dump_schema() {
    local found
    may_be_dumped "$1" || return 1
    ionice -c 3 nice -n 19 mysqldump "${common[@]}" --set-gtid-purged=OFF "$1"
  }
  # Its own way to tell the position takes a global read lock. So it is what is there before the dump begins, and whether
  # more had come when its snapshot was taken is looked up while it runs.
  position_before() { executed; }
  executed() { sql "SELECT REPLACE(@@global.gtid_executed, '\n', '')"; }
  make_scratch() { mysqld --no-defaults --user=mysql --datadir="$1" --initialize-insecure --secure-file-priv=NULL --log-error="$1.log"; }
  server=(mysqld --no-defaults --disable-log-bin --mysqlx=OFF --secure-file-priv=NULL)
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
here=("$client") # how the server is reached that is meant
sql() { "${here[@]}" -N -B -e "$1"; }
may_be_dumped() { # may_be_dumped SCHEMA; sets found: its name in SQL
  literal "$1"
  refuse_endless "event_schema = $found" sql || return 1
  warn_of_floats "table_schema = $found" sql
}

# For text that routines take, and for tables to come.
default_of() { # default_of SCHEMA: as JSON
  sql "SELECT JSON_OBJECT('character_set', default_character_set_name, 'collation', default_collation_name)
    FROM information_schema.schemata WHERE schema_name = '$1'"
}

# What its tables hold, all of one moment; {} when nothing was summed.
sums_of() ( # sums_of SCHEMA SECONDS: prints {tables, unchecked}
  open_session "${here[@]}" -N -B --unbuffered --force
  ask "SET SESSION group_concat_max_len = 1000000; SET SESSION time_zone = '+00:00';
    SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT" >/dev/null
  sum_tables "$2" "$1"
  exec {to_db}>&- {from_db}<&-
  jq -nc --slurpfile tables "$work/checks" --slurpfile unchecked "$work/unchecked" --arg schema "$1." \
    '{tables: ($tables | map(del(.schema))), unchecked: ($unchecked | map(ltrimstr($schema)))}'
)

# The sums of before the dump that are those of after it as well: they are of its moment, too.
sums_of_both() { # sums_of_both BEFORE AFTER: files
  jq -c --slurpfile after "$2" '. as $before | INDEX($after[0].tables[]; .table) as $later | [.tables[] | select($later[.table] == .)] as $same
    | INDEX($same[]; .table) as $sure
    | {tables: $same, unchecked: ([$before, $after[0] | .tables[].table, .unchecked[]] | unique | map(select($sure[.] | not)))}' "$1"
}

# A server of its own with nothing in it, unreachable from outside.
start_scratch() { # start_scratch FOLDER; sets here, server_pid
  local sockets=$1/sockets
  install -d -o mysql -g mysql "$1" "$1/data" "$sockets"
  make_scratch "$1/data" || { tail -n 15 "$1/data.log" >&2; return 1; }
  "${server[@]}" --user=mysql --datadir="$1/data" --socket="$sockets/s" --pid-file="$sockets/pid" --skip-networking \
    --innodb-flush-log-at-trx-commit=0 --max-allowed-packet=1G --event-scheduler=OFF --log-error="$sockets/log.err" &
  server_pid=$!
  here=("$client" --no-defaults --user=root --socket="$sockets/s")
  for _ in $(seq 600); do
    if sql "SELECT 1" >/dev/null 2>&1; then return 0; fi
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "The database does not start in $1:" >&2
  tail -n 15 "$sockets/log.err" >&2
  return 1
}
