"""Every command in README and docs can be started, and those that need no GPU, hub or writer run, page by page."""

import json
import re
import shutil
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO

import pytest
import torch
from conftest import qa_rows
from fixtures_docs import NEEDS, PAGES, ROOT, blocks, check, known_flags
from generate.parsers import COMMANDS
from transformers import AutoModelForCausalLM, LlamaConfig

from egup_trainer.cli.main import main
from egup_trainer.evaluation import metric_registry
from egup_trainer.evaluation.metric_registry import declared_metrics
from egup_trainer.losses import registry

ROWS = {  # indices of the invented rows in the files that pages name
    (0, 6): ("forget", "person", "request_1", "book"),
    (6, 10): ("request_2",),
    (20, 30): ("retain", "others", "other_books"),
    (40, 46): ("proxy", "strangers"),
    (50, 56): ("holdout", "unseen_book"),
}
BOOKS = ("book", "other_books", "unseen_book")
QUIET = ["--use_cpu", "true", "--disable_tqdm", "true"]
SHORTER = {  # flags that are appended to a command to make it faster
    "unlearn": [*QUIET, "--max_steps", "2", "--report_to", "none", "--no_verdict"],
    "retrain": [*QUIET, "--max_steps", "2", "--report_to", "none"],
    "evaluate": [*QUIET, "--max_new_tokens", "8"],
    "verify": QUIET,
    "audit": [
        *[*QUIET, "--max_new_tokens", "8", "--num_samples", "1", "--max_rows", "4"],
        *["--relearn_steps", "2", "--soft_prompt_steps", "2", "--search_rounds", "1"],
    ],
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@pytest.fixture(scope="session")
def prepared(tokenizer, tmp_path_factory):
    """A folder with models, rows and results under the names that pages use."""
    folder = tmp_path_factory.mktemp("pages")
    for (start, stop), names in ROWS.items():
        for name in names:
            rows = [{"text": row["answer"]} if name in BOOKS else row for row in qa_rows(start, stop)]
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for seed, name in enumerate(("path/to/your-model", "before", "retrained", "base")):
        model = small_model(tokenizer, seed)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sets = "--forget forget.jsonl --retain retain.jsonl"
        run(f"unlearn --model_name_or_path before {sets} --proxy proxy.jsonl --output_dir unlearned".split())
        for model, result in (("before", "before"), ("unlearned", "after"), ("retrained", "retrained")):
            rest = f"--suite custom {sets} --holdout holdout.jsonl --output {result}.json"
            run(f"evaluate --model_name_or_path {model} {rest}".split())
    return folder


@pytest.fixture
def workplace(prepared, tmp_path, monkeypatch):
    """A copy of that folder as the working directory; what pages register is removed afterwards."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "OBJECTIVES", dict(registry.OBJECTIVES))
    declared_metrics()  # imports all metrics
    monkeypatch.setattr(metric_registry, "_METRICS", dict(metric_registry._METRICS))
    return tmp_path


def small_model(tokenizer, seed: int):
    """A tiny model with a width of 64, so that bitsandbytes can quantize it to 4 bits on a CPU."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 512}
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, num_key_value_heads=2, **sizes, **tokens)
    return AutoModelForCausalLM.from_config(config)


def run(arguments: list[str]) -> None:
    with redirect_stderr(StringIO()) as errors:
        code = main([*arguments, *SHORTER.get(arguments[0], [])])
    assert code == 0, f"egup {' '.join(arguments)}\n{errors.getvalue()[-500:]}"


def assumed_names(tokenizer) -> dict:
    """The names that Python blocks use without defining them."""
    ratios = {"0": 0.4, "1": 0.6, "2": 0.5}
    return {
        "model": small_model(tokenizer, 0),
        "retrained_model": small_model(tokenizer, 2),
        "tokenizer": tokenizer,
        "truth_ratios": list(ratios.values()),
        "truth_ratios_of_the_retrained_model": list(ratios.values()),
    }


@pages
def test_a_page_runs(page, workplace, tokenizer):
    names = assumed_names(tokenizer)
    installed = {None, *(name for name in ("optuna",) if find_spec(name))}
    run_here = [block for block in blocks(page) if block.needs in installed]
    for name in ("unlearned", "retrained"):
        if any(re.search(rf'output_dir[ =]"?{name}\b(?!-)', block.text) for block in run_here):
            shutil.rmtree(workplace / name)  # the page writes it, and a finished folder is not overwritten
    for block in run_here:
        if block.is_python:
            exec(compile(block.text, block.location, "exec"), names)
        for words in block.commands:
            if words[0] == "egup":  # other tests run `make` and benchmarks
                run(words[1:])


@pages
def test_every_command_could_be_started(page):
    for block in blocks(page):
        assert block.needs in {None, *NEEDS}, block.location
        for words in block.commands:
            try:
                check(words)
            except ValueError as error:
                pytest.fail(f"{block.location}: {error}")


@pages
def test_every_flag_that_is_named_exists(page):
    known = {flag for command in COMMANDS for flag in known_flags(command)}
    known |= {"--help", "--help_all", "--version", "--config"}  # of egup itself and of TrlParser
    known |= {"--outfile", "--enable", "--lora"}  # of llama.cpp and vLLM; the names of vLLM have hyphens
    for source in (ROOT / "benchmarks").rglob("*.py"):
        known |= set(re.findall(r'"(--\w+)"', source.read_text(encoding="utf-8")))
    started = [word for block in blocks(page) for words in block.commands if words[0] != "egup" for word in words]
    named = re.findall(r"(?<![\w-])--[a-z]\w*", page.read_text(encoding="utf-8"))
    assert set(named) - known - set(started) == set()


def test_the_readme_has_the_commands_that_ci_and_users_need():
    readme = [words for block in blocks(ROOT / "README.md") for words in block.commands]
    assert [words[:2] for words in readme if words[0] == "make"] == [["make", "demo"], ["make", "test"]]
    assert {words[1] for words in readme if words[0] == "egup"} == {"unlearn", "evaluate", "compare"}
    assert sum(block.is_python for page in PAGES for block in blocks(page)) >= 12


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("egup unlearn --forgett forget.jsonl", "egup unlearn has no --forgett"),
        ("egup compare a.json --out report.html", "egup compare has no --out"),
        ("egup forget --forget forget.jsonl", "no command egup forget"),
        (
            "egup unlearn --retain_weight heavy",
            "--retain_weight 'heavy'",
        ),
        ("make demon", "no target demon in the Makefile"),
        ("python -m benchmarks.nothing", "no module benchmarks.nothing"),
        ("torchrun --nproc_per_node 2 -m egup_trainer.cli.main unlearn --npo 1", "egup unlearn has no --npo"),
    ],
)
def test_a_command_that_could_not_be_started_is_found(command, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(command.split())


def test_a_needs_comment_applies_to_one_block_and_joined_lines_are_one_command(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n<!-- needs: gpu -->\n\n    egup unlearn \\\n        --forget a.jsonl\n    egup proxy ... --seed 1\n\n"
        "Text.\n\n    egup demo --output_dir out\n\n```python\nx = 1\n```\n",
        encoding="utf-8",
    )
    first, second, third = blocks(page)
    assert (first.needs, second.needs, third.needs) == ("gpu", None, None)
    assert first.commands[0] == ["egup", "unlearn", "--forget", "a.jsonl"]
    assert first.commands[1][-4:] == ["--output_dir", "out", "--seed", "1"]
    assert second.commands == [["egup", "demo", "--output_dir", "out"]]
    assert (third.is_python, third.text, third.line) == (True, "x = 1\n", 14)
