#!/bin/bash
# ---
# RightScript Name: Install app
# Description: |-
#   Installs the application and all that it can prepare before it knows its database: libraries, assets, caches.
#   /srv/app is the app, /srv/static the files the web server may serve by itself.
# Packages: ruby puma ruby-mysql2
# Inputs:
#   APP:
#     Category: App
#     Description: Which application. redmine is a project manager in Rails, rack is one page that says who answered.
#     Input Type: single
#     Required: true
#     Default: text:redmine
#     Possible Values:
#     - text:redmine
#     - text:rack
# Attachments:
# - app.service
# - database.rb
# - puma.rb
# - rack_app.ru
# ...
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

install_rack() {
  install -d /usr/share/relaunch/rack-app/public
  install -m 644 "$RS_ATTACH_DIR/rack_app.ru" /usr/share/relaunch/rack-app/config.ru
  ln -sfn /usr/share/relaunch/rack-app /srv/app
  ln -sfn /usr/share/relaunch/rack-app/public /srv/static
}

# Rails wants a database even to compile assets, and migrating a new one takes half a minute: both are done here, once.
# Launched servers load the result, which takes a second.
prepare_redmine() {  # SOCKET of a database server
  printf '%s\n' "production:" "  adapter: mysql2" "  database: redmine" "  username: root" "  socket: $1" \
    >/etc/redmine/default/database.yml
  bundle install --local --quiet
  chown www-data:www-data /var/lib/redmine/Gemfile.lock
  install -d -o www-data -g www-data /var/cache/app

  echo "Redmine: migrate, load default data, compile assets, fill the bootsnap cache"
  runuser -u www-data -- env REDMINE_INSTANCE=default RAILS_ENV=production REDMINE_LANG=en SCHEMA=/dev/null \
    BOOTSNAP_CACHE_DIR=/var/cache/app RUBYOPT=-rbootsnap/setup \
    bundle exec rake db:migrate redmine:load_default_data assets:precompile >/var/log/prepare-redmine.log 2>&1 ||
    { tail -30 /var/log/prepare-redmine.log; exit 1; }

  # schema_migrations comes last: a load that breaks off is then begun anew.
  {
    mariadb-dump --socket "$1" --skip-comments --skip-add-locks --ignore-table=redmine.schema_migrations redmine
    mariadb-dump --socket "$1" --skip-comments --skip-add-locks redmine schema_migrations
  } | grep -v '^/\*M!999999' >/usr/share/relaunch/redmine.sql
}

with_scratch_database() {  # COMMAND: runs it with the socket of a database server that is gone afterwards
  local folder server_was_there=yes
  command -v mariadbd >/dev/null || server_was_there=no
  [ "$server_was_there" = yes ] ||
    apt-get install -y -q --no-install-recommends mariadb-server-core mariadb-client-core >>/var/log/install-redmine.log 2>&1
  folder=$(mktemp -d)
  chmod 755 "$folder"
  mariadb-install-db --no-defaults --datadir="$folder/data" --force --skip-test-db >/dev/null
  mariadbd --no-defaults --user=root --datadir="$folder/data" --socket="$folder/socket" --skip-networking \
    --skip-grant-tables --character-set-server=utf8mb4 --innodb-flush-log-at-trx-commit=0 >"$folder/log" 2>&1 &
  for _ in $(seq 100); do
    mariadb --socket "$folder/socket" -e "CREATE DATABASE IF NOT EXISTS redmine" 2>/dev/null && break
    sleep 0.1
  done
  "$1" "$folder/socket"
  kill %1
  wait %1 || true
  rm -rf "$folder"
  [ "$server_was_there" = yes ] || apt-get purge -y -q --autoremove mariadb-server-core >>/var/log/install-redmine.log 2>&1
}

install_redmine() {
  # dbconfig-no-thanks: the database is another server's, and made by configure_app.sh.
  apt-get install -y -q --no-install-recommends dbconfig-no-thanks redmine redmine-mysql ruby-bootsnap >/var/log/install-redmine.log 2>&1 ||
    { tail -30 /var/log/install-redmine.log; exit 1; }

  cd /usr/share/redmine
  echo "gem 'bootsnap', require: false" >Gemfile.local   # keeps parsed Ruby files
  with_scratch_database prepare_redmine
  rm -f /etc/redmine/default/database.yml /etc/redmine/default/secret_key.txt

  ln -sfn /usr/share/redmine /srv/app
  ln -sfn /var/lib/redmine/default/public /srv/static
}

install -d /etc/app /usr/local/lib/relaunch /usr/share/relaunch
install -m 755 "$RS_ATTACH_DIR/database.rb" /usr/local/lib/relaunch/database
install -m 644 "$RS_ATTACH_DIR/puma.rb" /etc/app/puma.rb
install -m 644 "$RS_ATTACH_DIR/app.service" /etc/systemd/system/app.service
systemctl enable app 2>&1

case $APP in
  redmine | rack) "install_$APP" ;;
  *) echo "APP is '$APP': this script knows redmine and rack." >&2; exit 1 ;;
esac
echo "$APP" >/etc/app/name
echo "$APP is installed."
