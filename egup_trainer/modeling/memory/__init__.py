"""Kernel work that saves memory: read this only after forward.py, which calls it."""
