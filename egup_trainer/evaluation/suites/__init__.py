"""Which rows, and which metrics on them."""
