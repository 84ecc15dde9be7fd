"""Pages that people read about a study, a model or a dataset."""
