"""Database groups: who is the primary, failover, backups.

`dialect`, `mariadb` and `mysql` run in the agent too: standard library only, Python 3.9.
"""
