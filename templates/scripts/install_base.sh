#!/bin/bash
# ---
# RightScript Name: Install base tools
# Description: The small tools that the other scripts and a person at a shell expect, and the clock in UTC.
# Packages: ca-certificates curl jq less rsync vim-tiny
# Inputs: {}
# ...
set -euo pipefail

ln -sfn ../usr/share/zoneinfo/Etc/UTC /etc/localtime
echo "Etc/UTC" >/etc/timezone
echo "Time zone is UTC; tools are installed."
