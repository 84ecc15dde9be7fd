"""Keeping a home in order; looks at everything, and nothing looks at it."""
