#!/bin/bash
# ---
# RightScript Name: Maintenance on
# Description: Every request of a site gets the maintenance page with status 503, at once, until maintenance is off.
# Inputs:
#   SITE:
#     Category: Maintenance
#     Description: The site's name; all sites of this server when it is not given.
#     Input Type: single
#     Required: false
#     Default: blank
#   ALLOW_FROM:
#     Category: Maintenance
#     Description: Addresses that still reach the site, to look at it before everybody does.
#     Input Type: array
#     Required: false
#     Default: blank
# ...
set -euo pipefail

cd /var/lib/relaunch/maintenance
for site in ${SITE:-$(relaunch-local site)}; do
  if [ ! -e "$site.allowed" ]; then
    echo "No site $site here. Sites: $(relaunch-local site | xargs)" >&2
    exit 1
  fi
  # By rename: Apache never reads half a list.
  { echo "# ADDRESS pass"; for address in ${ALLOW_FROM//,/ }; do echo "$address pass"; done; } >"$site.allowed.new"
  mv "$site.allowed.new" "$site.allowed"
  touch "$site"
  echo "$site: maintenance page${ALLOW_FROM:+, except for $ALLOW_FROM}"
done
