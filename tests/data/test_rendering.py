"""Chat templates that never end, or fill memory, are stopped; the others give the same as transformers' own call."""

import copy
import os
import threading
import time
from pathlib import Path

import pytest
from jinja2 import TemplateError

from egup_trainer.data import rendering as module
from egup_trainer.data.rendering import Renderer
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.errors import DataError, ModelError

TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
SOUND = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
LOOP = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
ROWS = load_rows([{"question": "Who?", "answer": "Ada."}, {"question": "Who else?", "answer": "Bo."}])


def with_template(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def children():
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {child for path in lists for child in path.read_text().split()}


def test_a_template_is_rendered_as_transformers_does_in_one_process(tokenizer):
    chatty = with_template(tokenizer, SOUND)
    before = children()
    with Renderer(chatty) as renderer:
        for options in ({}, {"add_generation_prompt": True}, {"chat_template": "{{ messages[0].content }}"}):
            assert renderer.chat(TURNS, **options) == chatty.apply_chat_template(TURNS, tokenize=False, **options)
        assert len(children() - before) == 1
        start = time.perf_counter()
        for _ in range(200):
            renderer.chat(TURNS)
        assert (time.perf_counter() - start) / 200 < 0.01
    assert children() == before


MEMORY = "takes more than 1.1 GB of memory"
TOO_MUCH = {
    "endless loop": (LOOP, "does not end within 1 seconds of computing"),
    "endless power": ("{{ 7 ** (9 ** (9 ** 9)) }}", "does not end within 1 seconds of computing"),
    "one call that fills memory": ("{{ 'x' * 10**10 }}", MEMORY),
    "format that fills memory": ("{{ '%99999999999d' % 1 }}", MEMORY),
    "doubling": (
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        MEMORY,
    ),
    "long": ("{{ 'x' * 2000000 }}", r"writes 2,000,\d{3} characters for one row"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "endless power" else []) for name in TOO_MUCH]
)
def test_a_template_beyond_its_limits_is_refused(tokenizer, monkeypatch, name):
    template, says = TOO_MUCH[name]
    if "seconds" in says:  # the others have time to reach their own limit, on a busy machine, too
        monkeypatch.setattr(module, "MAX_SECONDS", 1)
    before = children()
    for written in (template, "{% if messages[0].content == 'Who else?' %}" + template + "{% endif %}" + SOUND):
        with pytest.raises(ModelError, match=says):
            tokenize(ROWS, with_template(tokenizer, written), name="forget set")
    assert children() == before


PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}{{ eos_token }}{% endfor %}"
)


def test_a_template_that_reads_parts_alone_is_given_parts(tokenizer):
    row, texts = Row((Message("system", "S"), Message("user", "Who?")), "Ada"), []
    for template in (SOUND, PARTS):
        with Renderer(with_template(tokenizer, template)) as renderer:
            texts.append((renderer.row(row), renderer.chat(TURNS)))
    assert texts[0] == texts[1]


def test_named_templates_need_a_default(tokenizer):
    named = copy.deepcopy(tokenizer)
    named.chat_template = {"chat": "{{ messages[0].content }}", "tool_use": "{{ tools }}"}
    with Renderer(named) as renderer, pytest.raises(ModelError) as caught:
        renderer.row(Row((Message("user", "Who?"),), "Ada"))
    assert caught.value.got == "a tokenizer with the chat templates chat, tool_use, and none that is the default"
    named.chat_template["default"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with Renderer(named) as renderer:
        assert renderer.row(Row((Message("user", "Who?"),), "Ada")).text == "Who?Ada"


def test_limits_hold_in_a_thread_too(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "MAX_SECONDS", 1)
    found = []

    def run():
        try:
            with Renderer(with_template(tokenizer, LOOP)) as renderer:
                renderer.chat(TURNS)
        except ModelError as error:
            found.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    with Renderer(with_template(tokenizer, SOUND)) as renderer:
        assert renderer.chat(TURNS).startswith("<user>Who?")
    thread.join(60)
    assert "does not end" in found[0]


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ messages.nothing.more }}",
        "{{ 'a' + 1 }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% for %}",
    ],
)
def test_a_template_that_fails_names_the_row(tokenizer, template):
    with Renderer(with_template(tokenizer, template)) as renderer, pytest.raises(TemplateError):
        renderer.chat(TURNS)
    with pytest.raises(DataError, match="row 0 of the forget set, which the chat template refuses"):
        tokenize(ROWS, with_template(tokenizer, template), name="forget set")
