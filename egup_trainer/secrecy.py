"""Access tokens and passwords among options: what is written to files holds none of them."""

from typing import Any

_ENDINGS = ("token", "_key", "password", "secret")
HIDDEN = "***"


def is_secret(name: Any) -> bool:
    """Whether a value of that name must not be written.

    Example:
        >>> is_secret("hub_token"), is_secret("WANDB_API_KEY"), is_secret("max_new_tokens")
        (True, True, False)
    """
    return str(name).lower().endswith(_ENDINGS)


def without_secrets(value: Any, hidden: str | None = HIDDEN) -> Any:
    """A copy of options, at any depth, in which `hidden` stands for each secret.

    Example:
        >>> without_secrets({"seed": 1, "hub_token": "x", "model_init_kwargs": {"token": "y"}, "token": None})
        {'seed': 1, 'hub_token': '***', 'model_init_kwargs': {'token': '***'}, 'token': None}
    """
    if isinstance(value, dict):
        return {
            name: hidden if is_secret(name) and item else without_secrets(item, hidden) for name, item in value.items()
        }
    return [without_secrets(item, hidden) for item in value] if isinstance(value, list) else value


def secrets_in(value: Any) -> list[str]:
    """The secrets among options, at any depth."""
    if isinstance(value, list):
        return [secret for item in value for secret in secrets_in(item)]
    if not isinstance(value, dict):
        return []
    own = [item for name, item in value.items() if is_secret(name) and isinstance(item, str) and item]
    return own + [secret for item in value.values() for secret in secrets_in(item)]
