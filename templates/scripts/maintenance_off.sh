#!/bin/bash
# ---
# RightScript Name: Maintenance off
# Description: The site answers again.
# Inputs:
#   SITE:
#     Category: Maintenance
#     Description: The site's name; all sites of this server when it is not given.
#     Input Type: single
#     Required: false
#     Default: blank
# ...
set -euo pipefail

cd /var/lib/relaunch/maintenance
for site in ${SITE:-$(relaunch-local site)}; do
  rm -f "$site"
  echo "$site: open"
done
