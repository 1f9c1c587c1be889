"""The ledger: requests in their order, by fingerprint, taken along from model to model."""

import json

import pytest

from egup_trainer.errors import DataError
from egup_trainer.ledger import LEDGER_NAME, Request, last_measured, read_ledger, write_ledger
from egup_trainer.trainer.record import fingerprint

FIRST = Request("2026-01-01", 3, "ab", "npo", 10, {"torch": "2"}, {"before": 0.9, "after": 0.1})
SECOND = Request("2026-02-01", 4, "cd", "dpo", 20, {}, {"after": 0.2}, {"ab": {"before": 0.1, "after": 0.15}})


def test_what_is_written_is_read(tmp_path):
    write_ledger(tmp_path, [FIRST, SECOND])
    assert read_ledger(tmp_path) == [FIRST, SECOND]
    lines = (tmp_path / LEDGER_NAME).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["fingerprint"] for line in lines] == ["ab", "cd"]
    assert [path.name for path in tmp_path.iterdir()] == [LEDGER_NAME]


def test_a_folder_without_a_ledger_and_no_folder_have_no_requests(tmp_path):
    assert read_ledger(tmp_path) == read_ledger(None) == read_ledger("owner/name") == []


def test_the_last_measurement_of_a_request_is_that_of_the_last_run_that_had_its_rows():
    third = Request("2026-03-01", 5, "ef", "npo", 5, {}, {"after": 0.3}, {"cd": {"after": 0.25}})
    assert [last_measured([FIRST, SECOND, third], place) for place in range(3)] == [0.15, 0.25, 0.3]
    assert last_measured([Request("2026-01-01", 3, "ab", "npo", 10, {})], 0) is None


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1, "date": "2026-01-01"}', ""]
)
def test_a_broken_line_is_named(tmp_path, line):
    write_ledger(tmp_path, [FIRST])
    with (tmp_path / LEDGER_NAME).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as stop:
        read_ledger(tmp_path)
    assert str(stop.value) == (
        f"got line 2 of {tmp_path / LEDGER_NAME}, which is no request in schema 1; expected the file as this version "
        "of the trainer writes it; restore it; what it tells of earlier requests can be had from nowhere else"
    )


def test_a_trainer_adds_its_request_to_those_of_the_model_before(make_trainer, tmp_path):
    (tmp_path / "before").mkdir()
    write_ledger(tmp_path / "before", [FIRST])
    trainer = make_trainer(max_steps=2)
    trainer.model_source = str(tmp_path / "before")
    trainer.train()
    trainer.save_model()
    first, second = read_ledger(trainer.args.output_dir)
    assert first == FIRST
    assert (second.rows, second.fingerprint) == (len(trainer.forget_rows), fingerprint(trainer.forget_rows))
    assert (second.objective, second.steps, second.probability) == (trainer.args.objective, 2, {})
    assert read_ledger(tmp_path / "before") == [FIRST]
