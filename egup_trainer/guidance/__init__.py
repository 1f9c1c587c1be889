"""EGUP's guidance: entanglement, the per-sample cache, the proxy constraint."""
