"""Registered models: versions, aliases and predictions."""
