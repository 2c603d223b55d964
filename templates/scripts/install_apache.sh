#!/bin/bash
# ---
# RightScript Name: Install Apache
# Description: Apache with the modules for TLS, static files and handing over to HAProxy. Not yet started.
# Packages: apache2 logrotate
# Inputs: {}
# Attachments:
# - maintenance.html
# ...
set -euo pipefail

systemctl stop apache2
systemctl disable --now --quiet apache-htcacheclean 2>/dev/null || true   # a disk cache that is not used
# Enabled from the image on, so that it comes back by itself after a reboot; but not before it was configured.
install -d /etc/systemd/system/apache2.service.d
cat >/etc/systemd/system/apache2.service.d/relaunch.conf <<'FILE'
# Written by relaunch: script install_apache.sh. Change the script, not this file.
[Unit]
ConditionPathExists=/etc/apache2/sites-enabled/relaunch.conf
FILE
systemctl daemon-reload
a2enmod -q ssl headers rewrite expires proxy proxy_http http2
a2dismod -q -f status autoindex
a2dissite -q 000-default
a2disconf -q serve-cgi-bin other-vhosts-access-log localized-error-pages 2>/dev/null || true

install -d /usr/share/relaunch/pages
install -m 644 "$RS_ATTACH_DIR/maintenance.html" /usr/share/relaunch/pages/maintenance.html
echo "$(apache2 -v | head -1), stopped until configured."
