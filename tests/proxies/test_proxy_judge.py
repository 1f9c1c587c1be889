"""What the model says of written rows: l, features, and the verdicts that follow."""

from types import SimpleNamespace

import pytest
import torch
from conftest import qa_rows
from fixtures_evaluation import LONG_TEXT, lively_model

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.data.sources import load_rows
from egup_trainer.proxies.filters import Rejection
from egup_trainer.proxies.judge import Judge, Scorer, Verdict, near_duplicate_cosine
from egup_trainer.proxies.settings import ProxySettings


def qa(question: str, answer: str) -> Row:
    return Row((Message("user", question),), answer)


def at_angles(*degrees: float) -> torch.Tensor:
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def test_the_cosine_of_near_duplicates_follows_the_rows():
    """The nearest row is 20 degrees away from two of them, 21 degrees from the others."""
    features = at_angles(0, 20, 100, 121)
    near = torch.tensor([20.0, 20.0, 21.0, 21.0]).deg2rad().cos()
    middle = near.median()
    expected = middle + 3 * 1.4826 * (near - middle).abs().median()
    assert near_duplicate_cosine(features) == pytest.approx(expected.item())
    assert near_duplicate_cosine(features) == pytest.approx(0.9336, abs=1e-4)
    assert near_duplicate_cosine(at_angles(0, 90, 180)) == 0.9
    assert near_duplicate_cosine(at_angles(0, 1, 2, 3)) == 0.98
    assert near_duplicate_cosine(at_angles(0)) == 0.9
    assert near_duplicate_cosine(at_angles(0, 0, 90, 180, 270)) == 0.9  # two alike among five


def test_l_and_features_are_those_of_the_row_alone(tokenizer):
    """Also of a long text, which the model reads in pieces."""
    model = lively_model(tokenizer)
    rows = [*load_rows(qa_rows(0, 3)), Row((), LONG_TEXT), Row((), "Leo Birch lives.")]
    scorer = Scorer(model, tokenizer, Template(), ProxySettings(max_length=16, feature_layer=1), batch_size=2)
    long = Scorer(model, tokenizer, Template(), ProxySettings(max_length=128, feature_layer=1), batch_size=2)
    nll, features = long(rows, "rows")
    assert features.shape == (5, 32)
    text = f"Question: {qa_rows(1, 2)[0]['question']}\nAnswer: {qa_rows(1, 2)[0]['answer']}"
    ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
    start = len(tokenizer(text[: text.index("Answer:") + 7])["input_ids"])
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
    logps = out.logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    assert nll[1].item() == pytest.approx(-logps[start - 1 :].mean().item(), rel=1e-5)
    torch.testing.assert_close(features[1], out.hidden_states[2][0, start:].mean(0), rtol=1e-4, atol=1e-5)

    text = tokenizer(LONG_TEXT)["input_ids"]
    pieces = [torch.tensor([text[at : at + 16]]) for at in range(0, len(text) - 1, 15)]
    with torch.no_grad():
        losses = [model(piece, labels=piece).loss.item() * (piece.shape[1] - 1) for piece in pieces]
    nll, _ = scorer([Row((), "Leo."), Row((), LONG_TEXT)], "rows")
    assert nll[1].item() == pytest.approx(sum(losses) / (len(text) - 1), rel=1e-5)


FORGET = [
    qa("Where does Ada Lorn live?", "Ada Lorn lives in a small house by the sea, with two cats."),
    qa("Who taught Bo Quill to sing?", "It was an aunt in the old town who taught Bo Quill to sing."),
    qa("When was Jan Dyke born?", "Jan Dyke was born on the third day of May, in the year 1901."),
]
FIRST = qa("What did Ines Vale sell?", "Ines Vale sold the salt of a mine in the hills, and was known for it.")
SECOND = qa("Where did Dov Ember work?", "Dov Ember worked in the old mill by the river, as the last of the millers.")


class FixedScorer:
    """Gives each row the l and features that stand in a table, by the first word of its answer."""

    settings = SimpleNamespace(seed=0)

    def __init__(self, **table):
        self.table, self.asked = table, []

    def __call__(self, rows, name, progress=False):
        self.asked.append((name, len(rows)))
        found = [self.table[row.answer.split()[0]] for row in rows]
        return torch.tensor([nll for nll, _ in found]), torch.cat([at_angles(angle) for _, angle in found])


KNOWN = {"Ada": (1.0, 0.0), "It": (2.0, 90.0), "Jan": (3.0, 210.0)}


def test_rows_near_by_features_are_rejected_and_texts_come_first():
    scorer = FixedScorer(**KNOWN, Ines=(6.0, 50.0), Dov=(7.0, 91.0))
    judge = Judge(FORGET, [], scorer, progress=False)
    assert judge.forget_nll == 2
    assert judge.max_cosine == 0.9
    verdicts = judge(5, [None, FIRST, FORGET[0], SECOND, FIRST])
    assert verdicts == [
        Verdict(5, Rejection.UNREADABLE),
        Verdict(6, None, FIRST, 6.0),
        Verdict(7, Rejection.NAME),
        Verdict(8, Rejection.FEATURES),
        Verdict(9, Rejection.REPEAT),
    ]
    assert scorer.asked == [("forget rows", 3), ("proxies", 3)]  # what its text rules out is not scored
    assert judge(10, [FIRST, None]) == [Verdict(10, Rejection.REPEAT), Verdict(11, Rejection.UNREADABLE)]
    assert judge(12, [None]) == [Verdict(12, Rejection.UNREADABLE)]
    assert scorer.asked[2:] == [("proxies", 1)]


def test_features_are_centred_by_retain_rows_and_compared_with_them_too():
    """Around the retain rows' mean, Dov stands where a retain row stands; around 0 it would be far from all."""
    retain = [qa("Who is Kaia?", "Kaia bakes bread in the small town."), qa("Who is Leo?", "Leo mends the old boats.")]
    scorer = FixedScorer(**KNOWN, Kaia=(4.0, 300.0), Leo=(4.0, 320.0), Ines=(6.0, 155.0), Dov=(7.0, 301.0))
    judge = Judge(FORGET, retain, scorer, progress=False)
    torch.testing.assert_close(judge.space.center, at_angles(300.0, 320.0).mean(dim=0))
    assert judge.forget_nll == 2
    assert [verdict.rejection for verdict in judge(0, [FIRST, SECOND])] == [None, Rejection.FEATURES]
