"""The tables of the controller's database, in one place; migrations in `records/migrations` bring a database to this.

Times are UTC ISO-8601 text with microseconds (sorts as text on SQLite and PostgreSQL alike); JSON columns hold plain
data.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

about = Table(
    "about",
    metadata,
    Column("name", String, primary_key=True),  # program: the version that opened this database last
    Column("value", Text, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),  # who: shows up in the audit trail
    Column("sha256", String, nullable=False, unique=True),
    Column("created", String, nullable=False),
    Column("last_used", String),
    Column("revoked", String),
)

credentials = Table(
    "credentials",
    metadata,
    Column("name", String, primary_key=True),
    # encrypted with the master key; never leaves the process in clear but to an agent
    Column("sealed", Text, nullable=False),
    Column("created", String, nullable=False),
    Column("changed", String, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("source", Text, nullable=False),  # the file as it was applied
    Column("spec", JSON, nullable=False),  # DeploymentSpec, plain
    Column("created", String, nullable=False),
    Column("changed", String, nullable=False),
    Column("destroying", Boolean, nullable=False, server_default="0"),
)

servers = Table(
    "servers",
    metadata,
    Column("id", String, primary_key=True),
    Column("deployment_id", ForeignKey("deployments.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("template", String, nullable=False),
    Column("zone", String, nullable=False),
    Column("spec", JSON, nullable=False),  # ServerSpec, plain
    Column("locked", Boolean, nullable=False, server_default="0"),
    Column("instance_id", String),  # the present incarnation
    Column("created", String, nullable=False),
    UniqueConstraint("deployment_id", "name"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", String, primary_key=True),  # ours: client token, agent id and incarnation in one
    Column("server_id", ForeignKey("servers.id")),  # null: a bake or another helper instance
    Column("purpose", String, nullable=False),  # serve | bake
    Column("state", String, nullable=False),  # servers/lifecycle.py
    Column("cloud_id", String),
    Column("image_id", String),
    Column("private_address", String),
    Column("public_address", String),
    Column("zone", String, nullable=False),
    # frozen at launch: boot, operational, decommission scripts with inputs' sources
    Column("run_list", JSON, nullable=False),
    Column("sealed_inputs", Text, nullable=False, server_default=""),  # resolved values, encrypted
    Column("tags", JSON, nullable=False),
    Column("outputs", JSON, nullable=False),
    Column("boot_id", String),
    Column("view_version", Integer, nullable=False, server_default="0"),
    Column("agent_version", String),
    Column("agent_secret_sha256", String),
    Column("launched", String, nullable=False),
    Column("operational", String),
    Column("last_seen", String),
    Column("ended", String),
    Column("ended_why", String),  # asked | shrunk | replaced | cloud said so | vanished | never booted
    Column("stranded_why", Text),
    Column("aside_until", String),  # set aside for inspection: terminated then
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("token_sha256", String, primary_key=True),
    Column("instance_id", ForeignKey("instances.id"), nullable=False),
    Column("created", String, nullable=False),
    Column("expires", String, nullable=False),
    Column("used", String),
    Column("nonce", String),  # of the agent that used it: the same agent may ask again when the answer was lost
)

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("instance_id", ForeignKey("instances.id"), nullable=False),
    Column("task_id", String),
    Column("phase", String, nullable=False),
    Column("order", JSON, nullable=False),  # RunScripts without the inputs' values
    Column("state", String, nullable=False),
    Column("results", JSON, nullable=False),
    Column("sequence", Integer, nullable=False, server_default="-1"),
    Column("detail", Text, nullable=False, server_default=""),
    Column("created", String, nullable=False),
    Column("finished", String),
    Index("runs_of_task", "task_id"),
    Index("runs_of_instance", "instance_id"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String, primary_key=True),  # also the durable workflow's id
    Column("kind", String, nullable=False),
    Column("title", Text, nullable=False),
    Column("subject", String, nullable=False),  # deployment:shop, server:shop/front1, image:KEY
    Column("parent_id", String),
    Column("state", String, nullable=False),  # waiting | running | succeeded | failed | cancelled
    Column("who", String, nullable=False),
    Column("created", String, nullable=False),
    Column("finished", String),
    Column("error", Text, nullable=False, server_default=""),
    Column("result", JSON),
)

task_steps = Table(
    "task_steps",
    metadata,
    Column("task_id", ForeignKey("tasks.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("started", String, nullable=False),
    Column("seconds", Float),
    Column("detail", Text, nullable=False, server_default=""),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", String, nullable=False),
    Column("who", String, nullable=False),  # token's name, "agent:ID" or "relaunch"
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("result", String, nullable=False),  # done | refused | failed
    Column("detail", JSON, nullable=False),  # never a secret
)

images = Table(
    "images",
    metadata,
    Column("key", String, primary_key=True),  # hash of all that went in
    Column("cloud_image_id", String),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),  # baking | ready | failed
    Column("changelog", JSON, nullable=False),  # what went in: base image, packages, scripts with hashes
    Column("created", String, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
)

database_groups = Table(
    "database_groups",
    metadata,
    Column("deployment_id", ForeignKey("deployments.id"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("primary_server_id", String),  # stored, never inferred; null until the first primary is initialised
    # data exists: a primary may never again start empty
    Column("initialised", Boolean, nullable=False, server_default="0"),
    # the primary's incarnation and all else that failover must remember: databases/store.py
    Column("primary_instance_id", String),
    Column("state", JSON, nullable=False, server_default="{}"),
    Column("version", Integer, nullable=False, server_default="0"),  # counts changes: compare-and-set
)

backups = Table(
    "backups",
    metadata,
    Column("deployment", String, primary_key=True),  # its name: backups outlive it
    Column("id", String, primary_key=True),
    Column("manifest", JSON, nullable=False),  # as it is in the object store, without its tables' sums
    Column("fault", Text, nullable=False, server_default=""),  # what its objects in the store lack
)

backup_proofs = Table(
    "backup_proofs",
    metadata,
    Column("id", String, primary_key=True),  # the task that proved it, or failed to
    Column("deployment", String, nullable=False),
    Column("backup", String, nullable=False),
    Column("at", String, nullable=False),
    Column("proven", Boolean, nullable=False),
    Column("why", Text, nullable=False, server_default=""),
    Column("detail", JSON, nullable=False),  # position reached, seconds, tables compared
)

site_maintenance = Table(
    "site_maintenance",
    metadata,
    Column("deployment_id", ForeignKey("deployments.id"), primary_key=True),
    Column("site", String, primary_key=True),  # a row: visitors get the maintenance page
    Column("allow", JSON, nullable=False),  # addresses that reach the site all the same
    Column("since", String, nullable=False),
    Column("who", String, nullable=False),
)

dns_records = Table(
    "dns_records",
    metadata,
    Column("name", String, primary_key=True),
    Column("type", String, primary_key=True),
    Column("deployment", String, nullable=False),  # the name of whose it is
    Column("values", JSON, nullable=False),
    Column("ttl_seconds", Integer, nullable=False),
)
