"""Chat templates that never end, or fill memory, are stopped; sound ones give what transformers' own call gives."""

import copy
import os
import threading
import time

import pytest
from jinja2 import TemplateError

from egup_trainer.data import rendering as module
from egup_trainer.data.rendering import render_chat, rendering
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
    return {int(pid) for pid in os.listdir("/proc") if pid.isdigit() and is_child(pid)}


def is_child(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:
        return False


def test_a_sound_template_is_rendered_as_transformers_does(tokenizer):
    chatty = with_template(tokenizer, SOUND)
    before = children()
    with rendering(chatty):
        for options in ({}, {"add_generation_prompt": True}, {"chat_template": "{{ messages[0].content }}"}):
            expected = chatty.apply_chat_template(TURNS, tokenize=False, **options)
            assert render_chat(chatty, TURNS, **options) == expected
        assert len(children() - before) == 1  # one process for all
    assert children() == before


TOO_MUCH = {
    "never ends": (LOOP, "does not end within 1 seconds of computing"),
    "ends for no power": ("{{ 7 ** (9 ** (9 ** 9)) }}", "does not end within 1 seconds of computing"),
    "one call that fills memory": ("{{ 'x' * 10**10 }}", "takes more than 1.1 GB of memory"),
    "format that fills memory": ("{{ '%99999999999d' % 1 }}", "takes more than 1.1 GB of memory"),
    "doubles": (
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "takes more than 1.1 GB of memory",
    ),
    "long": ("{{ 'x' * 2000000 }}", r"writes 2,000,\d{3} characters for one row"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_template_beyond_its_limits_is_refused(tokenizer, monkeypatch, name):
    template, says = TOO_MUCH[name]
    monkeypatch.setattr(module, "MOST_SECONDS", 1)
    before = children()
    for written in (template, "{% if messages[0].content == 'Who else?' %}" + template + "{% endif %}" + SOUND):
        with pytest.raises(ModelError, match=rf"^got a chat template that {says}; expected one that writes the turns"):
            tokenize(ROWS, with_template(tokenizer, written), name="forget set")
    assert children() == before


def test_limits_hold_in_a_thread_too(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "MOST_SECONDS", 1)
    found = []

    def run():
        try:
            render_chat(with_template(tokenizer, LOOP), TURNS)
        except ModelError as error:
            found.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert render_chat(with_template(tokenizer, SOUND), TURNS).startswith("<user>Who?")
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
    with pytest.raises(TemplateError):
        render_chat(with_template(tokenizer, template), TURNS)
    with pytest.raises(DataError, match=r"^got row 0 of the forget set, which the chat template refuses; "):
        tokenize(ROWS, with_template(tokenizer, template), name="forget set")


def test_rendering_apart_costs_little(tokenizer):
    chatty = with_template(tokenizer, SOUND)
    with rendering(chatty):
        render_chat(chatty, TURNS)
        start = time.perf_counter()
        for _ in range(200):
            render_chat(chatty, TURNS)
    assert (time.perf_counter() - start) / 200 < 0.01
