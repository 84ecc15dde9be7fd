"""The hyperparameters of a configuration, a file for each subject."""
