"""Losses take tensors and return per-sample values."""
