"""`egup unlearn --merge`: a model that stands alone, measured as files and in four bits."""

import gc
from pathlib import Path
from typing import Any

from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.records.outcome import IN_4BIT, MERGED


def refuse_to_merge_nothing(model_config: Any) -> None:
    """Raises `ConfigError` if what will be trained is a stand-alone model already."""
    from egup_trainer.modeling.loading import is_adapter

    if not model_config.use_peft and not is_adapter(model_config.model_name_or_path):
        raise ConfigError(
            got="--merge without an adapter",
            expected="an adapter to merge into its base model: all weights are trained, and saved as they are",
            fix="leave out --merge, or add --use_peft",
        )


def merge_and_measure(
    args: Any, tokenizer: Any, datasets: dict[str, Any], model_init_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Writes the merged model, and measures its files: as they are, and with their weights in four bits.

    Returns:
        Probability of each set of rows by `MERGED` and `IN_4BIT`; of the latter, why it could not be measured.
    """
    from egup_trainer.audit.quantization import Bits, quantised_copy
    from egup_trainer.modeling.loading import load_model
    from egup_trainer.modeling.merging import save_merged
    from egup_trainer.modeling.probability import probabilities_of

    gc.collect()  # what the trainer held
    folder = Path(args.output_dir) / MERGED
    save_merged(args.output_dir, folder, **model_init_kwargs)
    tokenizer.save_pretrained(folder)
    model = load_model(str(folder), dtype=model_init_kwargs.get("dtype") or "float32").to(args.device)
    measure = {"seed": args.seed, "batch_size": args.per_device_eval_batch_size}
    found: dict[str, Any] = {MERGED: probabilities_of(model, tokenizer, datasets, **measure)}
    try:
        found[IN_4BIT] = probabilities_of(quantised_copy(model, Bits.FOUR), tokenizer, datasets, **measure)
    except (ImportError, ModelError, RuntimeError, ValueError) as error:
        found[IN_4BIT] = f"not measured: {error}"
    return found
