"""The ledger: requests in order, by fingerprint, taken along from model to model."""

import hashlib
import json
from pathlib import Path

import pytest

from egup_trainer.errors import DataError
from egup_trainer.records.facts import fingerprint
from egup_trainer.records.io import last_measured, read_ledger, read_secrets, write_ledger, write_secrets
from egup_trainer.records.schema import LEDGER_NAME, Request

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


def test_a_request_that_no_run_measured_has_no_number():
    assert last_measured([Request("2026-01-01", 3, "ab", "npo", 10, {})], 0) is None


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 2, "date": "2026-01-01"}', ""]
)
def test_a_broken_line_is_named(tmp_path, line):
    write_ledger(tmp_path, [FIRST])
    with (tmp_path / LEDGER_NAME).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as error:
        read_ledger(tmp_path)
    assert f"line 2 of {tmp_path / LEDGER_NAME}" in error.value.got


THIRD = Request("2026-03-01", 5, "ef", "npo", 30, {}, {"after": 0.3})


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda lines: [lines[0].replace('"before": 0.9', '"before": 0.8'), *lines[1:]], 2),
        (lambda lines: [lines[0], lines[1].replace("dpo", "npo"), lines[2]], 3),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: [lines[0], lines[2], lines[1]], 2),
        (lambda lines: [*lines, lines[2]], 4),
    ],
)
def test_a_line_that_was_changed_removed_or_moved_is_found(tmp_path, change, number):
    write_ledger(tmp_path, [FIRST, SECOND, THIRD])
    path = tmp_path / LEDGER_NAME
    path.write_text("\n".join(change(path.read_text().split("\n")[:-1])) + "\n")
    with pytest.raises(DataError) as error:
        read_ledger(tmp_path)
    assert f"line {number} of {path}, which does not follow" in error.value.got


def test_each_line_holds_the_digest_of_the_line_before(tmp_path):
    write_ledger(tmp_path, [FIRST, SECOND])
    first, second = (tmp_path / LEDGER_NAME).read_bytes().split(b"\n")[:-1]
    assert json.loads(first)["previous"] is None
    assert json.loads(second)["previous"] == hashlib.sha256(first).hexdigest()


def test_a_trainer_keeps_the_secrets_of_all_requests_for_the_user_alone(make_trainer, tmp_path):
    (tmp_path / "before").mkdir()
    write_secrets(tmp_path / "before", ["old"])
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    trainer.model_source = str(tmp_path / "before")
    trainer.train()
    trainer.save_model()
    output = Path(trainer.args.output_dir)
    secret, *earlier = read_secrets(output)
    assert (len(secret), earlier) == (64, ["old"])
    assert oct((output / "_run.json").stat().st_mode & 0o777) == "0o600"
    holding = [path.name for path in output.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holding == ["_run.json"]  # not the checkpoint, which may be pushed to a hub with all its files
    assert read_secrets(output / "merged") == []  # no folder
    (output / "merged").mkdir()
    assert read_secrets(output / "merged") == [secret, "old"]


def test_a_trainer_adds_its_request_to_those_of_the_model_before(make_trainer, tmp_path):
    (tmp_path / "before").mkdir()
    write_ledger(tmp_path / "before", [FIRST])
    trainer = make_trainer(max_steps=2)
    trainer.model_source = str(tmp_path / "before")
    trainer.train()
    trainer.save_model()
    first, second = read_ledger(trainer.args.output_dir)
    assert first == FIRST
    assert (second.rows, second.fingerprint) == (
        len(trainer.forget_rows),
        fingerprint(trainer.forget_rows, trainer.secrets[0]),
    )
    assert (second.objective, second.steps, second.probability) == (trainer.args.objective, 2, {})
    assert read_ledger(tmp_path / "before") == [FIRST]
