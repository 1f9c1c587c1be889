"""System prompts and variables of chat templates: what is written, whose value is taken, and what is refused."""

import copy
import inspect
import json

import pytest
from transformers import PreTrainedTokenizerBase

from egup_trainer.data.rendering import RESERVED, Renderer, Template
from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.data.template_inputs import TemplateInputs, choose_inputs, parse_template_kwargs
from egup_trainer.data.tokenization import tokenize
from egup_trainer.errors import ConfigError, ModelError

TURNS = (
    "{% if mood is defined %}[{{ mood }}]{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ROW = Row((Message("user", "Who?"),), "Ada.")
OWN = Row((Message("system", "Be brief."), Message("user", "Who?")), "Ada.")
BRIEF, MOOD = "<system>Be kind.<eos>", {"mood": "calm"}


@pytest.fixture
def chat(tokenizer):
    """The tokenizer with that chat template."""
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = TURNS
    return chatty


@pytest.fixture
def written(chat):
    """written(row, template, chat_template): the row's text and its answer."""

    def write(row, template, chat_template=TURNS):
        chat.chat_template = chat_template
        with Renderer(chat, template) as renderer:
            found = renderer.row(row)
        return found.text, found.text[found.start : found.end]

    return write


@pytest.fixture
def refused():
    """refused(error class, function, ...): the error."""

    def catch(error, function, *args, **kwargs):
        with pytest.raises(error) as caught:
            function(*args, **kwargs)
        return caught.value

    return catch


def test_a_template_writes_the_system_prompt_and_its_variables(written):
    plain = "<user>Who?<eos><assistant>Ada.<eos>"
    for template, text in (
        (Template(), plain),
        (Template(system_prompt=""), plain),
        (Template(system_prompt="Be kind."), BRIEF + plain),
        (Template(kwargs=MOOD), f"[calm]{plain}"),
        (Template(system_prompt="Be kind.", kwargs=MOOD), f"[calm]{BRIEF}{plain}"),
    ):
        assert written(ROW, template) == (text, "Ada.")


def test_a_rows_own_system_turn_wins(written):
    kept = ("<system>Be brief.<eos><user>Who?<eos><assistant>Ada.<eos>", "Ada.")
    assert written(OWN, Template(system_prompt="Be kind.")) == kept
    assert written(Row((), "Ada."), Template(system_prompt="Be kind.")) == ("Ada.", "Ada.")  # a plain text


def test_markers_write_the_system_prompt_on_a_line_of_its_own(written):
    text, answer = written(ROW, Template("Q: ", " A: ", system_prompt="Be kind."), chat_template=None)
    assert (text, answer) == ("Be kind.\nQ: Who? A: Ada.", "Ada.")


def test_given_markers_win_over_a_chat_template(written):
    assert written(ROW, Template.marked(None, None, None))[0] == "<user>Who?<eos><assistant>Ada.<eos>"
    assert written(ROW, Template.marked("Q: ", None, None)) == ("Q: Who?\nAnswer: Ada.", "Ada.")
    assert written(ROW, Template.marked("", "", None)) == ("Who?Ada.", "Ada.")


@pytest.mark.parametrize("template", [Template(), Template("Q: ", "A: ", system_prompt="Be kind.", always=True)])
def test_a_prompt_that_is_written_out_gets_no_template_no_markers_and_no_system_turn(written, template):
    row = Row((Message(WRITTEN, "Ada was born in"),), " Aren.")
    for chat_template in (TURNS, None):
        assert written(row, template, chat_template) == ("Ada was born in Aren.", " Aren.")


def test_an_answer_that_is_written_out_ends_with_one_end_of_sequence(chat, tokenizer):
    for prompt, answer in (("Where does Ada live?", " In Aren."), ("<user>Who?<eos><assistant>", "Ada.<eos>")):
        [row] = tokenize([Row((Message(WRITTEN, prompt),), answer)], chat, name="row").rows
        text = prompt + answer.removesuffix("<eos>") + "<eos>"
        assert row.input_ids.tolist() == tokenizer(text)["input_ids"]
        assert tokenizer.decode(row.labels[row.is_scored]).lstrip() == answer.removesuffix("<eos>").lstrip() + "<eos>"


def test_variables_do_not_replace_what_the_caller_sets(chat):
    with Renderer(chat, Template(kwargs=MOOD)) as renderer:
        turns = [{"role": "user", "content": "Who?"}]
        assert renderer.chat(turns, add_generation_prompt=True) == "[calm]<user>Who?<eos><assistant>"
        assert renderer.chat(turns, mood="cross") == "[cross]<user>Who?<eos>"


def test_only_the_answer_is_scored_after_a_system_prompt(chat, tokenizer):
    without, with_prompt = (
        tokenize([ROW], chat, name="row", template=template).rows[0]
        for template in (Template(), Template(system_prompt="Be kind.", kwargs=MOOD))
    )
    assert with_prompt.labels[with_prompt.is_scored].tolist() == without.labels[without.is_scored].tolist()
    assert tokenizer.decode(with_prompt.input_ids) == tokenizer.decode(
        tokenizer(f"[calm]{BRIEF}<user>Who?<eos><assistant>Ada.<eos>", add_special_tokens=False)["input_ids"]
    )


def test_a_template_that_drops_system_turns_is_refused(written, refused):
    dropping = TURNS.replace("messages %}", "messages if m.role != 'system' %}")
    error = refused(ModelError, written, ROW, Template(system_prompt="Be kind."), dropping)
    assert error.got == "system_prompt for a chat template that leaves out system turns"
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}" + TURNS
    error = refused(ModelError, written, ROW, Template(system_prompt="Be kind."), refusing)
    assert str(error) == (
        "Got system_prompt for a chat template that refuses system turns, but expected a template that writes them. "
        "Leave out --system_prompt, or put its text into the questions."
    )
    assert written(OWN, Template(system_prompt="Be kind."), dropping)[1] == "Ada."  # the row's own is the row's matter


@pytest.mark.parametrize("wrong", ["{mood: calm}", "{'mood': 'calm'}", "[1]", "calm", "1", "", "{", ["mood"], {1: 2}])
def test_keyword_arguments_that_are_no_json_are_refused(refused, wrong):
    error = refused(ConfigError, parse_template_kwargs, wrong)
    assert error.got == f"template_kwargs={wrong}"
    assert "double quotes" in error.expected
    assert "--template_kwargs '" in error.fix


def test_keyword_arguments_are_read_from_json_and_from_mappings():
    assert parse_template_kwargs('{"a": false, "b": ["c"]}') == {"a": False, "b": ["c"]}
    assert parse_template_kwargs({"a": None}) == {"a": None}
    assert (parse_template_kwargs(None), parse_template_kwargs("{}")) == (None, {})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_that_are_not_the_templates_are_refused(refused, name):
    for error in (
        refused(ConfigError, parse_template_kwargs, json.dumps({name: 1})),
        refused(ConfigError, Template, kwargs={name: 1}),
    ):
        assert error.got == f"template_kwargs with {name}, an argument of apply_chat_template itself"


def test_all_arguments_of_transformers_are_known():
    arguments = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    assert arguments - {"self", "kwargs", "tools", "documents"} <= RESERVED


# Which value is taken


def test_what_is_given_wins_then_results_then_the_record(chat):
    results, record = TemplateInputs(None, "R", {"mood": "r"}), TemplateInputs(None, "M", {"mood": "m"})
    for given, recorded, expected in (
        (TemplateInputs(), [], (None, None)),
        (TemplateInputs(), [record], ("M", {"mood": "m"})),
        (TemplateInputs(), [results, record], ("R", {"mood": "r"})),
        (TemplateInputs(), [TemplateInputs(), record], ("M", {"mood": "m"})),
        (TemplateInputs(None, "G"), [results, record], ("G", {"mood": "r"})),
        (TemplateInputs(None, "", {}), [results, record], ("", {})),  # none, also where it is asked for again
    ):
        found = choose_inputs(chat, given, recorded)
        assert (found.system_prompt, found.template_kwargs) == expected


def test_a_variable_that_the_template_does_not_read_is_refused_only_if_it_is_given(chat, tokenizer, refused):
    error = refused(ConfigError, choose_inputs, chat, TemplateInputs(None, None, {"moods": "calm"}))
    assert error.got == "template_kwargs with moods, which the tokenizer's chat template does not read"
    assert error.fix == "did you mean mood?"
    error = refused(ConfigError, choose_inputs, tokenizer, TemplateInputs(None, None, MOOD))
    assert error.expected == "a tokenizer with a chat template"
    other_family = TemplateInputs(None, "Be kind.", {"enable_thinking": False})
    assert choose_inputs(tokenizer, TemplateInputs(), [other_family]) == TemplateInputs(None, "Be kind.", None)


def test_the_inputs_are_found_among_options_and_keys():
    assert TemplateInputs.of({"system_prompt": "S", "other": 1}) == TemplateInputs(None, "S", None)
    assert TemplateInputs.of(TemplateInputs("2026-01-02", "S", MOOD)) == TemplateInputs("2026-01-02", "S", MOOD)
    template = TemplateInputs("2026-01-02", "S", MOOD).apply(Template(user="Q: "))
    assert (template.user, template.date, template.system_prompt, template.kwargs) == ("Q: ", "2026-01-02", "S", MOOD)
    assert TemplateInputs().apply(Template(date="2026-01-02")) == Template(date="2026-01-02")
