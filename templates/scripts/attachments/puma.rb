# Written by relaunch: script install_app.sh. Change the script, not this file.
# One process with a few threads: the second front end is the other process.
bind "tcp://0.0.0.0:8000"
environment "production"
workers 0
threads 2, Integer(ENV.fetch("PUMA_THREADS", "4"))
first_data_timeout 10
force_shutdown_after 20
log_requests false
