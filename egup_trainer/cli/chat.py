"""`egup chat BEFORE AFTER`: asks two models the same questions, and shows their answers side by side."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from egup_trainer.cli.command import Command, library_errors, model_config
from egup_trainer.cli.flags import (
    TemplateArguments,
    flag,
    load_on_device,
    positional,
    refuse_lora_flags,
    refuse_several_processes,
)
from egup_trainer.cli.terminal import make_table, show
from egup_trainer.errors import ConfigError, check_range

_ANY_ANSWER = "Yes."  # stands where a row has its answer; what is before it is the prompt


@dataclass(kw_only=True)  # the models have no default
class ChatArguments(TemplateArguments):
    """The models, and the question."""

    help_title = "Chat"

    before: str = positional("Folder or hub id of the model before unlearning.", metavar="BEFORE")
    after: str = positional("Folder or hub id of the model after it.", metavar="AFTER")
    question: str | None = flag(
        "One question, after whose answers the command ends. By default questions are read from standard input, one a "
        "line, up to its end or an empty line."
    )
    max_new_tokens: int = flag("Maximum number of tokens per answer.", 200)
    use_cpu: bool = flag("Do not use a GPU.", False)


def run(args: ChatArguments, model_config: Any) -> None:
    """Asks both models each question; they answer with the most likely tokens."""
    _check(args, model_config)
    from accelerate import Accelerator

    from egup_trainer.records.io import recorded_options

    accelerator = Accelerator(cpu=args.use_cpu)
    refuse_several_processes("egup chat", accelerator.num_processes)
    with library_errors():
        # Both are asked as the run asked: the model before has no record.
        recorded = [recorded_options(name) for name in (args.after, args.before)]
        speakers = [_Speaker(name, args, model_config, accelerator, recorded) for name in (args.before, args.after)]
    for question in [args.question] if args.question else _questions():
        table = make_table(question, (args.before, args.after), left=(args.before, args.after))
        table.add_row(*(each.answer(question) for each in speakers))
        show(table)


class _Speaker:
    """A model that answers questions."""

    def __init__(self, name: str, args: ChatArguments, model_config: Any, accelerator: Any, recorded: list[Any]):
        from egup_trainer.modeling.loading import load_tokenizer

        self.tokenizer = load_tokenizer(name, revision=model_config.model_revision)
        self.template = args.template_for(self.tokenizer, name, recorded)
        self.model = load_on_device(name, model_config, accelerator).eval()
        self.max_new_tokens = args.max_new_tokens

    def answer(self, question: str) -> str:
        """What it writes after the question, as an evaluation would have it write."""
        from egup_trainer.data.schema import Message, Row
        from egup_trainer.data.tokenization import tokenize
        from egup_trainer.modeling.generation import generate

        row = Row((Message("user", question),), _ANY_ANSWER)
        [tokenized] = tokenize([row], self.tokenizer, name="question", template=self.template).rows
        ids = tokenized.prompt
        # Most words take in the space before them: a token of spaces would stand before no answer of a row.
        while len(ids) > 1 and not self.tokenizer.decode(ids[-1:]).strip(" "):
            ids = ids[:-1]
        return generate(self.model, self.tokenizer, [ids], max_new_tokens=self.max_new_tokens, batch_size=1)[0]


def _questions() -> Iterator[str]:
    """The lines of standard input, up to its end or an empty line."""
    while True:
        if sys.stdin.isatty():
            print("Question (an empty line ends): ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def _check(args: ChatArguments, model_config: Any) -> None:
    check_range(args, ("max_new_tokens",), low=1, whole=True)
    refuse_lora_flags(model_config)
    if model_config.model_name_or_path is not None:
        raise ConfigError(
            got="--model_name_or_path",
            expected="the two models after the command's name",
            fix="use `egup chat BEFORE AFTER`",
        )
    if args.question is not None and not args.question.strip():
        raise ConfigError(got="an empty --question", expected="a question", fix="ask one, or leave out --question")


COMMAND = Command(
    "chat",
    "ask two models the same questions, side by side",
    run,
    options=lambda: [ChatArguments, model_config()],
    shown=("question", "max_new_tokens", "use_cpu", "load_in_4bit", "dtype"),
)
