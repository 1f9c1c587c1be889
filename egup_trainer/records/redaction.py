"""Hides access tokens and passwords among options: files contain none of them."""

from typing import Any

_ENDINGS = ("token", "_key", "password", "secret")
HIDDEN = "***"


def is_credential(name: Any) -> bool:
    """Whether the value of an option with that name must not be written.

    Example:
        >>> is_credential("hub_token"), is_credential("WANDB_API_KEY"), is_credential("max_new_tokens")
        (True, True, False)
    """
    return str(name).lower().endswith(_ENDINGS)


def without_credentials(value: Any, hidden: str | None = HIDDEN) -> Any:
    """A copy of options, at any depth, in which `hidden` replaces each credential.

    Example:
        >>> without_credentials({"seed": 1, "hub_token": "x", "model_init_kwargs": {"token": "y"}, "token": None})
        {'seed': 1, 'hub_token': '***', 'model_init_kwargs': {'token': '***'}, 'token': None}
    """
    if isinstance(value, dict):
        return {
            name: hidden if is_credential(name) and item else without_credentials(item, hidden)
            for name, item in value.items()
        }
    return [without_credentials(item, hidden) for item in value] if isinstance(value, list) else value


def credentials_in(value: Any) -> list[str]:
    """The credentials among options, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in credentials_in(item)]
    if not isinstance(value, dict):
        return []
    own = [item for name, item in value.items() if is_credential(name) and isinstance(item, str) and item]
    return own + [found for item in value.values() for found in credentials_in(item)]


def words_without(secrets: list[str], words: list[str]) -> list[str]:
    """The words of a command with *** in the place of secrets.

    Example:
        >>> words_without(["hf_x"], ["--hub_token", "hf_x", "--hub_token=hf_x", "--seed", "1"])
        ['--hub_token', '***', '--hub_token=***', '--seed', '1']
    """
    for secret in secrets:
        words = [word.replace(secret, HIDDEN) for word in words]
    return words
