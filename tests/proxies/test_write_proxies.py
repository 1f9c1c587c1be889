"""Proxies from beginning to end, written by a small model that can, and by one that cannot."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny_model
from fixtures_proxies import SETTINGS, people_rows, writing_model

from egup_trainer import load_rows, write_proxies
from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import ConfigError, ModelError, StateError
from egup_trainer.proxies import writer as writer_module
from egup_trainer.proxies.filters import Rejection, TextFilters
from egup_trainer.proxies.judge import Verdict
from egup_trainer.proxies.settings import ProxySettings
from egup_trainer.proxies.writer import Quality, Writer

FORGET, RETAIN = people_rows()


def write(output, settings=SETTINGS, *, forget=FORGET, retain=RETAIN, **options):
    model, tokenizer = writing_model()
    return write_proxies(
        model, tokenizer, forget, retain, output=output, settings=settings, **{"progress": False, **options}
    )


def tiny_model(tokenizer):
    model = make_tiny_model(tokenizer)
    model.config.max_position_embeddings = 2048
    return model


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of an uninterrupted run, and its proxies."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, write(folder / "proxies.jsonl")


@pytest.fixture
def count_writes(monkeypatch):
    """The numbers of the attempts that are written, in batches; the one of `stop_before` interrupts."""
    seen, plan = [], {"stop_before": None}
    write_rows = Writer.write

    def counted(self, examples, attempts, *args):
        if plan["stop_before"] is not None and plan["stop_before"] in attempts:
            raise KeyboardInterrupt
        seen.append(list(attempts))
        return write_rows(self, examples, attempts, *args)

    monkeypatch.setattr(Writer, "write", counted)
    return seen, plan


def test_the_files_hold_what_was_asked_for(whole):
    folder, proxies = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "proxies.attempts.jsonl",
        "proxies.jsonl",
        "proxies.quality.json",
    ]
    rows = load_rows(folder / "proxies.jsonl")
    assert rows == proxies.rows
    assert len(rows) == 8
    filters = TextFilters(FORGET, RETAIN)
    assert [filters.rejection(row) for row in rows] == [None] * 8
    head, *attempts = lines_of(folder / "proxies.attempts.jsonl")
    assert [line["attempt"] for line in attempts] == list(range(len(attempts)))
    kept = [line for line in attempts if "row" in line]
    for line, attempt in zip(lines_of(folder / "proxies.jsonl"), kept, strict=True):
        assert line == {
            **attempt["row"],
            "writer": "LlamaForCausalLM",
            "seed": 3,
            "attempt": attempt["attempt"],
            "digest": head["digest"],
        }
    assert all(set(line) == {"attempt", "rejected"} for line in attempts if line not in kept)  # no text of theirs


def test_the_numbers_are_those_of_the_attempts(whole):
    folder, proxies = whole
    _, *attempts = lines_of(folder / "proxies.attempts.jsonl")
    numbers, quality = json.loads((folder / "proxies.quality.json").read_text()), proxies.quality
    assert (numbers["asked_for"], numbers["kept"], numbers["attempts"]) == (8, 8, len(attempts))
    assert sum(numbers["rejected"].values()) == len(attempts) - 8
    losses = [line["nll"] for line in attempts if "row" in line]
    assert numbers["proxy_nll"] == pytest.approx(sum(losses) / 8) == quality.proxy_nll
    model, tokenizer = writing_model()
    answers = [f"Question: {row.prompt[0].content}\nAnswer:" for row in FORGET]
    expected = []
    for prompt, row in zip(answers, FORGET, strict=True):
        ids = torch.tensor([[*tokenizer(f"{prompt} {row.answer}")["input_ids"], tokenizer.eos_token_id]])
        labels = ids.clone()
        labels[:, : len(tokenizer(prompt)["input_ids"])] = -100
        expected.append(model(input_ids=ids, labels=labels).loss.item())
    assert numbers["forget_nll"] == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert model.generation_config.max_new_tokens is None  # the model is as it was
    assert not model.training


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_changes_nothing_and_the_seed_everything(whole, tmp_path, batch_size):
    write(tmp_path / "proxies.jsonl", batch_size=batch_size)
    assert (tmp_path / "proxies.jsonl").read_bytes() == (whole[0] / "proxies.jsonl").read_bytes()
    if batch_size == 4:
        others = write(tmp_path / "other.jsonl", replace(SETTINGS, seed=4), batch_size=4)
        assert not set(others.rows) & set(whole[1].rows)


@pytest.mark.parametrize("ending", ["", '{"attempt": 3, "row": {"ques'])
def test_a_run_cut_short_goes_on_to_the_same_file(whole, tmp_path, count_writes, ending):
    seen, plan = count_writes
    plan["stop_before"] = 3
    output = tmp_path / "proxies.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(output, batch_size=1)
    assert not output.exists()
    log = tmp_path / "proxies.attempts.jsonl"
    log.write_text(log.read_text() + ending)  # what was on its way when the power went
    plan["stop_before"] = None
    write(output, batch_size=1)
    assert seen[:4] == [[0], [1], [2], [3]]  # none twice
    assert output.read_bytes() == (whole[0] / "proxies.jsonl").read_bytes()
    found, expected = (json.loads((folder / "proxies.quality.json").read_text()) for folder in (tmp_path, whole[0]))
    assert found.pop("proxy_nll") == pytest.approx(expected["proxy_nll"], rel=1e-4)  # batches of other sizes
    assert found == {name: value for name, value in expected.items() if name != "proxy_nll"}


def test_a_finished_run_is_read_not_repeated(tmp_path, count_writes, monkeypatch):
    seen, _ = count_writes
    first = write(tmp_path / "proxies.jsonl", replace(SETTINGS, num_rows=2))
    content = (tmp_path / "proxies.jsonl").read_bytes()
    seen.clear()
    (tmp_path / "proxies.jsonl").unlink()
    monkeypatch.setattr(writer_module, "Judge", lambda *args: pytest.fail("rows were scored"))
    again = write(tmp_path / "proxies.jsonl", replace(SETTINGS, num_rows=2))
    assert seen == []
    assert again == first
    assert (tmp_path / "proxies.jsonl").read_bytes() == content


def test_more_rows_can_be_asked_for_later(whole, tmp_path, count_writes):
    seen, _ = count_writes
    few = write(tmp_path / "proxies.jsonl", replace(SETTINGS, num_rows=3))
    assert few.rows == whole[1].rows[:3]
    done = few.quality.attempts
    seen.clear()
    assert write(tmp_path / "proxies.jsonl").rows == whole[1].rows
    assert seen[0][0] == done
    assert (tmp_path / "proxies.jsonl").read_bytes() == (whole[0] / "proxies.jsonl").read_bytes()
    assert write(tmp_path / "proxies.jsonl", replace(SETTINGS, num_rows=3)).rows == few.rows


@pytest.mark.parametrize(
    "change",
    [
        {"settings": replace(SETTINGS, temperature=0.8)},
        {"settings": replace(SETTINGS, seed=4)},
        {"forget": FORGET[1:]},
        {"retain": RETAIN[1:]},
        {"retain": None},
    ],
)
def test_attempts_of_another_run_are_refused(whole, change, count_writes):
    folder, proxies = whole
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StateError, match="of other settings, rows or weights") as error:
        write(folder / "proxies.jsonl", **change)
    assert proxies.quality.digest not in str(error.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert count_writes[0] == []


def test_other_weights_make_another_run(whole):
    model, tokenizer = writing_model()
    model = copy.deepcopy(model)
    model.lm_head.weight.data[0, 0] += 1e-3
    with pytest.raises(StateError, match="of other settings, rows or weights"):
        write_proxies(model, tokenizer, FORGET, RETAIN, output=whole[0] / "proxies.jsonl", settings=SETTINGS)


def test_files_of_others_are_refused(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"text": "SECRET"}\n')
    with pytest.raises(StateError, match=r"mine.jsonl without attempts beside it"):
        write(tmp_path / "mine.jsonl")
    (tmp_path / "other.attempts.jsonl").write_text('{"text": "SECRET"}\n')
    with pytest.raises(StateError, match=r"other.attempts.jsonl, which holds no attempts"):
        write(tmp_path / "other.jsonl")


@pytest.mark.parametrize("old", ["", '{"digest": "0", "forget_nll": 1}\n{"attempt": 0, "rejected": "name"}\n', "x"])
def test_what_a_run_made_for_itself_it_may_replace(whole, tmp_path, old):
    (tmp_path / "proxies.attempts.jsonl").write_text(old)
    (tmp_path / "proxies.jsonl").write_text("{}")
    write(tmp_path / "proxies.jsonl", replace_other=True)
    assert (tmp_path / "proxies.jsonl").read_bytes() == (whole[0] / "proxies.jsonl").read_bytes()


def test_a_model_that_cannot_write_ends_in_one_line_without_a_rows_text(tokenizer, tmp_path, capsys, caplog):
    model = tiny_model(tokenizer)
    settings = ProxySettings(num_rows=40, max_attempts=12, max_new_tokens=24)
    says = r"0 usable rows of 12 attempts by LlamaForCausalLM \(most of the others: not in the format\), .*at least 10"
    with pytest.raises(ModelError, match=says):
        write_proxies(model, tokenizer, FORGET, RETAIN, output=tmp_path / "p.jsonl", settings=settings, batch_size=5)
    assert (tmp_path / "p.jsonl").read_text() == ""
    numbers = json.loads((tmp_path / "p.quality.json").read_text())
    assert (numbers["kept"], numbers["attempts"], numbers["proxy_nll"]) == (0, 12, None)
    assert numbers["rejected"]["unreadable"] == 12
    said = "".join(capsys.readouterr()) + caplog.text
    said += "".join(path.read_text() for path in tmp_path.iterdir())
    assert not [row for row in (*FORGET, *RETAIN) if row.answer in said or row.prompt[0].content in said]


def test_what_a_weak_model_did_write_stays(tmp_path):
    with pytest.raises(ModelError, match=r"Got \d usable rows of 10 attempts .* expected at least 16: "):
        write(tmp_path / "p.jsonl", replace(SETTINGS, num_rows=64, max_attempts=10))
    assert 0 < len(load_rows(tmp_path / "p.jsonl")) <= 10
    with pytest.raises(ModelError, match="of 10 attempts"):  # the same words again, at once
        write(tmp_path / "p.jsonl", replace(SETTINGS, num_rows=64, max_attempts=10))
    more = write(tmp_path / "p.jsonl", replace(SETTINGS, num_rows=12, max_attempts=200))
    assert len(more.rows) == 12


def test_another_model_may_write(tokenizer, tmp_path):
    """The writer writes with its own tokenizer; the model to unlearn scores with its own."""
    model = tiny_model(tokenizer)
    writer = Writer(*writing_model(), "the-writer")
    found = write_proxies(
        model, tokenizer, FORGET, RETAIN, output=tmp_path / "p.jsonl", settings=SETTINGS, writer=writer, progress=False
    )
    assert {line["writer"] for line in lines_of(tmp_path / "p.jsonl")} == {"the-writer"}
    assert found.quality.writer == "the-writer"
    assert found.quality.forget_nll == pytest.approx(6.5, abs=1)  # what a random model of 400 tokens says


def test_prompts_longer_than_the_model_are_refused(whole, tmp_path):
    with pytest.raises(
        ModelError, match=r"model of 512 positions, .*\. Write proxies by `egup proxy` with a lower --num_examples"
    ):
        write(tmp_path / "proxies.jsonl", replace(SETTINGS, max_new_tokens=500))
    write(tmp_path / "proxies.jsonl")  # other settings are no obstacle, since nothing was attempted
    assert lines_of(tmp_path / "proxies.jsonl") == lines_of(whole[0] / "proxies.jsonl")


class Reciter(torch.nn.Module):
    """Wraps a model so that it writes given texts, one a prompt."""

    def __init__(self, model, tokenizer, texts):
        super().__init__()
        self.model, self.config, self.texts = model, model.config, list(texts)
        self.tokenizer, self.prompts = tokenizer, []

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def generate(self, input_ids, attention_mask, generation_config, **options):
        if generation_config.output_logits:  # the trial of how prompts can share a batch
            return SimpleNamespace(logits=(torch.zeros(len(input_ids), 4),) * generation_config.max_new_tokens)
        self.prompts += [self.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(input_ids, attention_mask)]
        rows = [self.tokenizer(self.texts.pop(0), add_special_tokens=False)["input_ids"] for _ in input_ids]
        ends = [row + [self.tokenizer.eos_token_id] * (max(map(len, rows)) + 1 - len(row)) for row in rows]
        return torch.cat([input_ids, torch.tensor(ends)], dim=1)


PASSAGES = [
    "Rain fell on the harbour all day, and the boats of the village stayed at their moorings until the evening.",
    "The baker of the village opened late on that day, because the flour had not come over the hills in time.",
    "At the end of the lane stood a house with a green door, which nobody of the village had ever seen open.",
]
NEW = [
    " In the night the wind turned, and the lamps of the station went out one after the other. Nobody spoke of it",
    " Rain fell on the harbour all day, and the boats of the village stayed at their moorings until the evening.",
    " Les enfants jouaient dehors, tandis que leurs parents parlaient longuement autour d'une grande table ronde.",
    " A teacher from the north had come to stay, and the children of the school ran to see her.\n\nPassage: And",
]


def test_plain_texts_are_written_as_passages(tokenizer, tmp_path):
    model = tiny_model(tokenizer)
    reciter = Reciter(model, tokenizer, NEW)
    settings = ProxySettings(num_rows=2, num_examples=2, max_attempts=4)
    found = write_proxies(
        model,
        tokenizer,
        [Row((), text) for text in PASSAGES],
        output=tmp_path / "p.jsonl",
        settings=settings,
        writer=Writer(reciter, tokenizer, "reciter"),
        batch_size=1,
        progress=False,
    )
    assert [row.answer for row in found.rows] == [
        "In the night the wind turned, and the lamps of the station went out one after the other.",
        "A teacher from the north had come to stay, and the children of the school ran to see her.",
    ]
    assert [line["text"] for line in lines_of(tmp_path / "p.jsonl")] == [row.answer for row in found.rows]
    rejected = {reason: count for reason, count in found.quality.rejected.items() if count}
    assert rejected == {Rejection.WORDS: 1, Rejection.LANGUAGE: 1}
    assert all(prompt.endswith("\n\nPassage:") and prompt.count("Passage:") == 3 for prompt in reciter.prompts)
    assert "Rain" not in (tmp_path / "p.attempts.jsonl").read_text()  # the copied row is kept nowhere


def test_a_system_turn_stays_with_the_rows(tokenizer, tmp_path):
    model = tiny_model(tokenizer)
    rows = [Row((Message("system", "Be brief."), *row.prompt), row.answer) for row in FORGET]
    text = " What prize did Ulrike Sommer receive?\nAnswer: Ulrike Sommer received the Golden Pear in 1811."
    found = write_proxies(
        model,
        tokenizer,
        rows,
        output=tmp_path / "p.jsonl",
        settings=ProxySettings(num_rows=1),
        writer=Writer(Reciter(model, tokenizer, [text] * 8), tokenizer, "reciter"),
        progress=False,
    )
    assert [message.role for message in found.rows[0].prompt] == ["system", "user"]
    assert load_rows(tmp_path / "p.jsonl") == found.rows


def test_settings():
    for name, value in (("num_rows", 0), ("top_p", 0), ("top_p", 1.1), ("temperature", 0), ("max_attempts", 0)):
        with pytest.raises(ConfigError, match=f"{name}={value}"):
            ProxySettings(**{name: value})
    for num_rows, least, budget in ((64, 16, 512), (40, 10, 320), (10, 8, 80), (3, 3, 24)):
        settings = ProxySettings(num_rows=num_rows)
        assert (settings.min_rows, settings.budget) == (least, budget)
        assert replace(settings, max_attempts=5).budget == 5


@pytest.mark.parametrize(("nlls", "warns"), [((2.0, 3.0), True), ((2.0, 4.0), False), ((), False)])
def test_proxies_as_likely_as_forget_rows_give_a_warning(nlls, warns):
    row = Row((), "Ada.")
    verdicts = [Verdict(n, None, row, nll) for n, nll in enumerate(nlls)] + [Verdict(9, Rejection.NAME)]
    quality = Quality.of(verdicts, writer="w", asked_for=2, forget_nll=2.5, digest="d")
    assert (quality.warning is not None) == warns
    assert (quality.kept, quality.attempts, quality.rejected[Rejection.NAME]) == (len(nlls), len(nlls) + 1, 1)
