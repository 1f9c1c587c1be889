"""Versions of what a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("egup-trainer", "torch", "transformers", "accelerate", "peft", "trl", "datasets", "bitsandbytes")


def package_versions() -> dict[str, str]:
    """Versions by name: Python's, and those of the packages that decide what a run does, where they are installed.

    Example:
        >>> sorted(package_versions())[0]
        'accelerate'
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
