"""Fully redundant web sites from plain scripts."""

__version__ = "0.1.0"  # as in pyproject.toml, where a test looks
