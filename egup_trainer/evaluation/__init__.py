"""Numbers about a model on rows."""
