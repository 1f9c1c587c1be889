"""`egup proxy` and `egup unlearn --proxy auto`: what they write, show and refuse."""

import json
import pickle

import pytest
from accelerate.state import PartialState
from conftest import make_tiny_model
from fixtures_cli import egup, save, unlearn, write_rows
from fixtures_proxies import people_rows, writing_model

from egup_trainer import load_rows
from egup_trainer.cli import proxy
from egup_trainer.errors import TooFewProxiesError
from egup_trainer.proxies.filters import Rejection
from egup_trainer.proxies.writer import Writer, record_of

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
FORGET, RETAIN = people_rows()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of a saved model that can write."""
    return save(*writing_model(), tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Paths of forget.jsonl and retain.jsonl."""
    sets = {"forget": [*map(record_of, FORGET)], "retain": [*map(record_of, RETAIN)]}
    return write_rows(tmp_path_factory.mktemp("rows"), **sets)


def run(folder, sources, output, **flags):
    flags = {"num_rows": 3, "num_examples": 1, "seed": 3, "use_cpu": True, **flags}
    return egup("proxy", model_name_or_path=folder, output=output, **sources, **flags)


def unlearn_auto(folder, sources, output, **flags):
    return unlearn(folder, output, **sources, proxy="auto", max_steps=1, logging_steps=1, **flags)


def test_proxies_are_written_and_spoken_of(folder, sources, tmp_path, capsys):
    output = tmp_path / "below" / "proxies.jsonl"
    assert run(folder, sources, output, disable_tqdm=True) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["writer"], line["seed"]) for line in lines] == [(str(folder), 3)] * 3
    streams = capsys.readouterr()
    numbers = json.loads((tmp_path / "below" / "proxies.quality.json").read_text())
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in streams.out.splitlines() if "│" in line]
    assert cells[:3] == [["asked for", "3"], ["attempts", str(numbers["attempts"])], ["kept", "3"]]
    rejected = [f"rejected: {each.value}" for each in Rejection]
    assert [cell[0] for cell in cells[3:]] == [*rejected, "mean l of the proxies", "mean l of the forget rows"]
    assert cells[-1][1] == f"{numbers['forget_nll']:.2f}"
    assert f"Written to {output}" in streams.out
    said = streams.out + streams.err
    assert not [row for row in (*FORGET, *RETAIN) if row.answer in said or row.prompt[0].content in said]
    assert not [line for line in lines if line["answer"] in said]


def test_another_local_model_may_write(folder, sources, tmp_path, tokenizer, capsys):
    model = make_tiny_model(tokenizer)
    model.config.max_position_embeddings = 512
    weak = save(model, tokenizer, tmp_path / "weak")
    output = tmp_path / "proxies.jsonl"
    assert run(weak, sources, output, max_attempts=2, max_new_tokens=8) == 2
    said = capsys.readouterr().err
    assert all(each in said for each in ("0 usable rows of 2", str(weak), "at least 3", "--writer_model"))
    output = tmp_path / "by_another.jsonl"
    assert run(weak, sources, output, writer_model=folder) == 0
    assert {json.loads(line)["writer"] for line in output.read_text().splitlines()} == {str(folder)}


# egup unlearn --proxy auto


def test_unlearn_writes_its_proxies_once_and_trains_with_them(folder, sources, tmp_path, capsys, few_rows, monkeypatch):
    output = tmp_path / "out"
    assert unlearn_auto(folder, sources, output, seed=3) == 0
    written = output / "_proxy" / "proxies.jsonl"
    rows = load_rows(written)
    assert len(rows) == 3
    printed = capsys.readouterr().out
    assert "rejected: not in the format" in printed
    assert "proxy" in printed[printed.index("Probability of answers") :]
    assert (
        "The model wrote the proxies itself. Better: --proxy, your own rows of the same kind that the model never saw, "
        "or in addition --proxy_model, the model before it learned the rows."
    ) in " ".join(printed.split())
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert any("expected_gap" in line for line in history)
    record = json.loads((output / "unlearning.json").read_text())
    assert record["expected_outputs"] == {"proxy_model": None, "ranked_by_proxies": True}

    content = written.read_bytes()
    monkeypatch.setattr(Writer, "write", lambda *args: pytest.fail("proxies were written again"))
    assert unlearn_auto(folder, sources, output, seed=3, overwrite_output_dir=True) == 0
    assert written.read_bytes() == content


def test_other_settings_make_other_proxies_in_their_place(folder, sources, tmp_path, few_rows):
    output = tmp_path / "out" / "_proxy" / "proxies.jsonl"
    assert unlearn_auto(folder, sources, tmp_path / "out", seed=3) == 0
    first = output.read_bytes()
    assert unlearn_auto(folder, sources, tmp_path / "out", seed=4, overwrite_output_dir=True) == 0
    assert output.read_bytes() != first
    assert json.loads(output.read_text().splitlines()[0])["seed"] == 4


@pytest.mark.parametrize("error", [None, TooFewProxiesError(got="2 proxies", expected="4", fix="give some")])
def test_only_the_first_process_writes_and_all_go_on_alike(folder, tmp_path, monkeypatch, error):
    """A process that does not write hears from the first one whether it could."""
    from trl import ModelConfig

    from egup_trainer import EGUPConfig
    from egup_trainer.cli.unlearn import RowArguments

    heard = []

    def broadcast(found):
        heard.append(list(found))
        found[0] = error

    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)
    monkeypatch.setattr(PartialState, "is_main_process", property(lambda self: False))
    monkeypatch.setattr(proxy, "_write", lambda *args, **options: pytest.fail("a second process wrote"))
    config = EGUPConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    arguments = RowArguments(), config, ModelConfig(model_name_or_path=str(folder))
    if error is None:
        assert proxy.auto_proxies(*arguments) == str(tmp_path / "out" / "_proxy" / "proxies.jsonl")
    else:
        with pytest.raises(TooFewProxiesError, match="2 proxies"):
            proxy.auto_proxies(*arguments)
    assert heard == [[None]]


def test_the_first_process_tells_the_others_that_it_cannot_write(folder, tmp_path, monkeypatch):
    from trl import ModelConfig

    from egup_trainer import EGUPConfig
    from egup_trainer.cli.unlearn import RowArguments

    def fail(*args, **options):
        raise TooFewProxiesError(got="2 proxies", expected="4", fix="give some")

    told = []
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", told.extend)
    monkeypatch.setattr(proxy, "_write", fail)
    config = EGUPConfig(output_dir=str(tmp_path / "out"), use_cpu=True, report_to="none")
    with pytest.raises(TooFewProxiesError):
        proxy.auto_proxies(RowArguments(), config, ModelConfig(model_name_or_path=str(folder)))
    assert [type(each) for each in told] == [TooFewProxiesError]
    assert str(pickle.loads(pickle.dumps(told[0]))) == str(told[0])
