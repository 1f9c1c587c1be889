"""`egup inspect`: how rows are tokenized, what of them is scored, and how well a model knows them in which format."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from egup_trainer.cli.command import Command, model_config
from egup_trainer.cli.flags import (
    SOURCE,
    LongRowArguments,
    SourceArguments,
    TemplateArguments,
    flag,
    load_on_device,
    refuse_lora_flags,
)
from egup_trainer.errors import ConfigError, check_range

MOST_SCORED = 64
"""Rows of which it is measured how well the model knows them."""

LIKELIER = 1.2
"""How much likelier rows must be in another format for it to be named."""


@dataclass
class InspectArguments(SourceArguments, TemplateArguments, LongRowArguments):
    """Which rows, through which tokenizer."""

    forget: str | None = flag(f"Rows to look at: {SOURCE}.")
    index: int = flag("Which sample to decode; the first is 0.", 0)
    max_rows: int = flag("How many rows of the source to read at most, from its start.", 1000)
    max_length: int = flag("Maximum number of tokens per sample.", 1024)
    score: bool = flag(
        f"Load the model, and say how well it knows the first {MOST_SCORED} rows, written like this and otherwise.",
        True,
    )
    use_cpu: bool = flag("Do not use a GPU.", False)


def run(args: InspectArguments, model_config: Any) -> None:
    """Prints counts, and one sample with what is scored set apart.

    Raises:
        ConfigError: a flag is out of range, or there is no sample of that index.
    """
    check_range(args, ("max_length", "max_rows"), low=1, whole=True)
    refuse_lora_flags(model_config)
    from egup_trainer.data.tokenization import tokenize
    from egup_trainer.modeling.loading import load_tokenizer

    model = model_config.model_name_or_path
    tokenizer = load_tokenizer(model, revision=model_config.model_revision)
    rows = args.read(str(args.forget), args.max_rows + 1)  # one more tells whether these are all
    are_all = len(rows) <= args.max_rows
    template = args.template_for(tokenizer, model)
    dataset = tokenize(
        rows[: args.max_rows],
        tokenizer,
        name="forget set",
        max_length=args.max_length,
        template=template,
        progress=True,
        on_long_row=args.on_long_row,
    )
    samples = dataset.rows
    if not 0 <= args.index < len(samples):
        raise ConfigError(
            got=f"index={args.index}",
            expected=f"a number from 0 to {len(samples) - 1}",
            fix="set --index" if are_all else "set --index, or raise --max_rows",
        )
    count = str(len(rows)) if are_all else f"the first {args.max_rows} (see --max_rows)"
    lengths = [len(sample) for sample in samples]
    scored = [int(sample.is_scored[1:].sum()) for sample in samples]
    print(f"rows: {count}   samples: {len(samples)}   rows cut: {dataset.cut}   in windows: {dataset.in_windows}")
    print(f"tokens per sample: mean {sum(lengths) / len(lengths):.1f}, max {max(lengths)}")
    print(f"scored tokens per sample: mean {sum(scored) / len(scored):.1f}, min {min(scored)}, max {max(scored)}")
    print(f"written by: {_writer(rows[: args.max_rows], template, tokenizer)}")
    if args.score:
        _print_scores(args, model_config, rows[:MOST_SCORED], template, tokenizer)
    _print_sample(samples[args.index], args.index, tokenizer)


def _writer(rows: Sequence[Any], template: Any, tokenizer: Any) -> str:
    """What writes the rows, or most of them."""
    if not any(row.has_turns for row in rows):
        return "nothing (the rows are written out)"
    if template.always or not tokenizer.chat_template:
        return f"plain markers ({'as given' if template.always else 'the tokenizer has no chat template'})"
    return "chat template"


def _print_scores(args: InspectArguments, model_config: Any, rows: Sequence[Any], own: Any, tokenizer: Any) -> None:
    """How well the model knows the rows; which other format it knows them better in, if there is one."""
    import torch
    from accelerate import Accelerator

    from egup_trainer.cli.formats import likelier_format
    from egup_trainer.data.collator import RowCollator
    from egup_trainer.data.tokenization import tokenize
    from egup_trainer.modeling.forward import AnswerReader
    from egup_trainer.modeling.limits import check_token_ids
    from egup_trainer.modeling.scan import score_rows

    model = load_on_device(model_config.model_name_or_path, model_config, Accelerator(cpu=args.use_cpu))
    reader, collator = AnswerReader(model), RowCollator(tokenizer)

    def probabilities(written: Sequence[Any], template: Any) -> Any:
        options = {"max_length": args.max_length, "template": template, "on_long_row": args.on_long_row}
        dataset = tokenize(written, tokenizer, name="forget set", **options)
        check_token_ids(model, [row.input_ids for row in dataset.rows], "the forget set")
        found = score_rows(model, reader, dataset, collator, batch_size=8)
        return found.nll_of(torch.tensor(dataset.owners)).neg().exp()

    here = probabilities(rows, own)
    known = int((here > 0.5).sum())
    print(f"probability of the answers: {here.mean():.3g}, above one half in {known} of {len(here)} rows")
    found = likelier_format(
        rows,
        own,
        bool(tokenizer.chat_template),
        lambda written, template: probabilities(written, template).mean().item(),
        LIKELIER * here.mean().item(),
    )
    if found is not None:
        other, there = found
        print(f"They are likelier ({there:.3g}) {other.name}: if the model was trained like that, {other.fix}")


def _print_sample(sample: Any, index: int, tokenizer: Any) -> None:
    print(f"\nsample {index}: {len(sample)} tokens{', cut' if sample.truncated else ''}")
    for is_scored, group in groupby(range(len(sample)), key=lambda token: bool(sample.is_scored[token])):
        tokens = list(group)
        text = tokenizer.decode(sample.input_ids[tokens[0] : tokens[-1] + 1].tolist())
        print(f"{'scored' if is_scored else 'not scored'}, tokens {tokens[0]} to {tokens[-1]}: {text!r}")


COMMAND = Command(
    "inspect",
    "show how rows are tokenized, what of them is scored, and how well a model knows them",
    run,
    options=lambda: [InspectArguments, model_config()],
    required=("model_name_or_path", "forget"),
    shown=(
        *("index", "max_rows", "max_length", "on_long_row", "score", "columns", "user_marker", "assistant_marker"),
        *("system_prompt", "template_kwargs", "use_cpu", "load_in_4bit", "dtype"),
    ),
)
