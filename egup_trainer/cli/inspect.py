"""`egup inspect`: how rows are tokenized, what of them is scored, and one row decoded (it shows its text)."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from egup_trainer.cli.command import Command
from egup_trainer.cli.flags import SOURCE, LongRowArguments, SourceArguments, TemplateArguments, flag
from egup_trainer.errors import ConfigError, check_range


@dataclass
class InspectArguments(SourceArguments, TemplateArguments, LongRowArguments):
    """Which rows, through which tokenizer."""

    model_name_or_path: str | None = flag("Folder or hub id of the tokenizer.")
    forget: str | None = flag(f"Rows to look at: {SOURCE}.")
    index: int = flag("Which sample to decode; the first is 0.", 0)
    max_rows: int = flag("How many rows of the source to read at most, from its start.", 1000)
    max_length: int = flag("Maximum number of tokens per sample.", 1024)


def run(args: InspectArguments) -> None:
    """Prints counts, and one sample with what is scored set apart.

    Raises:
        ConfigError: a flag is out of range, or there is no sample of that index.
    """
    check_range(args, ("max_length", "max_rows"), low=1, whole=True)
    from egup_trainer.data.tokenization import tokenize
    from egup_trainer.modeling.loading import load_tokenizer

    model = str(args.model_name_or_path)
    tokenizer = load_tokenizer(model)
    rows = args.read(str(args.forget), args.max_rows + 1)  # one more tells whether these are all
    are_all = len(rows) <= args.max_rows
    dataset = tokenize(
        rows[: args.max_rows],
        tokenizer,
        name="forget set",
        max_length=args.max_length,
        template=args.template_for(tokenizer, model),
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
    markers = "chat template" if tokenizer.chat_template else "plain markers (the tokenizer has no chat template)"
    print(f"rows: {count}   samples: {len(samples)}   rows cut: {dataset.cut}   in windows: {dataset.in_windows}")
    print(f"tokens per sample: mean {sum(lengths) / len(lengths):.1f}, max {max(lengths)}")
    print(f"scored tokens per sample: mean {sum(scored) / len(scored):.1f}, min {min(scored)}, max {max(scored)}")
    print(f"written by: {markers}")
    _print_sample(samples[args.index], args.index, tokenizer)


def _print_sample(sample: Any, index: int, tokenizer: Any) -> None:
    print(f"\nsample {index}: {len(sample)} tokens{', cut' if sample.truncated else ''}")
    for is_scored, group in groupby(range(len(sample)), key=lambda token: bool(sample.is_scored[token])):
        tokens = list(group)
        text = tokenizer.decode(sample.input_ids[tokens[0] : tokens[-1] + 1].tolist())
        print(f"{'scored' if is_scored else 'not scored'}, tokens {tokens[0]} to {tokens[-1]}: {text!r}")


COMMAND = Command(
    "inspect",
    "show how rows are tokenized and what of them is scored",
    run,
    options=lambda: [InspectArguments],
    required=("model_name_or_path", "forget"),
)
