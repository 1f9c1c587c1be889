"""`egup inspect`: how rows are tokenized, what of them is scored, and one row decoded (it shows its text)."""

from dataclasses import dataclass, field
from typing import Any

from egup_trainer.cli.common import MarkerArguments, SourceArguments, parse, quiet_libraries, require
from egup_trainer.errors import ConfigError, check_range


@dataclass
class InspectArguments(SourceArguments, MarkerArguments):
    """Which rows, through which tokenizer."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or hub id of the tokenizer."})
    forget: str | None = field(default=None, metadata={"help": "Rows to look at: a source as for `egup unlearn`."})
    index: int = field(default=0, metadata={"help": "Which sample to decode; 0 is the first."})
    max_rows: int = field(default=1000, metadata={"help": "Most rows to read, from the start of the source."})
    max_length: int = field(default=1024, metadata={"help": "Most tokens in a sample."})


def main(argv: list[str]) -> None:
    """Prints counts, and one sample with what is scored set apart.

    Raises:
        ConfigError: a flag is missing or out of range, or there is no sample of that index.
    """
    quiet_libraries()
    (options,) = parse("inspect", [InspectArguments], argv)
    require("inspect", model_name_or_path=options.model_name_or_path, forget=options.forget)
    check_range(options, ("max_length", "max_rows"), low=1, whole=True)
    from egup_trainer.data.tokenization import tokenize
    from egup_trainer.modeling.loading import load_tokenizer

    tokenizer = load_tokenizer(options.model_name_or_path)
    rows = options.read(options.forget, options.max_rows + 1)  # the one more tells whether these are all
    shown, template = rows[: options.max_rows], options.template_for(tokenizer, options.model_name_or_path)
    dataset = tokenize(
        shown,
        tokenizer,
        name="forget set",
        max_length=options.max_length,
        template=template,
        progress=True,
        on_long_row=options.on_long_row,
    )
    samples = dataset.rows
    if not 0 <= options.index < len(samples):
        raise ConfigError(
            got=f"index={options.index}",
            expected=f"a number from 0 to {len(samples) - 1}",
            fix="set --index" if len(rows) <= options.max_rows else "set --index, or raise --max_rows",
        )
    count = f"{len(rows)}" if len(rows) <= options.max_rows else f"the first {options.max_rows} (see --max_rows)"
    _print_counts(count, dataset, tokenizer)
    _print_sample(samples[options.index], options.index, tokenizer)


def _print_counts(num_rows: str, dataset: Any, tokenizer: Any) -> None:
    samples = dataset.rows
    lengths = [len(sample) for sample in samples]
    scored = [int(sample.is_scored[1:].sum()) for sample in samples]
    markers = "chat template" if tokenizer.chat_template else "plain markers (the tokenizer has no chat template)"
    print(f"rows: {num_rows}   samples: {len(samples)}   rows cut: {dataset.cut}   in windows: {dataset.in_windows}")
    print(f"tokens a sample: mean {sum(lengths) / len(lengths):.1f}, most {max(lengths)}")
    print(f"scored tokens a sample: mean {sum(scored) / len(scored):.1f}, least {min(scored)}, most {max(scored)}")
    print(f"written by: {markers}")


def _print_sample(sample: Any, index: int, tokenizer: Any) -> None:
    from itertools import groupby

    print(f"\nsample {index}: {len(sample)} tokens{', cut' if sample.truncated else ''}")
    for is_scored, group in groupby(range(len(sample)), key=lambda place: bool(sample.is_scored[place])):
        places = list(group)
        text = tokenizer.decode(sample.input_ids[places[0] : places[-1] + 1].tolist())
        print(f"{'scored' if is_scored else 'not scored'}, tokens {places[0]} to {places[-1]}: {text!r}")
