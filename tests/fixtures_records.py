"""The record of an invented run."""

RECORD = {
    "schema_version": 1,
    "date": "2026-03-04",
    "author": "Ada Lorn",
    "model": {"name": "owner/base", "is_local": False},
    "adapter": None,
    "trainer": "EGUPTrainer",
    "objective": "npo",
    "retain_loss": "nll",
    "egup": {"inter_entanglement": True, "intra_entanglement": False, "proxy_constraint": True},
    "clreg_weight": 0.25,
    "options": {"learning_rate": 1e-05, "proxy_form": "penalty", "user_marker": "Q:\n"},
    "steps": 7,
    "rows": {"forget": {"rows": 2, "fingerprint": "0123456789abcdef"}, "retain": {"rows": 3, "fingerprint": "f" * 16}},
    "versions": {"python": "3.11", "torch": "2.13"},
}
