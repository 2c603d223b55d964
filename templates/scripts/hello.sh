#!/bin/bash
# ---
# RightScript Name: Hello
# Description: Prints a greeting and where it ran; the shortest script there is, to try things with.
# Inputs:
#   GREETING:
#     Category: Hello
#     Description: What to say.
#     Input Type: single
#     Required: false
#     Default: text:Hello
# ...
set -euo pipefail

echo "${GREETING:-Hello} from $(hostname), up since $(uptime -s 2>/dev/null || cut -d. -f1 /proc/uptime)"
