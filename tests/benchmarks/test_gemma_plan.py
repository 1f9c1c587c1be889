"""The comparison on Gemma, with a tiny model in its place: stops, goes on, skips what is done, sums up."""

import json
import sys
from math import inf

import pytest
import torch
from conftest import SHARED, qa_rows

from benchmarks.gemma import plan, pretrained, work
from benchmarks.gemma.__main__ import main
from benchmarks.gemma.plan import METHODS, MODELS, Size, record_line
from benchmarks.gemma.setups import SETUPS, Setup, full_rows, small_rows, small_suite
from benchmarks.gemma.summary import summary, table
from benchmarks.gemma.training import last_checkpoint, train_until
from benchmarks.gemma.work import Place, pieces_of
from benchmarks.runner import open_pieces
from benchmarks.study.plan import Record
from benchmarks.study.summary import GAP_METRICS
from benchmarks.study.world import Rows
from egup_trainer.data.layouts import to_row
from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.loading import load_model

ALL_PARTS = "npo+egup+clreg"
BEFORE = dict(zip(GAP_METRICS, (0.9, 0.5, 0.5, 1.0, 0.6), strict=True))
RETRAINED = {**dict(zip(GAP_METRICS, (0.1, 0.7, 0.1, 0.6, 0.5), strict=True)), "forget_quality": 1.0}


def judged_rows(start, stop):
    """Rows with a paraphrase and wrong answers."""
    wrong = [row["answer"] for row in qa_rows(100, 103)]
    rows = [{**row, "paraphrased_answer": f"Why, {row['answer']}"} for row in qa_rows(start, stop)]
    return [to_row({**row, "perturbed_answer": wrong}, "rows", 0) for row in rows]


def tiny_rows(seed, data_dir):
    retain = judged_rows(20, 26)
    return Rows(judged_rows(0, 6), retain, judged_rows(40, 44), judged_rows(50, 54), retain[:4])


STEPS = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
"""For the 6 forget rows 4 steps, for all 12 rows 6."""


@pytest.fixture
def place(tmp_path, monkeypatch, make_model, tokenizer):
    """A tiny Gemma that is unpacked already, and an empty folder of results."""
    monkeypatch.setattr(plan, "RESULTS", tmp_path / "results")
    setup = Setup(Size.SMALL, tiny_rows, small_suite, learning=STEPS, unlearning=STEPS)
    monkeypatch.setitem(SETUPS, Size.SMALL, setup)
    place = Place(setup, 0, "unused", tmp_path / "work")
    model = make_model("gemma3")
    model.config.max_position_embeddings = 512  # room for a paraphrase in tiny tokens
    pretrained.save_whole(model, tokenizer, place.start)
    return place


def train_in_parts(make_trainer):
    """Trains with a new trainer for each call, as each run of the command does; steps done after each."""
    seen = []
    for deadline in (0, 0, inf):
        trainer = make_trainer()
        done = train_until(trainer, deadline)
        seen.append((trainer.state.global_step, done))
    return trainer, seen


@pytest.mark.parametrize(
    ("make", "name", "steps"), [(work.make_learner, "before", 6), (work.make_unlearner, ALL_PARTS, 4)]
)
def test_a_run_that_stops_and_goes_on_ends_like_one_that_does_not(place, make, name, steps):
    if name not in MODELS:
        work.train(place, "before", inf)
    parts, seen = train_in_parts(lambda: make(place, name))
    assert seen == [(1, False), (2, False), (steps, True)]
    work.shutil.rmtree(place.checkpoints(name))
    whole = make(place, name)
    assert train_until(whole, inf)
    start = load_model(str(place.start)).state_dict()
    moved = 0
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[key]), key
        moved += not torch.equal(value, start[key])
        if "embed" in key or "lm_head" in key:
            assert torch.equal(value, start[key])
    assert moved > 10


def test_loss_of_a_learner_is_the_models_own(place):
    trainer = work.make_learner(place, "before")
    batch = trainer.data_collator([trainer.train_dataset[place] for place in (0, 1, 5)])
    with torch.no_grad():
        expected = trainer.model(**batch).loss.item()
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_cut_short_does_not_count(tmp_path):
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def left(place):
    return open_pieces(pieces_of(place))


def test_pieces_are_done_once_and_in_order(place, monkeypatch):
    names = (*MODELS, "npo", ALL_PARTS)
    monkeypatch.setattr(work, "METHODS", names[2:])
    titles = [title for name in names for title in (f"Training {name}", f"Evaluating {name}")]
    assert [piece.title for piece in left(place)] == titles
    for number in range(len(titles)):
        pieces = left(place)
        assert [piece.title for piece in pieces] == titles[number:]
        pieces[0].do()
    assert left(place) == []
    assert [path.name for path in (place.folder / "training").iterdir()] == []
    found = {name: Record.read(place.record(name)) for name in names}
    assert found["retrained"].values["forget_quality"] == 1
    assert found["before"].values["entanglement_retain_shift"] is None
    assert found[ALL_PARTS].values["entanglement_retain_shift"] > 0
    assert found[ALL_PARTS].values["fluency_perplexity"] > 0
    assert found[ALL_PARTS].experiment["options"]["npo_beta"] == "auto"
    assert found[ALL_PARTS].experiment["weights_before"] == found["before"].experiment["weights"]
    assert found["before"].experiment["rows"] == {"forget": 6, "retain": 6, "proxy": 4, "holdout": 4, "judged": 4}
    # One method again: its model is there.
    table = place.record("npo").table
    kept = [line for line in table.read_text().splitlines(keepends=True) if '"npo_seed0"' not in line]
    table.write_text("".join(kept))
    assert [piece.title for piece in left(place)] == ["Evaluating npo"]
    # Committed results without the models: nothing to do, and for a missing one all that it is compared with.
    place.work_dir.rename(place.work_dir.with_name("elsewhere"))
    expected = ["Unpacking Gemma 3 270M", *titles[:4], "Training npo", "Evaluating npo"]
    assert [piece.title for piece in left(place)] == expected
    Record({}, {}, {}).write(place.record("npo"))
    assert left(place) == []


def test_the_command_does_one_piece_and_says_how_to_go_on(place, capsys):
    flags = ["--data_dir", "unused", "--work_dir", str(place.work_dir), "--minutes", "0"]
    go_on = "Pieces left: 12: run the same command again to go on"
    for _ in range(3):  # the retrained model's four steps, one a run
        main(flags)
        assert capsys.readouterr().out.splitlines() == ["Training retrained; pieces left: 12", go_on]
    main(flags)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["Training retrained; pieces left: 12", "Pieces left: 11: run the same command again to go on"]
    for name in (*MODELS, *METHODS):
        Record({}, BEFORE, {}).write(place.record(name))
    main(flags)
    assert capsys.readouterr().out == "All results are there\n"


def test_summary_by_hand(place, capsys):
    assert summary(Size.SMALL, 0) == {}
    Record({}, BEFORE, {}).write(record_line(Size.SMALL, "before", 0))
    assert summary(Size.SMALL, 0) == {}
    Record({}, RETRAINED, {}).write(record_line(Size.SMALL, "retrained", 0))
    ours = {**RETRAINED, "forget_probability": 0.3, "model_utility": 0.4, "forget_quality": 0.02}
    Record({}, ours, {}).write(record_line(Size.SMALL, "npo", 0))
    main(["--summary"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["before", "retrained", "npo"]
    assert [found[name]["gap"] for name in found] == pytest.approx([1, 0, 0.25])  # .2 of .8 and .1 of .1, over five
    assert found["npo"]["model_utility_ratio"] == pytest.approx(0.8)
    assert found["npo"]["forget_quality"] == 0.02
    assert found["before"]["forget_quality"] is None
    assert summary(Size.SMALL, 1) == {}
    assert summary(Size.FULL, 0) == {}
    lines = table({name: {**each, "privleak": None} for name, each in found.items()}).splitlines()
    assert lines[0].startswith("| model | gap | forget quality | utility / retrained |")
    assert lines[1] == "|" + " --- |" * lines[0].count(" | ") + " --- |"
    assert "privleak" not in lines[0]
    assert lines[2].startswith("| `before` | 1 |  | 1.2 |")
    assert lines[4].startswith("| `npo` | 0.25 | 0.02 | 0.8 |")


def test_what_is_missing_is_said(place, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError) as caught:
        pretrained.save_start(tmp_path / "start")
    assert caught.value.got == ("no package gguf")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    full = Place(SETUPS[Size.FULL], 0, "unused", place.work_dir)
    with pytest.raises(
        ConfigError, match=r"^Got --size full without a GPU, but expected a GPU. Choose --size small\.$"
    ):
        work._options(full, "before")


@pytest.mark.parametrize(
    ("draw", "counts"),
    [
        (small_rows, {"forget": 60, "retain": 120, "proxy": 40, "holdout": 40, "judged": 60}),
        (full_rows, {"forget": 400, "retain": 3200, "proxy": 200, "holdout": 200, "judged": 400}),
    ],
)
def test_real_rows_have_one_role(tofu, draw, counts):
    tofu("full")  # skips where the rows are not at hand
    rows = draw(0, str(SHARED / "data" / "tofu"))
    assert {name: len(found) for name, found in vars(rows).items()} == counts
    texts = [{row.prompt[0].content for row in getattr(rows, name)} for name in list(counts)[:4]]
    assert sum(map(len, texts)) == len(set().union(*texts))
    assert {row.prompt[0].content for row in rows.judged} <= texts[1]
