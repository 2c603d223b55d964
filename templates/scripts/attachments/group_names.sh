#!/bin/bash
# Written by relaunch: attachment group_names.sh of the scripts that join a database group. Change it there.
#
# Which names an account or a schema of a site may not have. Meant to be sourced.
set -euo pipefail

refuse_names() {  # what is the server's own or ours is not to be given away
  local schema own
  case $DB_USER in
    '' | replication | seed | relaunch_probe | relaunch_import | relaunch_import_dump | mysql | mysql.* | mariadb.*)
      echo "DB_USER must not be '$DB_USER', which is an account of the server's own or ours. Choose another name." >&2
      exit 1
      ;;
  esac
  for schema in ${DB_NAME:-}; do
    for own in mysql sys information_schema performance_schema relaunch relaunch_trial; do
      # In a grant _ stands for any sign: the account of a site called my_ql could do everything in mysql.
      # shellcheck disable=SC2053  # a pattern
      if [[ $own == ${schema//_/?} || $schema == *\`* ]]; then
        echo "DB_NAME must not be '$schema', which is, or in a grant means, a schema of the server's own or ours, or no name. Choose another." >&2
        exit 1
      fi
    done
  done
}
