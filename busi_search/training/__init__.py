"""One model, one fold."""
