"""When a trial is given up."""
