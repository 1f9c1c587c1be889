"""`egup chat BEFORE AFTER`: the answers of both models to the same question, and when it ends."""

import io

import pytest
from conftest import qa_rows
from fixtures_audit import taught
from fixtures_cli import assert_refused, egup, save
from fixtures_evaluation import chat_tokenizer, lively_model, plain_tokens, question

from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
FORGET = [question(row["question"], row["answer"]) for row in qa_rows(0, 8)]
FLAGS = {"use_cpu": True, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def models(tokenizer):
    """A model that knows the rows, and another one."""
    return {"before": taught(tokenizer, FORGET), "after": lively_model(tokenizer)}


@pytest.fixture(scope="module")
def folders(models, tokenizer, tmp_path_factory):
    below = tmp_path_factory.mktemp("models")
    return [save(model, tokenizer, below / name) for name, model in models.items()]


@pytest.fixture
def expected(models, tokenizer):
    """What an evaluation has each model write, by the index of the row."""

    def written(model):
        rows = [RowSet("forget", FORGET, generation=Generation(12))]
        samples = score_sets(model, tokenizer, rows, ScoringOptions(progress=False))["forget"].samples
        return [row.generation for row in samples.values()]

    return {name: written(model) for name, model in models.items()}


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")


def cells(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]


def test_a_question_is_answered_once_by_both_as_in_an_evaluation(folders, expected, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("never read\n"))
    asked = FORGET[2].prompt[0].content
    assert egup("chat", *folders, **FLAGS, question=asked) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].strip() == asked
    assert [str(folder) in printed for folder in folders] == [True, True]
    assert cells(printed) == [[expected["before"][2], expected["after"][2]]]
    assert expected["before"][2] == FORGET[2].answer != expected["after"][2]


@pytest.mark.parametrize(
    ("given", "answered"), [("{0}\n{1}\n", [0, 1]), ("{1}\n\n{0}\n", [1]), ("  {0}  \n   \n{1}\n", [0]), ("", [])]
)
def test_questions_are_read_up_to_the_end_or_an_empty_line(folders, expected, capsys, monkeypatch, given, answered):
    monkeypatch.setattr("sys.stdin", io.StringIO(given.format(*(row.prompt[0].content for row in FORGET))))
    assert egup("chat", *folders, **FLAGS) == 0
    printed = capsys.readouterr().out
    assert cells(printed) == [[expected["before"][index], expected["after"][index]] for index in answered]
    assert "Question" not in printed  # which is for whoever types


def test_who_types_is_asked(folders, capsys, monkeypatch):
    stdin = io.StringIO("\n")
    stdin.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", stdin)
    assert egup("chat", *folders, **FLAGS) == 0
    assert capsys.readouterr().out == "Question (an empty line ends): "


def test_markers_are_those_of_the_flags(folders, models, tokenizer, capsys):
    """Other markers make other prompts, so that a model that learned its rows with the usual ones writes otherwise."""
    asked = FORGET[2].prompt[0].content
    assert egup("chat", *folders, **FLAGS, question=asked, user_marker="", assistant_marker=" ") == 0
    ids = tokenizer(asked).input_ids
    written = plain_tokens(models["after"], ids, 12, ends=(tokenizer.eos_token_id,))
    assert cells(capsys.readouterr().out)[0][1] == tokenizer.decode(written, skip_special_tokens=True).strip()


def test_both_are_asked_as_the_run_asked(models, tokenizer, tmp_path, monkeypatch):
    """The model before has no record, and would be asked without the system prompt."""
    asked = []

    def generate(model, tokenizer, prompts, **kwargs):
        asked.append(tokenizer.decode(prompts[0]))
        return ["An answer."]

    monkeypatch.setattr("egup_trainer.modeling.generation.generate", generate)
    folders = [save(models["after"], chat_tokenizer(tokenizer), tmp_path / name) for name in ("a", "b")]
    options = {str(folders[1]): {"system_prompt": "Be brief."}}
    monkeypatch.setattr("egup_trainer.records.io.recorded_options", lambda folder: options.get(str(folder), {}))
    assert egup("chat", *folders, **FLAGS, question="Where does Ada live?") == 0
    assert asked[0] == asked[1]
    assert "Be brief." in asked[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "the following arguments are required: AFTER"),
        (["a", "b", "--question", " "], "an empty --question"),
        (["a", "b", "--max_new_tokens", "0"], "max_new_tokens=0"),
        (["a", "b", "--model_name_or_path", "m"], "--model_name_or_path; the two models after the command's name"),
        (["a", "b", "--lora_r", "3"], "--lora_r"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, capsys, words, message):
    assert_refused(["chat", *words], tmp_path, capsys, message)
