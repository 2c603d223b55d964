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

install_redmine() {
  # dbconfig-no-thanks: the database is another server's, and made by configure_app.sh.
  apt-get install -y -q --no-install-recommends dbconfig-no-thanks redmine redmine-mysql ruby-bootsnap >/var/log/install-redmine.log 2>&1 ||
    { tail -30 /var/log/install-redmine.log; exit 1; }

  # Only the adapter matters here: the Gemfile reads it to choose the database library.
  echo 'production: {adapter: mysql2, host: none}' >/etc/redmine/default/database.yml
  cd /usr/share/redmine
  bundle install --local --quiet
  chown www-data:www-data /var/lib/redmine/Gemfile.lock

  echo "Redmine: compile assets and fill the bootsnap cache"
  install -d -o www-data -g www-data /var/cache/app
  runuser -u www-data -- env REDMINE_INSTANCE=default RAILS_ENV=production SECRET_KEY_BASE_DUMMY=1 \
    BOOTSNAP_CACHE_DIR=/var/cache/app RUBYOPT=-rbootsnap/setup bundle exec rake assets:precompile
  rm -f /etc/redmine/default/database.yml /etc/redmine/default/secret_key.txt

  ln -sfn /usr/share/redmine /srv/app
  ln -sfn /var/lib/redmine/default/public /srv/static
}

install -d /etc/app /usr/local/lib/relaunch
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
