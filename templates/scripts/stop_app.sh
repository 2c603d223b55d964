#!/bin/bash
# ---
# RightScript Name: Stop app
# Description: The app is no longer offered to the front ends, finishes the requests it has, and stops.
# Inputs: {}
# ...
set -euo pipefail

# Without a controller nobody hears the tag; the app stops all the same.
relaunch-local tag -d app || echo "The tag could not be taken back."
systemctl stop app
echo "The app has stopped."
