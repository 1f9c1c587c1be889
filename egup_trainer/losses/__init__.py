"""Losses: tensors in, per-sample values out."""
