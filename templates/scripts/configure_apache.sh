#!/bin/bash
# ---
# RightScript Name: Configure Apache
# Description: |-
#   One virtual host per site: HTTP goes to HTTPS, every alias to the canonical host, static files come from disk,
#   the rest goes to HAProxy. A request by address or by an unknown host name gets the first site, as it is.
# Inputs: {}
# ...
set -euo pipefail

server=$(relaunch-local get server)
name=$(jq -r .name <<<"$server")
header="# Written by relaunch: template $(jq -r .template <<<"$server"), script configure_apache.sh, $name. Change the script, not this file."
maintenance=/var/lib/relaunch/maintenance
config=/etc/apache2/sites-available/relaunch.conf

if ! sites=$(relaunch-local get sites); then
  echo "The deployment has no site yet: nothing for Apache to serve." >&2
  exit 1
fi

# What all sites share.
cat >/etc/apache2/conf-available/relaunch.conf.new <<FILE
$header
ServerName $name
ServerTokens Prod
ServerSignature Off
Protocols h2 http/1.1
SSLProtocol -all +TLSv1.2 +TLSv1.3
SSLSessionTickets off
Timeout 65
KeepAliveTimeout 30
ErrorLog syslog:local1
LogFormat "%v %h %m %U %>s %B %D us" relaunch
CustomLog /var/log/apache2/access.log relaunch

# Connections to HAProxy are kept open and used again.
<Proxy "http://127.0.0.1:8080/">
  ProxySet keepalive=on timeout=60 connectiontimeout=3
</Proxy>
<Directory /usr/share/relaunch/pages>
  Require all granted
</Directory>
<Directory /srv/static/>
  Options FollowSymLinks
  AllowOverride None
  Require all granted
</Directory>
FILE
mv -f /etc/apache2/conf-available/relaunch.conf.new /etc/apache2/conf-available/relaunch.conf

site_block() {  # SITE CANONICAL: what the HTTPS host of one site does
  cat <<FILE
  SSLEngine on
  SSLCertificateFile /etc/relaunch/tls/server.crt
  SSLCertificateKeyFile /etc/relaunch/tls/server.key
  DocumentRoot /srv/static
  DirectoryIndex disabled
  RewriteEngine on

  # \`relaunch site maintenance $1 on\`: the agent makes this folder, at once and without a reload of Apache; addresses
  # that have a file in it still get through.
  RewriteCond "$maintenance/$1" -d
  RewriteCond "$maintenance/$1/%{REMOTE_ADDR}" !-f
  RewriteCond "%{REQUEST_URI}" "!^/relaunch-pages/"
  RewriteRule ^ - [R=503,L]

  # A file that the app ships is served from here; the rest is the app's.
  RewriteCond "%{DOCUMENT_ROOT}%{REQUEST_URI}" -f
  RewriteRule ^ - [E=no-proxy:1]
  <LocationMatch "^/assets/.*-[0-9a-f]{8,}\.">
    Header set Cache-Control "public, max-age=31536000, immutable" env=no-proxy
  </LocationMatch>
  Header setifempty Cache-Control "public, max-age=3600" env=no-proxy

  Alias /relaunch-pages/ /usr/share/relaunch/pages/
  ErrorDocument 502 /relaunch-pages/maintenance.html
  ErrorDocument 503 /relaunch-pages/maintenance.html
  ErrorDocument 504 /relaunch-pages/maintenance.html
  Header always set Retry-After 60 "expr=%{REQUEST_STATUS} == 503"
  ProxyErrorOverride On 502 503 504

  ProxyPreserveHost On
  RequestHeader unset X-Forwarded-For early
  RequestHeader set X-Forwarded-Proto https
  ProxyPass /relaunch-pages/ !
  ProxyPass / http://127.0.0.1:8080/ nocanon
FILE
}

{
  echo "$header"
  # The first virtual host of a port answers for every name that no other one claims.
  cat <<FILE

<VirtualHost *:80>
  RewriteEngine on
  RewriteRule ^ https://%{HTTP_HOST}%{REQUEST_URI} [R=301,NE,L]
</VirtualHost>
FILE
  while IFS=$'\t' read -r site canonical aliases; do
    printf '\n<VirtualHost *:443>\n  ServerName %s\n' "$canonical"
    site_block "$site"
    printf '</VirtualHost>\n'
    if [ -n "$aliases" ]; then
      cat <<FILE

<VirtualHost *:80 *:443>
  ServerName ${aliases%% *}
  ServerAlias $aliases
  RewriteEngine on
  RewriteRule ^ https://$canonical%{REQUEST_URI} [R=301,NE,L]
</VirtualHost>
FILE
    fi
  done < <(jq -r '.[] | . as $s | [.name, .canonical, (([.name] + .aliases) | unique - [$s.canonical] | join(" "))] | @tsv' <<<"$sites")
} >"$config.new"
mv -f "$config.new" "$config"

ln -sfn ../conf-available/relaunch.conf /etc/apache2/conf-enabled/relaunch.conf
ln -sfn ../sites-available/relaunch.conf /etc/apache2/sites-enabled/relaunch.conf

if systemctl is-active --quiet apache2; then
  systemctl reload apache2
  echo "Apache reloaded."
else
  systemctl start apache2
  echo "Apache started."
fi
echo "Serving $(jq -r '[.[].canonical] | map("https://" + . + "/") | join(", ")' <<<"$sites")"
