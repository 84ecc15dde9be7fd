"""What is registered: versions and aliases, and how a model is asked."""
