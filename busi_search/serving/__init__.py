"""A page for one image."""
