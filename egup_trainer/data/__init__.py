"""Rows: where they come from, how they become tokens, pairs and batches."""
