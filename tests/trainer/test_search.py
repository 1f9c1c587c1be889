"""Searches for hyper-parameters: each trial is a run of its own, and the boundary rule says which one is best."""

import itertools
import statistics
import weakref

import pytest
import torch
from accelerate.utils.memory import release_memory
from conftest import make_tiny_model, qa_rows
from fixtures_trainer import furthest, weights_of
from peft import LoraConfig
from transformers import TrainerCallback
from transformers.hyperparameter_search import ALL_HYPERPARAMETER_SEARCH_BACKENDS, HyperParamSearchBackendBase
from transformers.trainer_utils import HPSearchBackend

from egup_trainer import Component, EGUPTrainer, UnlearnConfig, UnlearnTrainer, boundary_objective
from egup_trainer.components.auto import Auto
from egup_trainer.components.intra_sample import IntraSampleEntanglement
from egup_trainer.errors import ConfigError
from egup_trainer.losses.grad_diff import GradientDifference
from egup_trainer.losses.proxy_kl import ProxyKL
from egup_trainer.modeling.ks_test import ks_distance

SETS = {"forget_dataset": qa_rows(0, 10), "retain_dataset": qa_rows(20, 33), "proxy_dataset": qa_rows(40, 46)}
EVERYTHING = {"objective": "npo", "intra_entanglement": True, "clreg_weight": 0.1}


@pytest.fixture
def searching(tokenizer, config, tmp_path):
    """searching(kind, model_init, rows and other arguments, **options): a trainer that makes its model itself."""
    numbers = itertools.count()

    def make(kind=EGUPTrainer, model_init=None, arguments=None, **options):
        parts = {"inter_entanglement": False, "intra_entanglement": False} if kind is EGUPTrainer else {}
        args = config(kind.config_class, **{"output_dir": str(tmp_path / f"out{next(numbers)}"), **parts, **options})
        model_init = model_init or (lambda: make_tiny_model(tokenizer))
        return kind(None, args, processing_class=tokenizer, model_init=model_init, **{**SETS, **(arguments or {})})

    return make


class Trial(dict):
    """Hyper-parameters by name, with what transformers asks a trial of optuna for."""

    def __init__(self, values, number):
        super().__init__(values)
        self.number = number

    @property
    def params(self):
        return self


@pytest.fixture
def search(monkeypatch):
    """search(trainer, *trials, look=result_of): what `look` sees of the trainer after each trial.

    The trials are those of a search whose backend takes the hyper-parameters as they are given.
    """

    class Given(HyperParamSearchBackendBase):
        name = "given"

        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, trials, look):
            found = []
            for number, values in enumerate(trials):
                trainer.objective = None
                trainer.train(resume_from_checkpoint=None, trial=Trial(values, number))
                found.append(look(trainer))
                trainer.model_wrapped, trainer.model = release_memory(trainer.model_wrapped, trainer.model)
                trainer.accelerator.clear()
            return found

    monkeypatch.setattr("transformers.integrations.hp_params", dict)  # it asks which backends are installed
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, Given)

    def run(trainer, *trials, look=result_of):
        return trainer.hyperparameter_search(dict, backend="optuna", trials=trials, look=look)

    return run


def result_of(trainer):
    timed = ("runtime", "per_second", "peak_memory_gb")
    numbers = [trainer.evaluate(), *trainer.state.log_history]
    plain = [{name: row[name] for name in row if not name.endswith(timed)} for row in numbers]
    return weights_of(trainer), plain[0], plain[1:]


@pytest.mark.parametrize(
    ("kind", "options", "values", "other"),
    [
        (UnlearnTrainer, {}, {"learning_rate": 3e-3}, {"objective": "grad_diff"}),
        (EGUPTrainer, EVERYTHING, {"learning_rate": 3e-3, "seed": 7}, {"clreg_weight": 0.0, "num_train_epochs": 1}),
        (EGUPTrainer, {"objective": "proxy_kl"}, {"learning_rate": 1e-3}, {"strength": "gentle"}),
        (EGUPTrainer, {"objective": "proxy_kl"}, {"strength": "thorough", "max_steps": 4}, {"learning_rate": 1e-3}),
        (EGUPTrainer, {"objective": "dpo"}, {"seed": 3, "learning_rate": 1e-3}, {"seed": 4, "learning_rate": 1e-3}),
    ],
)
def test_equal_trials_are_equal_to_each_other_and_to_a_trainer_of_their_own(
    searching, search, kind, options, values, other
):
    options = {"learning_rate": None, **options}
    first, between, again = search(searching(kind, **options), values, other, values)
    alone = searching(kind, **{**options, **values})
    alone.train()
    expected = result_of(alone)
    for found in (first, again):
        assert furthest(found[0], expected[0]) == 0
        assert found[1:] == expected[1:]
    assert furthest(between[0], expected[0]) > 0


def auto_of(trainer):
    """The learning rate of the configuration, and the one that the run has chosen, if it has chosen one."""
    chosen = [each.rate for each in trainer.components if isinstance(each, Auto)]
    return trainer.args.learning_rate, chosen


def test_a_searched_learning_rate_counts_as_given(searching, search):
    trainer = searching(objective="proxy_kl", learning_rate=None, max_steps=2)
    assert trainer.component(Auto)
    # 1e-5 is also the number that stands where none is given.
    given, chosen = search(trainer, {"learning_rate": 1e-5}, {"strength": "gentle"}, look=auto_of)
    assert given == (1e-5, [])
    assert chosen[1][0] > 0


def test_components_and_options_follow_the_trial(searching, search):
    def look(trainer):
        kinds = {type(each) for each in trainer.components}
        return type(trainer.forget_loss), IntraSampleEntanglement in kinds, trainer.args.retain_weight

    trials = (
        {"objective": "grad_diff", "intra_entanglement": True, "learning_rate": 1e-3},
        {"objective": "proxy_kl", "learning_rate": 1e-3},
    )
    found = search(searching(learning_rate=None, num_train_epochs=1), *trials, look=look)
    assert found == [(GradientDifference, True, 1), (ProxyKL, False, 3)]  # each retain weight is the objective's own


def test_a_trial_that_cannot_work_is_refused_and_the_next_one_runs(searching, search):
    trainer = searching(learning_rate=1e-3, num_train_epochs=1)
    with pytest.raises(ConfigError) as refused:
        search(trainer, {"proxy_temperature": -1.0})
    assert "proxy_temperature" in refused.value.got
    assert search(trainer, {"learning_rate": 1e-3})[0][1]["eval_boundary_distance"] <= 1


def test_metrics_are_those_of_the_rows(searching):
    trainer = searching(learning_rate=1e-2)
    before = trainer.score(trainer.retain_rows).mean_nll.mean()
    assert not [name for name in trainer.evaluate() if "boundary" in name]  # there is no model before yet
    trainer.train()
    found = trainer.evaluate()
    forget, proxies = (trainer.score(rows).mean_nll.tolist() for rows in (trainer.forget_rows, trainer.proxy_rows))
    assert found["eval_boundary_distance"] == pytest.approx(ks_distance(forget, proxies))
    rise = trainer.score(trainer.retain_rows).mean_nll.mean() - before
    assert found["eval_retain_rise"] == pytest.approx(rise.item(), abs=1e-5)
    assert found["eval_loss"] > 0  # of the retain rows, since no others are given
    assert {"eval_boundary_distance", "eval_retain_rise"} <= set(itertools.chain(*trainer.state.log_history))


def test_the_objective_ranks_runs_by_the_boundary_rule():
    grid = [(distance, rise) for distance in (0.0, 0.4, 1.0) for rise in (-0.5, 0.1, 0.11, 2.0)]

    def rank(numbers):  # as `chosen_rate` of the study
        distance, rise = numbers
        return (0.0 if rise <= 0.1 else rise, distance)

    def objective(numbers):
        return boundary_objective(dict(zip(("eval_boundary_distance", "eval_retain_rise"), numbers, strict=True)))

    for first, second in itertools.combinations(grid, 2):
        if rank(first)[0] != rank(second)[0] or rank(first)[0] == 0:
            assert (rank(first) < rank(second)) == (objective(first) < objective(second))
    looser = boundary_objective({"eval_boundary_distance": 0.2, "eval_retain_rise": 0.3}, most_retain_rise=0.3)
    assert looser == 0.2
    with pytest.raises(ConfigError) as refused:
        boundary_objective({"eval_loss": 1.0})
    assert "eval_retain_rise" in refused.value.got
    assert "proxy_dataset" in refused.value.fix


class Counter(Component):
    """Counts steps."""

    name = "counter"

    def __init__(self):
        self.steps = 0

    def commit(self, step):
        self.steps += 1


class Watch(TrainerCallback):
    """Counts the ends of runs."""

    def __init__(self):
        self.ends = 0

    def on_train_end(self, args, state, control, **kwargs):
        self.ends += 1


def test_components_are_new_in_each_trial_and_callbacks_of_the_user_stay(searching, search):
    given, added = Watch(), Watch()
    trainer = searching(arguments={"components": [Counter()], "callbacks": [given]}, learning_rate=1e-3)
    trainer.add_callback(added)
    trials = [{"learning_rate": 1e-3}] * 3
    counted = search(trainer, *trials, look=lambda trainer: trainer.component(Counter).steps)
    assert counted == [trainer.state.global_step] * 3
    assert (given.ends, added.ends) == (3, 3)
    kinds = [type(each) for each in trainer.callback_handler.callbacks]
    assert len({kind for kind in kinds if kind is not Watch}) == len(kinds) - 2


def test_a_loss_of_the_user_stays(searching, search):
    trainer = searching(UnlearnTrainer, arguments={"forget_loss": GradientDifference()}, num_train_epochs=1)
    found = search(trainer, {"learning_rate": 1e-3}, {"seed": 1}, look=lambda trainer: type(trainer.forget_loss))
    assert found == [GradientDifference] * 2


def test_each_training_starts_from_a_new_model_and_rows_of_a_generator_are_kept(searching):
    trainer = searching(arguments={"forget_dataset": iter(SETS["forget_dataset"])}, learning_rate=1e-2)
    found = []
    for _ in range(2):
        trainer.train()
        found.append(weights_of(trainer))
    assert furthest(*found) == 0
    assert len(trainer.forget_rows) == 10


def test_adapters_are_new_too(searching, search):
    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.5)
    trainer = searching(arguments={"peft_config": adapter}, learning_rate=1e-2, num_train_epochs=1)
    first, second = search(trainer, {"seed": 1}, {"seed": 1})
    assert furthest(first[0], second[0]) == 0
    assert any("lora_" in name for name in first[0])


def test_the_last_model_is_gone_before_the_next_one_is_made(searching, search, tokenizer):
    alive, made = [], []

    def model_init():
        alive.append(sum(each() is not None for each in made))
        model = make_tiny_model(tokenizer)
        made.append(weakref.ref(model))
        return model

    trainer = searching(model_init=model_init, learning_rate=1e-3, num_train_epochs=1, clreg_weight=0.1)
    search(trainer, {}, {}, {}, look=lambda trainer: None)
    assert alive == [0, 0, 0, 0]


def test_model_init_may_read_the_trial(searching, search, tokenizer):
    seen = []

    def model_init(trial):
        seen.append(None if trial is None else trial.number)
        return make_tiny_model(tokenizer)

    trainer = searching(model_init=model_init, learning_rate=1e-3, num_train_epochs=1)
    search(trainer, {}, {})
    assert seen == [None, 0, 1]


def test_what_cannot_be_searched_is_refused(searching, search, tokenizer, config, make_model):
    def refused(fix, make, **options):
        with pytest.raises(ConfigError) as caught:
            make(**options)
        assert fix in caught.value.fix

    refused("model_init", lambda: EGUPTrainer(None, config(), **SETS, processing_class=tokenizer))
    both = {"model": make_model(), "model_init": make_model, "processing_class": tokenizer}
    refused("model_init", lambda: UnlearnTrainer(args=config(UnlearnConfig), **both, **SETS))
    optimizer = torch.optim.SGD(make_model().parameters())
    refused("create_optimizer", searching, arguments={"optimizers": (optimizer, None)})
    model = make_model()
    trainer = searching(model_init=lambda: model, learning_rate=1e-3, num_train_epochs=1)
    refused("model_init", lambda: search(trainer, {}))
    without = searching(UnlearnTrainer, arguments={"proxy_dataset": None})
    refused("proxy_dataset", without.hyperparameter_search)


def test_hyperparameter_search_finds_the_best_trial_by_the_rule(searching, tmp_path):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rates = [1e-5, 1e-2, 3e-2]
    output = tmp_path / "search"
    trainer = searching(output_dir=str(output), learning_rate=None, num_train_epochs=2, save_strategy="epoch")
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 3e-2, log=True)},
        n_trials=3,
        sampler=optuna.samplers.GridSampler({"learning_rate": rates}, seed=0),
    )
    alone = {}
    for rate in rates:
        single = searching(learning_rate=rate, num_train_epochs=2)
        single.train()
        alone[rate] = boundary_objective(single.evaluate())
    assert len({*alone.values()}) > 1
    assert best.objective == min(alone.values())
    assert alone[best.hyperparameters["learning_rate"]] == best.objective
    assert {path.name for path in output.iterdir()} >= {"run-0", "run-1", "run-2"}
    assert statistics.fmean(alone.values()) > best.objective
