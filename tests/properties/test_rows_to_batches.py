"""From any row to its lines in a batch and back: tokens, labels, pairs, cuts."""

from collections import Counter

import numpy as np
import pytest
import torch
from fixtures_properties import TEXTS, draw_order
from hypothesis import given, settings
from hypothesis import strategies as st

from egup_trainer.data.collator import PairCollator, Part, RowCollator, parts_of
from egup_trainer.data.pairing import Lengths, PairBatchSampler, PairDataset
from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import IGNORE_INDEX, NO_SAMPLE, Message, OnLongRow, Row, TokenizedRow
from egup_trainer.data.tokenization import RowDataset, from_token_columns, tokenize
from egup_trainer.errors import DataError
from egup_trainer.modeling.forward import answer_positions, count_answer_tokens

WORDS = TEXTS.filter(str.strip)
LINES = Template(user="", assistant="\n")
"""Markers that end with a line end, which no token of the tokenizer goes across."""


@st.composite
def rows(draw, max_turns=3):
    """Question/answer, chat and plain-text rows."""
    roles = ["user", "assistant"] * max_turns
    turns = draw(st.sampled_from([0, 1, 1, 2, max_turns]))
    prompt = [Message(role, draw(WORDS)) for role in roles[: 2 * turns - 1]] if turns else []
    system = [Message("system", draw(WORDS))] if prompt and draw(st.booleans()) else []
    # A plain text has no end, and its first token has no context: one more has to be scored.
    answers = WORDS if prompt else WORDS.map(lambda text: f"{text}?!")
    return Row((*system, *prompt), draw(answers), paraphrase=draw(st.none() | answers))


def tokens_of(each, tokenizer, **options):
    return tokenize([each], tokenizer, name="forget set", template=LINES, with_paraphrases=True, **options).rows


def assert_same(found, expected):
    assert found.input_ids.tolist() == expected.input_ids.tolist()
    assert found.labels.tolist() == expected.labels.tolist()


@settings(max_examples=60)
@given(each=rows())
def test_the_labels_are_the_answer_to_its_end_and_nothing_else(tokenizer, each):
    (sample,) = tokens_of(each, tokenizer)
    for found, answer in ((sample, each.answer), (sample.paraphrase, each.paraphrase)):
        if answer is not None:
            scored = found.is_scored
            first = int(scored.argmax())
            assert scored[first:].all()
            assert not scored[:first].any()
            assert (found.labels[scored] == found.input_ids[scored]).all()
            assert tokenizer.decode(found.input_ids[:first]) == LINES.render(each.prompt)
            assert tokenizer.decode(found.input_ids[first:]) == answer + ("<eos>" if each.prompt else "")
            assert found.is_closed == bool(each.prompt)


@settings(max_examples=60)
@given(each=rows(), max_length=st.integers(1, 40))
def test_a_cut_row_is_the_start_of_the_whole_one_or_refused(tokenizer, each, max_length):
    (whole,) = tokens_of(each, tokenizer)
    if not each.prompt:
        return  # is split, see tests/data/test_tokenization.py
    answers = [sample for sample in (whole, whole.paraphrase) if sample is not None]
    if not all(sample.is_scored[1:max_length].any() for sample in answers):
        with pytest.raises(DataError, match="no answer token in"):
            tokens_of(each, tokenizer, max_length=max_length, on_long_row=OnLongRow.CUT)
        return
    (cut,) = tokens_of(each, tokenizer, max_length=max_length, on_long_row=OnLongRow.CUT)
    for found, sample in zip([cut, cut.paraphrase], answers, strict=False):
        assert_same(found, TokenizedRow(sample.input_ids[:max_length], sample.labels[:max_length]))
        assert found.truncated == (len(sample) > max_length)


@settings(max_examples=40)
@given(several=st.lists(rows(), min_size=1, max_size=4))
def test_a_row_is_tokenized_the_same_in_any_company_and_again_from_its_columns(tokenizer, several):
    together = tokenize(several, tokenizer, name="forget set", template=LINES).rows
    columns = [{"input_ids": each.input_ids.tolist(), "labels": each.labels.tolist()} for each in together]
    again = from_token_columns(columns, "forget set").rows
    for index, (found, read) in enumerate(zip(together, again, strict=True)):
        (alone,) = tokens_of(several[index], tokenizer)
        assert_same(found, alone)
        assert_same(read, alone)
        assert found.source.key == read.source.key == alone.source.key
        assert found.source.number == read.source.number == index
    same = Counter((each.prompt, each.answer) for each in several)
    assert len({each.source.key for each in together}) == len(same)


def numbered(count, others=False):
    """Rows that are all different in tokens and lengths."""

    def make(index, kind):
        ids = np.arange(2 + (index + kind) % 4, dtype=np.int32) + 100 * index + 10 * kind
        return ids, np.where(np.arange(len(ids)) > index % 2, ids, IGNORE_INDEX).astype(np.int32)

    made = [[TokenizedRow(*make(index, kind)) for kind in range(3)] for index in range(count)]
    if not others:
        return RowDataset([row for row, _, _ in made])
    return RowDataset([TokenizedRow(*make(p, 0), paraphrase=b, alternate=c) for p, (_, b, c) in enumerate(made)])


@settings(max_examples=60)
@given(
    num_forget=st.integers(1, 9),
    num_retain=st.integers(0, 9),
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 3),
    positives=st.sampled_from([None, "views", "paraphrase"]),
    with_alternates=st.booleans(),
    by_length=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_an_epoch_of_batches_holds_each_forget_row_once_with_all_that_belongs_to_it(
    num_forget, num_retain, batch_size, world_size, positives, with_alternates, by_length, epoch
):
    forget, retain = numbered(num_forget, others=True), numbered(num_retain) if num_retain else None
    pairs = PairDataset(forget, retain)
    lengths = Lengths.of(pairs, batch_size * world_size) if by_length else None
    collate = PairCollator(RowCollator(None), retain is not None, positives, with_alternates)
    expected = {
        Part.FORGET: lambda index: forget.rows[index],
        Part.RETAIN: lambda index: retain.rows[index],
        Part.ALTERNATE: lambda index: forget.rows[index].alternate,
        Part.POSITIVE: lambda index: forget.rows[index].paraphrase if positives == "paraphrase" else forget.rows[index],
    }
    seen = {part: Counter() for part in Part}
    for rank in range(world_size):
        sampler = PairBatchSampler(num_forget, num_retain, batch_size, 0, rank, world_size, lengths=lengths)
        sampler.set_epoch(epoch)
        for indices in sampler:
            batch = collate([pairs[pair] for pair in indices])
            parts = parts_of(batch)
            assert sum(part.stop - part.start for part in parts.values()) == len(batch["input_ids"])
            for part, rows_of_part in parts.items():
                ids = batch[part.value].tolist()
                assert len(ids) == batch_size
                seen[part].update(ids)
                for row_id, line in zip(ids, range(rows_of_part.start, rows_of_part.stop), strict=True):
                    if row_id == NO_SAMPLE:
                        assert (batch["labels"][line] == IGNORE_INDEX).all()
                    else:
                        size = int(batch["attention_mask"][line].sum())
                        row = TokenizedRow(*(batch[name][line, :size].numpy() for name in ("input_ids", "labels")))
                        assert_same(row, expected[part](row_id))
    for part in parts:
        fillers = seen[part].pop(NO_SAMPLE, 0)
        assert fillers < batch_size * world_size
        assert sum(seen[part].values()) == num_forget
        assert part is Part.RETAIN or set(seen[part].values()) == {1}
    if retain is not None:
        times = [seen[Part.RETAIN][index] for index in range(num_retain)]
        assert max(times) - min(times) <= 2  # an epoch may end one walk through the retain set and begin another


@given(
    labels=st.integers(2, 6)
    .flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([IGNORE_INDEX, 0, 7]), min_size=width, max_size=width), min_size=1, max_size=4
        )
    )
    .map(torch.tensor),
    padding=st.integers(0, 5),
    data=st.data(),
)
def test_answers_stand_where_they_did_however_much_is_padded_and_in_any_order(labels, padding, data):
    wide = torch.nn.functional.pad(labels, (0, padding), value=IGNORE_INDEX)
    (flat, rows_found, targets), (wide_flat, wide_rows, wide_targets) = answer_positions(labels), answer_positions(wide)
    assert torch.equal(rows_found, wide_rows)
    assert torch.equal(targets, wide_targets)
    assert torch.equal(flat % labels.shape[1], wide_flat % wide.shape[1])
    assert torch.equal(flat // labels.shape[1], wide_flat // wide.shape[1])
    assert torch.equal(labels[rows_found, flat % labels.shape[1] + 1], targets)
    order = draw_order(data, labels)
    counts = count_answer_tokens(labels)
    assert torch.equal(count_answer_tokens(wide[order]), counts[order])
    assert counts.tolist() == [sum(label != IGNORE_INDEX for label in row[1:]) for row in labels.tolist()]
