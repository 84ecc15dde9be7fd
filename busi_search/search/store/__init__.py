"""Optuna's storage: the one place where workers meet and results are kept."""
