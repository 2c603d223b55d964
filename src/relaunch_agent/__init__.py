"""The agent: runs on each server, obeys its controller, keeps doing its local duty when cut off."""

__version__ = "0.1.0"
