"""Measurements: each prints its table, and LOG.md keeps what came out."""
