"""The agent of a database group's server, or of one that watches such servers: needs PyMySQL, imported only then."""
