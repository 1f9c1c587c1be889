"""What a chat template is given besides the turns of a row: a date, a system prompt, and keyword arguments.

A command takes them as flags. Without a flag, they are those of earlier results or of the run that made the model, so
that a model is measured on prompts that are written like those that it was trained on.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from egup_trainer.data.rendering import Template, check_template_kwargs, choose_date
from egup_trainer.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class TemplateInputs:
    """Options by the names that they have as flags, in results and in the record of a run.

    Args:
        template_date: the date, as YYYY-MM-DD, that the template writes as today's; None if it is not known.
        system_prompt: text of the system turn; "" for none, None if it is not known.
        template_kwargs: variables of the template by name; empty for none, None if they are not known.
    """

    template_date: str | None = None
    system_prompt: str | None = None
    template_kwargs: dict[str, Any] | None = None

    @classmethod
    def of(cls, options: Any) -> "TemplateInputs":
        """Those among the options of a configuration, of flags, of results (attributes) or of a record (keys)."""
        found = options if isinstance(options, Mapping) else vars(options)
        return cls(found.get("template_date"), found.get("system_prompt"), found.get("template_kwargs"))

    def apply(self, template: Template) -> Template:
        """The template with these inputs; it keeps its own date if there is none here."""
        template = template if self.template_date is None else replace(template, date=self.template_date)
        return replace(template, system_prompt=self.system_prompt or None, kwargs=self.template_kwargs or {})


def choose_inputs(tokenizer: Any, given: TemplateInputs, recorded: Iterable[TemplateInputs] = ()) -> TemplateInputs:
    """The inputs of a tokenizer's chat template.

    Args:
        recorded: of earlier results and runs; each input is taken from the first that knows it, unless it was given.

    Raises:
        ConfigError: a date or a keyword argument was given that the chat template does not read.
    """
    earlier = list(recorded)
    date = choose_date(tokenizer, given.template_date, [each.template_date for each in earlier])
    prompts = (each.system_prompt for each in (given, *earlier) if each.system_prompt is not None)
    kwargs, variables = given.template_kwargs, _variables(tokenizer)
    if kwargs is None:
        known = next((each.template_kwargs for each in earlier if each.template_kwargs is not None), {})
        kwargs = {name: value for name, value in known.items() if name in variables}
    for name in kwargs.keys() - variables:
        raise ConfigError(
            got=f"template_kwargs with {name}, which the tokenizer's chat template does not read",
            expected="names of variables in its chat template" if variables else "a tokenizer with a chat template",
            fix=did_you_mean(name, sorted(variables), f"leave out {name}"),
        )
    # What was given as empty stays so: another run from the same configuration must not take what is recorded.
    return TemplateInputs(date, next(prompts, None), kwargs if given.template_kwargs is not None else kwargs or None)


def parse_template_kwargs(value: Any) -> dict[str, Any] | None:
    """Keyword arguments of chat templates, from JSON text or a mapping; None stays None.

    Raises:
        ConfigError: it is neither, or has a name that is taken.

    Example:
        >>> parse_template_kwargs('{"enable_thinking": false}')
        {'enable_thinking': False}
    """
    if value is None:
        return None
    kwargs = parse_mapping("template_kwargs", value, '{"enable_thinking": false}')
    check_template_kwargs(kwargs)
    return kwargs


def parse_mapping(name: str, value: Any, example: str) -> dict[str, Any]:
    """The value of an option that is a mapping: JSON text, or a mapping already.

    Args:
        name: the option, for the message.
        example: a mapping as JSON, for the message.

    Raises:
        ConfigError: it is neither.
    """
    kwargs = _as_json(value)
    if not isinstance(kwargs, dict) or not all(isinstance(each, str) for each in kwargs):
        raise ConfigError(
            got=f"{name}={value}",
            expected=f"a mapping as JSON, with names and texts in double quotes, such as {example}",
            fix=f"put it between single quotes in a shell: --{name} '{example}'",
        )
    return kwargs


def _as_json(value: Any) -> Any:
    """What JSON text says, or a mapping of values that JSON has; None for anything else."""
    with suppress(TypeError, ValueError):
        if isinstance(value, str):
            return json.loads(value)
        json.dumps(value)
        return dict(value)
    return None


def _variables(tokenizer: Any) -> set[str]:
    """The words in the tokenizer's chat template, among which are the names of all variables that it reads."""
    return set(re.findall(r"[A-Za-z_]\w*", str(getattr(tokenizer, "chat_template", None) or "")))
