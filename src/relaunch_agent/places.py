"""Where everything of the agent is on a server; a test gives another root."""

from __future__ import annotations

from pathlib import Path


class Places:
    """Absolute paths below `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.config = root / "etc/relaunch/agent.json"
        self.tls = root / "etc/relaunch/tls"
        self.authorized_keys = root / "root/.ssh/authorized_keys"
        self.state = root / "var/lib/relaunch/agent"
        self.credential = self.state / "credential.json"
        self.nonce = self.state / "nonce"
        self.unpublished = self.state / "unpublished.json"
        self.upgrade = self.state / "upgrade-pending"
        self.upgrade_starts = self.state / "upgrade-pending.starts"  # counted by before-agent.sh of the bootstrap
        self.upgrade_failed = self.state / "upgrade-failed"
        self.reload_pending = self.state / "haproxy-reload-pending"
        self.view = root / "var/lib/relaunch/view.json"
        self.maintenance = root / "var/lib/relaunch/maintenance"
        self.blobs = root / "var/lib/relaunch/blobs"
        self.runs = root / "var/lib/relaunch/runs"
        self.logs = root / "var/log/relaunch/runs"
        self.hosts = root / "etc/hosts"
        self.database_role = self.state / "database-role.json"
        self.database_login = root / "etc/relaunch/replication.json"
        self.database_joined = root / "var/lib/mysql/relaunch-group"
        self.database_socket = root / "run/mysqld/mysqld.sock"
        self.haproxy_file = root / "etc/haproxy/relaunch.cfg"
        self.haproxy_main_file = root / "etc/haproxy/haproxy.cfg"
        self.haproxy_socket = root / "run/haproxy/admin.sock"
        self.haproxy_master_socket = root / "run/haproxy-master.sock"
        self.socket = root / "run/relaunch/agent.sock"
        self.launcher = root / "usr/local/bin/relaunch-local"
        self.program = root / "opt/relaunch/relaunch-agent.pyz"
        self.previous_program = root / "opt/relaunch/relaunch-agent.previous.pyz"
        self.libraries = root / "opt/relaunch/lib"
