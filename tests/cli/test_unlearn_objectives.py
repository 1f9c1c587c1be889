"""`egup unlearn` with a one-shot objective: its summary is of the model that is saved, its error names the flags."""

import pytest
from test_cli import model, rows, unlearn  # noqa: F401

from egup_trainer import UnlearnConfig, UnlearnTrainer
from egup_trainer.modeling.loading import load_model


def forget_line(printed):
    """Probabilities before and after in the row of the forget set."""
    cells = next(line for line in printed.splitlines() if line.startswith("│ forget")).strip("│").split("│")
    return [float(cell) for cell in cells[1:]]


@pytest.mark.parametrize("adapter", [(), ("--use_peft", "--lora_target_modules", "all-linear")], ids=["whole", "lora"])
def test_the_summary_of_a_task_vector_is_of_the_negated_model(model, rows, tmp_path, capsys, tokenizer, adapter):  # noqa: F811
    output = tmp_path / "out"
    flags = ("--objective", "task_vector", "--no_proxy_constraint", "--learning_rate", "1e-2", "--save_strategy", "no")
    assert unlearn(model, rows, output, *flags, *adapter) == 0
    before, after = forget_line(capsys.readouterr().out)
    assert after < 0.99 * before
    saved = load_model(str(output))
    judge = UnlearnTrainer(
        saved, UnlearnConfig(str(tmp_path / "judge"), use_cpu=True), rows["forget"], rows["retain"],
        processing_class=tokenizer,
    )  # fmt: skip
    assert judge.score(judge.forget_rows).probability == pytest.approx(after, rel=0.05)  # printed in two digits


def test_a_task_vector_names_what_has_to_be_switched_off(model, rows, tmp_path, capsys):  # noqa: F811
    flags = ("--objective", "task_vector", "--inter_entanglement")
    assert unlearn(model, rows, tmp_path / "out", *flags) == 2
    assert capsys.readouterr().err.splitlines() == [
        "egup unlearn: error: Got objective=task_vector with inter_entanglement, proxy_constraint, but expected it "
        "without "
        "them: the training is turned round at its end, and what they did with it. Leave out --inter_entanglement, add "
        "--no_proxy_constraint."
    ]
    assert not (tmp_path / "out").exists()
