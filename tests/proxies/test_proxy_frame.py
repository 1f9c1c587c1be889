"""Prompts that are written out: what they have in common is taken off for the writer of proxies, and put on again."""

import pytest

from egup_trainer.audit.prompts import example_turns, last_question, with_question
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import WRITTEN, Message, Row
from egup_trainer.proxies.frame import Frame
from egup_trainer.proxies.writer import record_of


def rows(before, after, lead, questions=("Who is Ada?", "Where does Bo live?")):
    return [Row((Message(WRITTEN, f"{before}{each}{after}"),), f"{lead}So it is.") for each in questions]


@pytest.mark.parametrize(
    "frame", [Frame("Q: ", "\nA:", " "), Frame("Do it.\n\n### Ask:\n", "\n\n### Answer:\n", ""), Frame("", "", " ")]
)
def test_a_frame_is_taken_off_and_put_on(frame):
    given = rows(frame.before, frame.after, frame.lead)
    assert Frame.of(given) == frame
    asked = [frame.take_off(row) for row in given]
    assert [row.prompt[0] for row in asked] == [Message("user", "Who is Ada?"), Message("user", "Where does Bo live?")]
    assert [row.answer for row in asked] == ["So it is."] * 2
    assert [frame.put_on(row) for row in asked] == given
    markers = frame.template(Template(system_prompt="Be kind."))
    assert [markers.render(row.prompt) + row.answer for row in asked] == [
        row.prompt[0].content + row.answer for row in given
    ]
    assert record_of(given[0]) == {"prompt": given[0].prompt[0].content, "completion": given[0].answer}


def test_rows_without_the_frame_stay_as_they_are():
    frame = Frame("Q: ", "\nA:", " ")
    other = [*rows("Ask: ", "\nA:", " "), *rows("Q: ", "\nA:", ""), Row((Message("user", "Q: a\nA:"),), " b")]
    assert [frame.take_off(row) for row in other] == other
    assert Frame.of(other) is None
    assert Frame.of(rows("Q: ", "", "", ["Ada", "Ada Lorn"])) == Frame("", "", "")  # one question would be blank


def test_attacks_ask_written_rows_in_their_own_form():
    given = rows("Q: ", "\nA:", " ")
    assert last_question(given[0]) == "Q: Who is Ada?\nA:"
    assert with_question(given[0], "Q: Who?\nA:").prompt == (Message(WRITTEN, "Q: Who?\nA:"),)
    shown = example_turns(given, 0, seed=0)
    assert Template("[", "]", always=True).render((*shown, *given[0].prompt)) == (
        "Q: Where does Bo live?\nA: So it is.\n\nQ: Who is Ada?\nA:"
    )
