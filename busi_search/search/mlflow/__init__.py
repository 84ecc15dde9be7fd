"""The copy of a search in MLflow, for browsing."""
