"""What commands do not import: libraries that take seconds, for steps that do not use them."""

import subprocess
import sys

import pytest

LOAD = """
import sys
from trl import ModelConfig
from egup_trainer.modeling.loading import load_model, lora_config, model_init_kwargs
flags = ModelConfig()
load_model(sys.argv[1], **model_init_kwargs(flags, use_cpu=True))
assert lora_config(flags) is None
"""
HELP = "from egup_trainer.cli.main import main; main(['--help'])"


def imported(code: str, model: str) -> set[str]:
    """The modules that a process has imported by its end."""
    told = f"import atexit, sys; atexit.register(lambda: print('\\nIMPORTED', *sys.modules))\n{code}"
    done = subprocess.run([sys.executable, "-c", told, model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    return set(done.stdout.rpartition("IMPORTED")[2].split())


@pytest.mark.parametrize(
    ("code", "needed", "others"),
    [
        (HELP, {"egup_trainer.cli.unlearn"}, {"torch", "transformers", "trl", "peft"}),
        (LOAD, {"torch", "transformers"}, {"peft", "bitsandbytes", "datasets", "transformers.trainer"}),
    ],
    ids=["egup --help", "a model without an adapter"],
)
def test_slow_libraries_are_imported_where_they_are_used(good_model, code, needed, others):
    found = imported(code, str(good_model))
    assert needed <= found
    assert others & found == set()
