#!/bin/bash
# ---
# RightScript Name: Configure app
# Description: |-
#   Writes the app's settings, waits for the database, migrates it (one server at a time), starts the app
#   and says that it is there once it answers. One that has come back with its server, has these settings
#   already and answers is left as it is; when this script is run once more it is started again.
# Inputs:
#   DB_USER:
#     Category: Database
#     Description: The app's login at the database.
#     Input Type: single
#     Required: true
#     Default: text:app
#   DB_PASSWORD:
#     Category: Database
#     Description: Its password.
#     Input Type: single
#     Required: true
#   DB_NAME:
#     Category: Database
#     Description: The app's database; what the first site says when it is not given.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: blank
#   SECRET_KEY_BASE:
#     Category: App
#     Description: Signs sessions. The same on all servers of a site, or users are logged out from click to click.
#     Input Type: single
#     Required: true
#   PUMA_THREADS:
#     Category: App
#     Description: Requests one app process works on at the same time.
#     Input Type: single
#     Required: false
#     Advanced: true
#     Default: text:4
# ...
set -euo pipefail

app=$(cat /etc/app/name)
server=$(relaunch-local get server)
name=$(jq -r .name <<<"$server")
header="# Written by relaunch: template $(jq -r .template <<<"$server"), script configure_app.sh, $name. Change the script, not this file."
if ! site=$(relaunch-local get sites.0); then
  echo "The deployment has no site: which names and which database would the app serve?" >&2
  exit 1
fi
site_name=$(jq -r .name <<<"$site")
DB_NAME=${DB_NAME:-$(jq -r .database <<<"$site")}
DB_HOST=db-primary.$site_name
DB_CA=/etc/relaunch/tls/ca.crt
export DB_USER DB_PASSWORD DB_NAME DB_HOST DB_CA

quoted() {  # for an environment file of systemd
  local value=${1//\\/\\\\}
  printf '"%s"' "${value//\"/\\\"}"
}

put() {  # FILE: standard input becomes it at once, as systemd may just be starting the app again
  install -m 640 -g www-data /dev/stdin "$1.new"
  mv -f "$1.new" "$1"
}

write_environment() {  # NAME=VALUE…: what every app gets, then what this app gets
  {
    echo "$header"
    for variable in DB_HOST DB_NAME DB_USER DB_PASSWORD DB_CA SECRET_KEY_BASE PUMA_THREADS; do
      echo "$variable=$(quoted "${!variable:-}")"
    done
    echo "SERVER_NAME=$(quoted "$name")"
    printf '%s\n' "LANG=C.UTF-8" "$@"
  } | put /etc/app/environment
}

configure_rack() {
  write_environment
}

migrate_rack() {
  echo 'CREATE TABLE IF NOT EXISTS counter (id INT PRIMARY KEY, clicks BIGINT NOT NULL)' >counter.sql
  /usr/local/lib/relaunch/database sql counter.sql
}

yaml() { jq -Rn --arg value "$1" '$value'; }  # a JSON string is a YAML string

configure_redmine() {
  put /etc/redmine/default/database.yml <<FILE
$header
production:
  adapter: mysql2
  encoding: utf8mb4
  host: $(yaml "$DB_HOST")
  database: $(yaml "$DB_NAME")
  username: $(yaml "$DB_USER")
  password: $(yaml "$DB_PASSWORD")
  sslca: $DB_CA
  ssl_mode: verify_identity
  connect_timeout: 3
  read_timeout: 60
  pool: $((PUMA_THREADS + 1))
  variables:
    tx_isolation: READ-COMMITTED
FILE
  put /etc/redmine/default/secret_key.txt <<<"$SECRET_KEY_BASE"
  write_environment REDMINE_INSTANCE=default RAILS_ENV=production RAILS_LOG_TO_STDOUT=1 RUBYOPT=-rbootsnap/setup \
    BOOTSNAP_CACHE_DIR=/var/cache/app BOOTSNAP_READONLY=1 BUNDLE_VERSION=system   # without it Bundler starts Ruby twice
}

migrate_redmine() {
  if /usr/local/lib/relaunch/database migrated /usr/share/redmine/db/migrate; then
    echo "Redmine's database is up to date."
    return
  fi
  cat >migrate <<'FILE'
#!/bin/bash
set -eu
database=/usr/local/lib/relaunch/database
up_to_date() { "$database" migrated /usr/share/redmine/db/migrate; }

up_to_date && exit 0   # the other server was faster
if "$database" new; then
  echo "Redmine: a new database; load its tables and default data"
  "$database" sql /usr/share/relaunch/redmine.sql
fi
up_to_date && exit 0
echo "Redmine: migrate"
cd /usr/share/redmine
exec runuser -u www-data -- env REDMINE_INSTANCE=default RAILS_ENV=production SCHEMA=/dev/null \
  RUBYOPT=-rbootsnap/setup BOOTSNAP_CACHE_DIR=/var/cache/app BOOTSNAP_READONLY=1 bundle exec rake db:migrate
FILE
  chmod 755 migrate
  /usr/local/lib/relaunch/database locked "migrate-$DB_NAME" ./migrate
  migrated=yes
}

settings() { { cat /etc/app/environment /etc/redmine/default/database.yml /etc/redmine/default/secret_key.txt 2>/dev/null || true; } | sha256sum; }

# What it has come back with, at the first run since this server's start.
came_back_with='' migrated=''
if [ ! -e /run/app-configured ] && [[ $(systemctl is-active app) = @(active|activating) ]]; then came_back_with=$(settings); fi
touch /run/app-configured  # now: should this run break off, the app may have other settings than the files
"configure_$app"
echo "Waiting for the database $DB_NAME on $DB_HOST"
relaunch-local primary --wait 120 >/dev/null
# Of servers that have lost their power at once the database may be back long after the others.
until /usr/local/lib/relaunch/database wait 120; do [ "${RS_REBOOT:-false}" = true ]; done
"migrate_$app"

check_path=$(relaunch-local get proxy | jq -r --arg name "site-$site_name" '[.backends[]? | select(.name == $name) | .check_path][0] // "/"')
answers() {  # SECONDS TIMES: within this long each time
  for _ in $(seq "$2"); do
    status=$(curl -s -o /dev/null -w '%{http_code}' --max-time "$1" "http://127.0.0.1:8000$check_path" || true)
    [ "$status" = 200 ] && return
    sleep 0.1
  done
  return 1
}
is_as_wanted() {
  [ "$(settings)" = "$came_back_with" ] && [ -z "$migrated" ] || return 1
  for _ in $(seq 600); do
    [ "$(systemctl is-active app)" = activating ] || break
    sleep 0.1
  done
  answers 10 3
}
if is_as_wanted; then
  echo "It has come back with this server, with these settings: not started again."
else
  systemctl restart app
fi
if ! answers 20 300; then
  echo "The app answers $status on $check_path, not 200. What it said:" >&2
  journalctl -u app -n 30 --no-pager >&2 || true
  exit 1
fi
relaunch-local tag app=8000
echo "$app answers on port 8000."
