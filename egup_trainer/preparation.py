"""What a trainer does to rows and model before `transformers.Trainer` sees them."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial, reduce
from itertools import chain
from operator import or_
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import get_last_checkpoint

from egup_trainer.components.clreg import ClregPositives
from egup_trainer.components.component import Component, Needs
from egup_trainer.config import UnlearnConfig
from egup_trainer.data.alternates import REFUSALS, alternates_for, check_alternates, read_refusals, refusals_for
from egup_trainer.data.overlap import keep_apart
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import iter_rows, load_rows, records_of
from egup_trainer.data.template_inputs import TemplateInputs, choose_inputs
from egup_trainer.data.tokenization import RowDataset, check_paraphrases, from_token_columns, tokenize
from egup_trainer.errors import ConfigError, DataError, ModelError
from egup_trainer.losses.base import Alternate, ForgetLoss
from egup_trainer.modeling.limits import check_positions, check_token_ids, without_adapters
from egup_trainer.modeling.loading import (
    add_adapter,
    base_folder,
    check_4bit_layers,
    check_peft_config,
    keep_gradients_of_4bit_layers,
    load_model,
    load_tokenizer,
)
from egup_trainer.modeling.trainable import train_matching
from egup_trainer.records.io import recorded_options

logger = logging.getLogger(__name__)

_Config = TypeVar("_Config", bound=UnlearnConfig)
_CHANCE = re.compile("drop|jitter")
Alternates = Callable[[list[Row]], list[str]]
"""Chooses for each row the answer that an objective prefers to the row's own."""


def refuse_train_dataset(train_dataset: Any) -> None:
    """Raises `ConfigError` if the argument of other trainers is given, which does not say what to forget."""
    if train_dataset is not None:
        raise ConfigError(
            got="train_dataset",
            expected="the rows to forget and the rows to keep, apart",
            fix="pass them as forget_dataset and retain_dataset",
        )


def check_args(args: Any, config_class: type[_Config]) -> _Config:
    """The configuration itself, or the default one for None.

    Raises:
        ConfigError: it is of another class, such as a plain `TrainingArguments`, or its output folder leads elsewhere.
    """
    if args is None:
        args = config_class(output_dir="tmp_trainer")
    if not isinstance(args, config_class):
        name = config_class.__name__
        raise ConfigError(
            got=f"args of class {type(args).__name__}", expected=name, fix=f"make them with {name}(output_dir=...)"
        )
    refuse_detours(Path(args.output_dir))
    return args


@dataclass(frozen=True)
class RowSets:
    """The tokenized rows of a run; None if a set was not given."""

    forget: RowDataset
    retain: RowDataset | None = None
    proxy: RowDataset | None = None


def prepare_rows(
    forget: Any, retain: Any, proxy: Any, components: Sequence[Component], tokenizer: Any, args: Any
) -> RowSets:
    """Tokenizes the rows of a run. Those that its components need must be given.

    Args:
        forget, retain, proxy: anything that `prepare_dataset` takes.
        args: an `UnlearnConfig`.

    Raises:
        DataError: rows are missing, malformed, or in both the forget set and another set, or a forget row can have no
            alternate answer of the kind that the objective reads, or the file of refusals cannot be used.
    """
    needs = reduce(or_, (component.needs for component in components), Needs())
    with_paraphrases = needs.positives == ClregPositives.PARAPHRASE.value
    alternates = _alternates_for(needs.alternate, args)
    forget_rows = prepare_dataset(forget, "forget set", tokenizer, args, alternates, with_paraphrases)
    if needs.alternate is not None:
        check_alternates(forget_rows, args.objective)
    if with_paraphrases:
        check_paraphrases(forget_rows)
    proxy_rows = None
    if needs.proxy_rows or proxy is not None:  # those that no component needs are read by the verdict
        proxy_rows = _set_apart(forget_rows, proxy, "proxy", "that the model never saw", components, tokenizer, args)
    retain_rows = None
    if needs.retain_rows or retain is not None:
        retain_rows = _set_apart(forget_rows, retain, "retain", "to keep", components, tokenizer, args)
    for component in components:
        component.check_rows(forget_rows, retain_rows, proxy_rows)
    return RowSets(forget_rows, retain_rows, proxy_rows)


def _set_apart(
    forget: RowDataset, data: Any, name: str, kind: str, components: Sequence[Component], tokenizer: Any, args: Any
) -> RowDataset:
    if data is None:
        reading = [each for each in components if getattr(each.needs, f"{name}_rows")]
        otherwise = f", or {reading[0].switch_off}" if len(reading) == 1 and reading[0].switch_off else ""
        wanted = [f"--{each.flag}" if each.flag else f"the component {each.name}" for each in reading]
        raise DataError(
            got=f"no {name} set, which {' and '.join(wanted)} read{'s' * (len(wanted) == 1)}",
            expected=f"rows {kind}",
            fix=f"give {name}_dataset (--{name}){otherwise}",
        )
    rows = prepare_dataset(data, f"{name} set", tokenizer, args)
    return keep_apart(forget, "forget set", rows, f"{name} set", drop=args.drop_overlap)


def _alternates_for(wanted: Alternate | None, args: Any) -> Alternates | None:
    if wanted is Alternate.REFUSAL:
        answers = REFUSALS if args.idk_answers is None else read_refusals(args.idk_answers)
        return partial(refusals_for, answers=answers, seed=args.seed)
    return partial(alternates_for, seed=args.seed) if wanted is Alternate.GIVEN else None


def prepare_dataset(
    data: Any,
    name: str,
    tokenizer: Any,
    args: Any,
    alternates: Alternates | None = None,
    with_paraphrases: bool = False,
) -> RowDataset:
    """Anything a user may give as rows -> tokenized rows.

    Args:
        data: a `RowDataset`, a source of `load_rows`, or records that hold `input_ids` and `labels` already.
        args: an `UnlearnConfig`.
        alternates: chooses the alternate answers, if rows are to have them.
        with_paraphrases: whether the rows' paraphrases are read, too.

    Raises:
        DataError: there are no rows, or a row is malformed.
    """
    if isinstance(data, RowDataset):
        return data
    if data is None:
        raise DataError(got=f"no {name}", expected="rows", fix=f"give the {name}")
    if isinstance(data, Iterable) and not isinstance(data, str | Mapping):
        records = records_of(data)
        first = next(records, None)
        if first is None:
            raise DataError(got=f"an empty {name}", expected="at least one row", fix="check the source")
        data = chain([first], records)
        if isinstance(first, Mapping) and "input_ids" in first:
            return _warn_if_cut(from_token_columns(data, name, args.max_length, args.on_long_row), name, args)
    rows = iter_rows(data) if alternates is None else load_rows(data)
    dataset = tokenize(
        rows,
        tokenizer,
        name=name,
        max_length=args.max_length,
        template=args.template,
        progress=not args.disable_tqdm,
        alternates=None if alternates is None else alternates(list(rows)),
        with_paraphrases=with_paraphrases,
        on_long_row=args.on_long_row,
    )
    _refuse_unknown_answers(dataset, tokenizer, name)
    return _warn_if_cut(dataset, name, args)


def _refuse_unknown_answers(dataset: RowDataset, tokenizer: Any, name: str) -> None:
    """Raises `DataError` for a row of whose answer the tokenizer knows no character: all such answers are the same."""
    if tokenizer.unk_token_id is None:
        return
    known: dict[int, bool] = {}
    for row in dataset.rows:
        answer = row.input_ids[row.is_scored][: -1 if row.is_closed else None]
        is_known = not len(answer) or bool((answer != tokenizer.unk_token_id).any())
        known[row.source.number] = known.get(row.source.number, False) or is_known
    unknown = [number for number, is_known in known.items() if not is_known]
    if unknown:
        raise DataError(
            got=f"{len(unknown)} answers of the {name}, such as that in row {unknown[0]}, which the tokenizer reads as "
            f"{tokenizer.unk_token} alone",
            expected="text in a script that the model knows",
            fix="remove such rows: nothing of them can be learned, forgotten or measured",
        )


def _warn_if_cut(dataset: RowDataset, name: str, args: Any) -> RowDataset:
    """Returns the rows, and warns if some of them were cut."""
    if dataset.cut and args.process_index == 0:
        logger.warning("%s", dataset.long_rows_line(name, args.max_length))
    return dataset


def prepare_eval_datasets(data: Any, tokenizer: Any, args: Any) -> RowDataset | dict[str, RowDataset] | None:
    """Evaluation rows, or a dict of several sets of them, tokenized."""
    if data is None:
        return None
    if isinstance(data, Mapping):
        return {name: prepare_dataset(rows, f"{name} evaluation set", tokenizer, args) for name, rows in data.items()}
    return prepare_dataset(data, "evaluation set", tokenizer, args)


def prepare_model(
    model: Any,
    args: Any,
    peft_config: Any,
    row_sets: Iterable[RowDataset | None] = (),
    loss: ForgetLoss | None = None,
) -> Any:
    """The model to train: loaded if it is named by path or hub id, with a fresh adapter if one is asked for.

    Args:
        row_sets: the rows that it is going to read.
        loss: the forget loss, which may freeze weights.

    Raises:
        ModelError: it cannot be loaded, its 4-bit weights would be read wrongly, the adapter does not fit it, or it
            cannot read the rows.
        ConfigError: the output would be written over the model, or `peft_config` does not describe an adapter for it.
    """
    if peft_config is not None:
        check_peft_config(peft_config)
    if isinstance(model, str | Path):
        check_output_folder(Path(model), Path(args.output_dir))
        model = load_model(str(model), **(args.model_init_kwargs or {}))
    else:
        check_4bit_layers(model)
    rows = [row for each in row_sets if each is not None for row in each.rows]
    check_token_ids(model, [row.input_ids for row in rows], "the rows")
    check_positions(model, max(map(len, rows), default=0), "a row", "lower --max_length")
    if peft_config is not None:
        if args.disable_dropout:
            # Before the adapter is made: some layers, such as the experts of a mixture, allow no adapter with dropout.
            peft_config = copy(peft_config)
            _set_chances_to_0(vars(peft_config))
        set_seed(args.seed)  # an adapter starts from random numbers; Trainer sets the seed only later
        model = add_adapter(model, peft_config, (args.model_init_kwargs or {}).get("revision"))
    keep_gradients_of_4bit_layers(model)
    if loss is not None:
        loss.prepare_model(model, args)
        if args.trainable_params_regex is not None:
            train_matching(model, args.trainable_params_regex)
    if args.disable_dropout:
        disable_dropout(model)
    return model


def refuse_other_vocabulary(name: str, other: Any, model: Any, tokenizer: Any) -> None:
    """Raises `ModelError` if another model, `other`, does not read the same tokens as `model`.

    Args:
        name: path or hub id of the other model. It may lack tokens that were added to `model`, such as one for padding.
            If a tokenizer lies there, it must give common tokens the same ids.
    """
    sizes = [each.config.get_text_config().vocab_size for each in (other, model)]
    try:
        theirs: dict[str, int] = load_tokenizer(name).get_vocab() if sizes[0] <= sizes[1] else {}
    except ModelError:  # it has none, or one that needs code
        theirs = {}
    ours = tokenizer.get_vocab()
    moved = sum(ours.get(token, index) != index for token, index in theirs.items())
    if sizes[0] > sizes[1] or moved:
        raise ModelError(
            got=f"the model {name} with {sizes[0]} tokens" + (f", {moved} of them with other ids" if moved else ""),
            expected=f"the vocabulary of the model that unlearns, {sizes[1]} tokens, or the first of them",
            fix="use the base model that it was fine-tuned from",
        )


def check_output_folder(model: Path, output: Path) -> None:
    """Raises `ConfigError` if one of the folders lies in the other: checkpoints and results could replace the model.

    Args:
        model: folder of the model or of an adapter. The base model of an adapter is protected as well.
    """
    target = output.resolve()
    for each in (model, *base_folder(model)):
        source = each.resolve()
        if each.is_dir() and (source == target or source in target.parents or target in source.parents):
            raise ConfigError(
                got=f"the output folder {output} for a model in {each}",
                expected="an output folder outside the model's folder, so that the input model is not changed",
                fix="change --output_dir",
            )


def refuse_detours(output: Path) -> None:
    """Raises `ConfigError` if files could be written outside the output folder, through .. or a link."""
    if ".." in output.as_posix().lstrip("./").split("/"):
        raise ConfigError(
            got=f"the output folder {output}, whose path contains '..'",
            expected="a path without it",
            fix="name the folder itself",
        )
    inside = output.resolve()
    for path in output.rglob("*") if output.is_dir() else ():
        if path.is_symlink() and inside not in path.resolve().parents:
            raise ConfigError(
                got=f"{path}, a link to {path.resolve()}",
                expected="an output folder whose files lie in it: links could have others overwritten",
                fix="remove the link, or change --output_dir",
            )


def disable_dropout(model: Any) -> None:
    """Switches off dropout and all other randomness of the model's modules in training.

    This covers dropout modules, and numbers whose names contain "drop" or "jitter", which modules pass to functions.
    Modules that read such a number from the configuration get a changed copy of it, so that the model is saved with
    the original.
    """
    quiet: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _set_chances_to_0(vars(module))
        config = vars(module).get("config")
        if config is not None and module is not model and module is not without_adapters(model):
            if id(config) not in quiet:
                quiet[id(config)] = copy(config)
                _set_chances_to_0(vars(quiet[id(config)]))
            module.config = quiet[id(config)]


def _set_chances_to_0(values: dict[str, Any]) -> None:
    """Sets numbers with such names to 0, in place; a dict holds one number for each adapter."""
    for name, value in values.items():
        if _CHANCE.search(name):
            if isinstance(value, float):
                values[name] = 0.0
            elif isinstance(value, dict):
                values[name] = {key: 0.0 if isinstance(each, float) else each for key, each in value.items()}


def source_of(model: Any) -> str | None:
    """The folder or hub id of a model, or of the model that was loaded from there; None if it was made in memory."""
    if isinstance(model, str | Path):
        return str(model)
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def prepare_tokenizer(tokenizer: Any, model: Any, args: Any) -> Any:
    """The given tokenizer, or else the model's. It also sets, in `args`, what its chat template is given besides turns.

    Raises:
        ModelError: there is none.
        ConfigError: `model` or `tokenizer` is something else; `template_date` is set, and the chat template writes no
            date; or it does not read one of `template_kwargs`.
    """
    check_model(model)
    tokenizer = tokenizer or tokenizer_of(model, args)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(
            got=f"an object of class {type(tokenizer).__name__} as processing_class",
            expected="the model's tokenizer",
            fix="load it: AutoTokenizer.from_pretrained(...), or take that of a processor: processor.tokenizer",
        )
    source = source_of(model)
    folders = [*_checkpoints(args), *([] if source is None else [source])]
    recorded = [TemplateInputs.of(recorded_options(folder)) for folder in folders]
    reader = None if args.template.always else tokenizer
    given = vars(_given_inputs(args, tokenizer))
    chosen = vars(choose_inputs(reader, TemplateInputs(**given), recorded))
    vars(args).update(chosen, _inputs={"given": given, "chosen": chosen, "template": tokenizer.chat_template})
    return tokenizer


def _given_inputs(args: Any, tokenizer: Any) -> TemplateInputs:
    """What the user gave for the chat template, without what was chosen for another one with the same configuration."""
    now, earlier = vars(TemplateInputs.of(args)), vars(args).get("_inputs")
    if earlier is None or earlier["template"] == tokenizer.chat_template:
        return TemplateInputs(**now)
    given, chosen = earlier["given"], earlier["chosen"]
    return TemplateInputs(**{name: given[name] if now[name] == chosen[name] else now[name] for name in now})


def check_model(model: Any) -> None:
    """Raises `ConfigError` for what is not a model of transformers, with or without an adapter of PEFT around it."""
    is_class = isinstance(model, type)
    if is_class or not isinstance(without_adapters(model), str | Path | PreTrainedModel):
        from torch._dynamo import OptimizedModule

        fix = "load it: AutoModelForCausalLM.from_pretrained(...)"
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | OptimizedModule):
            fix = "pass the model inside: a run wraps and compiles it by itself (accelerate launch, --torch_compile)"
        what = f"the class {model.__name__}" if is_class else f"an object of class {type(model).__name__}"
        raise ConfigError(got=f"{what} as model", expected="a model of transformers, or its folder or hub id", fix=fix)
    if isinstance(model, PreTrainedModel) and "peft_config" in vars(model):
        raise ConfigError(
            got=f"{type(model).__name__} with an adapter inside, as add_adapter and from_pretrained make it",
            expected="an adapter around the model, which can be switched off, saved and merged",
            fix="load it with peft.PeftModel.from_pretrained(model, folder, is_trainable=True), or pass a peft_config",
        )


def check_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Raises `ConfigError` if an optimizer is given and trains no weight of the model."""
    if not isinstance(optimizer, Optimizer):  # none, or a stand-in such as DeepSpeed's DummyOptim
        return
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    if any(id(weight) in trained for group in optimizer.param_groups for weight in group["params"]):
        return
    raise ConfigError(
        got="an optimizer that holds no trainable weight of the model",
        expected="one that was made from the weights that are trained",
        fix="load the model, and add its adapter (peft.get_peft_model), before the optimizer is made",
    )


def _checkpoints(args: Any) -> list[str]:
    """The checkpoint that this run may resume from, which recorded what its prompts depend on; empty if none does."""
    named, output = args.resume_from_checkpoint, args.output_dir
    if isinstance(named, str) and Path(named).is_dir():
        return [named]
    if args.overwrite_output_dir and str(named or False).lower() == "false":  # what lies there is of another run
        return []
    last = get_last_checkpoint(output) if Path(output).is_dir() else None
    return [] if last is None else [last]


def tokenizer_of(model: Any, args: Any) -> Any:
    """The tokenizer saved with a model, or with the folder or hub id that names it.

    Raises:
        ModelError: there is none.
    """
    name = source_of(model)
    if name is None:
        raise ModelError(
            got="no tokenizer, and a model that was not loaded from a folder or hub",
            expected="the model's tokenizer",
            fix="pass it as processing_class",
        )
    kwargs = args.model_init_kwargs or {}
    trust = kwargs.get("trust_remote_code", False)
    return load_tokenizer(name, revision=kwargs.get("revision", "main"), trust_remote_code=trust)
