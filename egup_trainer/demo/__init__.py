"""The demo: invented people, a small model and its retrained twin."""
