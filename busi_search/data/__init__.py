"""Images in, folds out."""
