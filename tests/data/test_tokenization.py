"""Row -> tokens and labels: what is scored, at every seam, with every kind of tokenizer."""

import copy
import tracemalloc
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from egup_trainer import EGUPConfig
from egup_trainer.data.rendering import Template, writes_date
from egup_trainer.data.schema import IGNORE_INDEX, WRITTEN, Message, OnLongRow, Row, TokenizedRow
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import check_paraphrases, end_tokens, from_token_columns, tokenize
from egup_trainer.errors import ConfigError, DataError, ModelError
from egup_trainer.preparation import prepare_dataset

SECRET = "XYZZYSECRET"  # occurs only in rows: no message may repeat it
# Line ends right after a block are written as {{ '\n' }}: transformers renders with trim_blocks.
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
TEMPLATES = {
    "ends with eos": "{% for m in messages %}" + TURN + "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}",
    "ends after eos": "{% for m in messages %}" + TURN + "{{ '\n' }}{% endfor %}",
    "no eos": "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}",
    # As Qwen3 writes the last answer.
    "thinks": "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}",
}
PLAIN_TURNS = "{% for m in messages %}{{ m.content }}<eos>{% endfor %}"
ROW = Row((Message("user", "Where?"),), "Aren")
AFTER_ANSWER = {name: "<eos>" if name == "no eos" else "<|im_end|>" for name in TEMPLATES}  # all that is scored there


@pytest.fixture(scope="session")
def chat(tokenizer):
    """chat("ends with eos"): the tokenizer with that chat template."""

    def make(name):
        chatty = copy.deepcopy(tokenizer)
        chatty.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
        chatty.chat_template = TEMPLATES[name]
        if name != "no eos":
            chatty.eos_token = chatty.pad_token = "<|im_end|>"
        return chatty

    made = {name: make(name) for name in TEMPLATES}
    return made.__getitem__


@pytest.fixture(scope="session")
def with_special_tokens(tokenizer):
    """with_special_tokens("<bos> $A <eos>"): the tokenizer with a post-processor that adds these."""

    def make(single):
        adding = copy.deepcopy(tokenizer)
        adding.add_special_tokens({"bos_token": "<bos>"})
        ids = [("<bos>", adding.bos_token_id), ("<eos>", adding.eos_token_id)]
        adding.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
        return adding

    return make


@pytest.fixture(scope="session")
def trimming(tokenizer):
    """The tokenizer as GPT-2 and Llama 3 have it: its offsets leave out the space before a word."""
    trimmed = copy.deepcopy(tokenizer)
    trimmed.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return trimmed


@pytest.fixture(scope="session")
def wordpiece():
    """A lower-casing WordPiece tokenizer with [CLS] and [SEP], whose text is not its offsets' text."""
    model = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer()
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    model.train_from_iterator(
        ["question answer who lives in aren zoe ada lorn"] * 3,
        trainers.WordPieceTrainer(vocab_size=120, special_tokens=special),
    )
    model.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, model.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]", bos_token="[CLS]"
    )


@pytest.fixture(scope="session")
def words():
    """A tokenizer of whole words w0 ... w9 with the ids 0 ... 9; end of sequence is 10, and there is no padding."""
    model = Tokenizer(models.WordLevel({**{f"w{i}": i for i in range(10)}, "<eos>": 10, "?": 11}, unk_token="?"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="?", eos_token="<eos>")


def qa(question, answer, paraphrase=None):
    return Row((Message("user", question),), answer, paraphrase)


def text_row(count):
    return Row((), " ".join(f"w{i % 10}" for i in range(count)))


def one(tokenizer, row, **options):
    (sample,) = tokenize([row], tokenizer, name="forget set", **options).rows
    assert isinstance(sample, TokenizedRow)
    assert sample.input_ids.dtype == sample.labels.dtype == np.int32
    assert len(sample.input_ids) == len(sample.labels)
    kept = sample.labels != IGNORE_INDEX
    np.testing.assert_array_equal(sample.labels[kept], sample.input_ids[kept])  # a label is the token it stands at
    return sample


def decoded(tokenizer, ids):
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def scored(tokenizer, sample):
    return decoded(tokenizer, sample.labels[sample.labels != IGNORE_INDEX])


def error_of(kind, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    assert SECRET not in str(caught.value)
    return caught.value


# What is scored

SHORT = Template(user="", assistant=" ")


@pytest.mark.parametrize(
    ("row", "template", "ids", "prompt"),
    [
        (qa("w1 w2", "w3 w4"), Template(user="w7 ", assistant=" w8 "), [7, 1, 2, 8, 3, 4, 10], 4),
        (qa("w1", "w2 <eos>"), SHORT, [1, 2, 10], 1),  # no second end
        (Row((), "w1 w2 <eos>"), SHORT, [1, 2, 10], 0),
        (qa("w1", "w2 <eos> w3"), SHORT, [1, 2, 10, 3, 10], 1),  # padding is that id, too
    ],
)
def test_ids_and_labels_by_hand(words, row, template, ids, prompt):
    sample = one(words, row, template=template)
    assert sample.input_ids.tolist() == ids
    assert sample.labels.tolist() == [-100] * prompt + ids[prompt:]
    assert (sample.truncated, sample.is_closed, sample.paraphrase) == (False, True, None)
    endless = copy.deepcopy(words)
    endless.eos_token = None
    sample = one(endless, qa("w1", "w2"), template=SHORT)
    assert (sample.input_ids.tolist(), sample.is_closed) == ([1, 2], False)


def test_a_tokenizer_without_an_unknown_token_reads_rows_of_its_own_words():
    """Such as one of symbols. It cannot read a question that is not the user's."""
    level = Tokenizer(models.WordLevel({"<eos>": 0, "x": 1, "y": 2}))
    level.pre_tokenizer = pre_tokenizers.Whitespace()
    symbols = PreTrainedTokenizerFast(tokenizer_object=level, eos_token="<eos>")
    assert one(symbols, Row((), "x y")).input_ids.tolist() == [1, 2]
    assert end_tokens(symbols) == [0]


@pytest.mark.parametrize(
    ("merge", "ids", "labels"),
    [("ab", [2, 3, 4], [-100, 3, 4]), ("ca", [3, 1, 4], [-100, 1, 4])],
    ids=["a token across the boundary", "a token that ends where the answer starts"],
)
def test_a_token_is_scored_if_it_reaches_into_the_answer(merge, ids, labels):
    # The prompt is "ca" and the answer is "b".
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2, merge: 3, "<eos>": 4}, [tuple(merge)]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")
    sample = one(tokenizer, qa("c", "b"), template=Template(user="", assistant="a"))
    assert (sample.input_ids.tolist(), sample.labels.tolist()) == (ids, labels)


def test_conversations_and_plain_texts(tokenizer, chat):
    """Earlier answers are not scored, and a plain text does not pass through the chat template."""
    row = Row((Message("system", "S"), Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2")), "a2")
    sample = one(tokenizer, row, template=Template(user="U:", assistant="\nA:"))
    assert decoded(tokenizer, sample.input_ids) == "S\nU:q1\nA:a1\nU:q2\nA:a2<eos>"
    assert scored(tokenizer, sample) == "a2<eos>"
    chatty = chat("ends with eos")
    sample = one(chatty, Row(row.prompt[1:], "a2"))
    assert decoded(chatty, sample.input_ids) == (
        "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\na2<|im_end|>"
    )
    assert scored(chatty, sample) == "a2<|im_end|>"
    sample = one(chatty, Row((), "Ada Lorn"))
    assert decoded(chatty, sample.input_ids) == scored(chatty, sample) == "Ada Lorn"
    assert not sample.is_closed


def test_default_markers_and_the_space_at_the_seam(tokenizer, trimming):
    for each in (tokenizer, trimming):
        sample = one(each, qa("Where?", "Ada Lorn lives"))
        assert decoded(each, sample.input_ids) == "Question: Where?\nAnswer: Ada Lorn lives<eos>"
        assert scored(each, sample) == " Ada Lorn lives<eos>"  # " Ada" is one token


def test_a_token_across_the_end_of_the_answer_is_scored():
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "x": 2, "bx": 3, "<eos>": 4}, [("b", "x")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}x{% endfor %}"
    sample = one(tokenizer, qa("a", "b"))
    assert (sample.input_ids.tolist(), sample.labels.tolist()) == ([0, 2, 3, 4], [-100, -100, 3, 4])


def test_the_whole_text_is_that_of_the_chat_template_or_of_the_markers(chat, with_special_tokens):
    row, markers = qa("Who?", "Ada"), Template(user="U:", assistant="\nA:", always=True)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}]
    for name in TEMPLATES:
        tokenizer = chat(name)
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        text = text.rstrip("\n") if "<|im_end|>" in text else text + "<eos>"
        assert decoded(tokenizer, one(tokenizer, row, template=replace(markers, always=False)).input_ids) == text
        sample = one(tokenizer, row, template=markers)
        assert decoded(tokenizer, sample.input_ids) == f"U:Who?\nA:Ada{tokenizer.eos_token}"
        assert scored(tokenizer, sample) == f"Ada{tokenizer.eos_token}"
    starting = copy.deepcopy(with_special_tokens("<bos> $A"))  # written-out text gets the tokenizer's own start
    starting.chat_template = TEMPLATES["no eos"]
    assert decoded(starting, one(starting, row, template=markers).input_ids) == "<bos>U:Who?\nA:Ada<eos>"


@pytest.mark.parametrize("single", ["$A", "<bos> $A", "$A <eos>", "<bos> $A <eos>"])
def test_special_tokens_of_the_tokenizer_are_kept_and_the_end_stands_once(with_special_tokens, single):
    tokenizer = with_special_tokens(single)
    start = "<bos>" if "<bos>" in single else ""
    sample = one(tokenizer, qa("Who?", "Ada"))
    assert decoded(tokenizer, sample.input_ids) == start + "Question: Who?\nAnswer: Ada<eos>"
    assert scored(tokenizer, sample) == " Ada<eos>"
    plain = one(tokenizer, Row((), "Ada Lorn"))
    assert decoded(tokenizer, plain.input_ids) == start + "Ada Lorn"  # it goes on where the row stops
    assert scored(tokenizer, plain) == "Ada Lorn"
    assert (sample.is_closed, plain.is_closed) == (True, False)


def test_a_chat_template_gets_no_special_tokens_of_the_tokenizer_on_top(with_special_tokens):
    tokenizer = with_special_tokens("<bos> $A <eos>")
    tokenizer.chat_template = "<bos>" + TEMPLATES["no eos"]
    sample = one(tokenizer, qa("Who?", "Ada"))
    assert decoded(tokenizer, sample.input_ids) == "<bos>[user]\nWho?\n[assistant]\nAda\n<eos>"
    assert scored(tokenizer, sample) == "Ada<eos>"


# What closes an answer

CLOSINGS = {  # template, and what stands after "Ada" in the tokens; "|" before the one that closes
    "Gemma": ("{% for m in messages %}<start>{{ m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}", "|<end>"),
    "Llama 3": ("{% for m in messages %}<start>{{ m.role }}<mid>\n\n{{ m.content | trim }}<end>{% endfor %}", "|<end>"),
    "Phi 3": ("{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}{{ eos_token }}", "|<end>"),
    "Llama 2": ("{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} {{ eos_token }}{% endfor %}", " |<eos>"),
    "header of the next turn": (
        "{% for m in messages %}<start>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}<start>user\n",
        "|<end>",
    ),
    "eos of its own for an answer without": (
        "{% for m in messages %}{{ m.content }}{% if not m.content.endswith(eos_token) %}{{ eos_token }}{% endif %}"
        "{% endfor %}",
        "|<eos>",
    ),
    "not a special token": (
        "{% for m in messages %}<start>{{ m.role }}\n{{ m.content }}<stop>\n{% endfor %}",
        "|<stop>",
    ),
    "ordinary tokens": ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n###\n{% endfor %}", "\n|#"),
    "none": ("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}", "\n|<eos>"),
}


@pytest.fixture(params=["plain offsets", "trimmed offsets", "marks that take in spaces"])
def marked(request, tokenizer, trimming):
    """A tokenizer with marks for turns, of three kinds; its end of sequence is none of them."""
    chatty = copy.deepcopy(trimming if request.param == "trimmed offsets" else tokenizer)
    takes_in = request.param == "marks that take in spaces"
    names = ("<start>", "<mid>", "<end>")
    chatty.add_tokens([AddedToken(each, special=True, lstrip=takes_in, rstrip=takes_in) for each in names])
    chatty.add_tokens(["<stop>"])
    return chatty


@pytest.mark.parametrize("name", CLOSINGS)
@pytest.mark.parametrize("answer", ["Ada", "Ada<end>Bo", "Ada\nBo"])
def test_the_answer_and_the_one_token_that_closes_it_are_scored_and_nothing_after(marked, name, answer):
    marked.chat_template, rest = CLOSINGS[name]
    sample = one(marked, qa("Who?", answer))
    between, closing = rest.split("|")
    assert decoded(marked, sample.input_ids).endswith(answer + between + closing)
    assert scored(marked, sample).removeprefix(" ") == answer + closing
    assert sample.is_closed
    others = {"alternates": [answer], "with_paraphrases": True}
    alone = tokenize([qa("Who?", "Bo", answer)], marked, name="retain set", **others).rows[0]
    assert alone.paraphrase.key() == alone.alternate.key() == sample.key()


@pytest.mark.parametrize(("answer", "text"), [("Ada<eos>", "Ada<eos>"), ("Ada<end>", "Ada<end>"), ("Ada ", "Ada<end>")])
def test_an_answer_with_its_own_end_or_with_spaces_before_it_has_one_end(marked, answer, text):
    marked.chat_template = CLOSINGS["Gemma"][0]
    sample = one(marked, qa("Who?", answer))
    assert scored(marked, sample) == text
    assert sample.is_closed


def test_a_control_token_that_takes_in_the_last_spaces_of_the_answer_closes_it(marked):
    marked.chat_template = CLOSINGS["Phi 3"][0]
    sample = one(marked, qa("Who?", "Ada \n "))
    assert marked.convert_ids_to_tokens(int(sample.labels[-1])) == "<end>"
    assert scored(marked, sample).split() in (["Ada", "<end>"], ["Ada<end>"])
    assert sample.is_closed


@pytest.mark.parametrize("answer", ["\n Ada", " Ada"])
def test_a_control_token_that_takes_in_the_first_spaces_of_the_answer_is_not_scored(marked, answer):
    """As Phi 3's mark of the assistant does, which stands before the answer."""
    marked.add_tokens([AddedToken("<assistant>", rstrip=True, special=True)])
    marked.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    sample = one(marked, qa("Who?", answer))
    assert "assistant" not in scored(marked, sample)
    assert scored(marked, sample).split() in (["Ada", "<end>"], ["Ada<end>"])
    assert marked.convert_ids_to_tokens(int(sample.prompt[-1])) == "<assistant>"


def test_a_completion_that_ends_as_the_template_ends_answers_gets_no_second_end(marked):
    """Rows that are written out in the model's own format, whose end of turn is not the end of sequence."""
    marked.chat_template = CLOSINGS["Gemma"][0]
    sample = one(marked, Row((Message(WRITTEN, "<start>user\nWho?<end>\n<start>model\n"),), "Ada<end>"))
    assert scored(marked, sample) == "Ada<end>"
    assert sample.is_closed


def test_a_block_for_thinking_may_be_written_anew_as_the_answer_has_it(marked):
    """Qwen 3 writes an empty block where the answer has none."""
    marked.chat_template = (
        "{% for m in messages %}<start>{{ m.role }}\n"
        "{% if m.role == 'assistant' and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<end>\n{% endfor %}"
    )
    answer = "<think>\nHm\n</think>\n\nAda"
    assert scored(marked, one(marked, qa("Who?", answer))).rstrip() == answer + "<end>"
    assert scored(marked, one(marked, qa("Who?", "Ada"))) == "Ada<end>"


def test_a_cut_or_split_row_is_not_closed(words):
    assert one(words, qa("w1", "w2 w3"), template=SHORT, max_length=4).is_closed
    cut = one(words, qa("w1", "w2 w3"), template=SHORT, max_length=3, on_long_row=OnLongRow.CUT)
    assert not cut.is_closed
    row = Row((), "w1 w2 w3 w4 <eos>")
    assert [piece.is_closed for piece in tokenize([row], words, name="forget set", max_length=3).rows] == [False, True]


def test_the_tokens_that_end_an_answer_are_the_tokenizers_and_the_templates(marked):
    marked.chat_template = CLOSINGS["Gemma"][0]
    assert marked.convert_ids_to_tokens(end_tokens(marked)) == ["<eos>", "<end>"]
    for template in (None, CLOSINGS["ordinary tokens"][0], "{{ raise_exception('no') }}", "{{ messages[0].content }}"):
        marked.chat_template = template
        assert end_tokens(marked) == [marked.eos_token_id]


# Random text


LINE = Template(user="", assistant="\n")  # a line end never joins a token of the answer in this tokenizer
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda text: "<eos>" not in text and "<|im_" not in text  # a special token's text is that token
)
STRIPPED = UNICODE.map(str.strip).filter(bool)  # templates differ in what they do to white space around an answer


@settings(max_examples=100, deadline=None)
@given(question=UNICODE, answer=UNICODE)
def test_at_a_seam_inside_a_token_no_more_than_that_token_is_scored_beside_the_answer(tokenizer, question, answer):
    sample = one(tokenizer, qa(question, answer))
    text = scored(tokenizer, sample)
    assert text in (f"{answer}<eos>", f" {answer}<eos>")  # the marker ends with one space
    if text.startswith(" ") and not answer.startswith(" "):
        first = sample.labels[sample.labels != IGNORE_INDEX][0]
        assert decoded(tokenizer, [first]) != " "


@settings(max_examples=40, deadline=None)
@given(question=UNICODE, answer=STRIPPED)
@example(question="Who is it?", answer=" Ada \n")
@example(question="Who is it?", answer="Who is it?")
@example(question="Who is it?", answer="im")
@example(question="Who is it?", answer="<b>bold</b>")
@example(question="Who is it?", answer="</think>")
@example(question="Who is it?", answer="assistant")
@pytest.mark.parametrize("name", TEMPLATES)
def test_under_a_chat_template_the_scored_tokens_spell_the_answer_and_its_end(chat, name, question, answer):
    tokenizer = chat(name)
    assert scored(tokenizer, one(tokenizer, qa(question, answer))) == answer + AFTER_ANSWER[name]


@settings(max_examples=60, deadline=None)
@given(
    question=st.lists(st.sampled_from(["who", "Lives", "in", "?"]), min_size=1),
    answer=st.lists(st.sampled_from(["ADA", "Zoë", "aren", ",", "東京"]), min_size=1),
)
def test_wordpiece_scores_the_same_tokens_as_the_answer_alone(wordpiece, question, answer):
    sample = one(wordpiece, qa(" ".join(question), " ".join(answer)))
    alone = wordpiece(" ".join(answer), add_special_tokens=False)["input_ids"]
    assert sample.labels[sample.labels != IGNORE_INDEX].tolist() == [*alone, wordpiece.eos_token_id]


def test_real_tofu_rows(tofu, tokenizer, chat):
    rows = load_rows(tofu("forget10"))
    data = tokenize(rows, tokenizer, name="forget set")
    assert len(data) == 400
    for number, row in enumerate(rows):
        index, sample = data[number]
        assert index == number
        assert scored(tokenizer, sample).removeprefix(" ") == row.answer + "<eos>"
    tokenizer = chat("ends with eos")
    for row, sample in zip(rows, tokenize(rows, tokenizer, name="forget set").rows):
        assert scored(tokenizer, sample) == row.answer + "<|im_end|>"


# Lengths


@pytest.mark.parametrize(("max_length", "number", "tokens"), [(1, 0, 4), (2, 1, 5)])
def test_a_cut_that_leaves_no_answer_is_refused(words, max_length, number, tokens):
    rows = [qa("w1", f"w2 {SECRET}"), qa("w1 w2", f"w3 {SECRET}")]
    options = {"max_length": max_length, "template": SHORT, "on_long_row": OnLongRow.CUT}
    error = error_of(DataError, tokenize, rows, words, name="forget set", **options)
    kept = f"of whose {tokens} tokens {max_length} are kept"
    assert error.got == f"no answer token in row {number} of the forget set, {kept}"


@settings(max_examples=100, deadline=None)
@given(count=st.integers(2, 60), max_length=st.integers(2, 30))
def test_splitting_scores_each_token_after_the_first_once_and_in_order(words, count, max_length):
    pieces = tokenize([text_row(count)], words, name="forget set", max_length=max_length).rows
    whole = [i % 10 for i in range(count)]
    assert all(2 <= len(piece) <= max_length for piece in pieces)
    assert [int(label) for piece in pieces for label in piece.labels[1:]] == whole[1:]  # the first label never counts
    assert all(before.input_ids[-1] == after.input_ids[0] for before, after in pairwise(pieces))
    assert all((piece.labels[1:] == piece.input_ids[1:]).all() for piece in pieces)


# What cannot be tokenized

USER_ALONE = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"


def test_an_answer_of_which_the_tokenizer_knows_nothing_is_refused_by_a_run(words):
    options = SimpleNamespace(max_length=64, template=Template(), disable_tqdm=True, on_long_row=OnLongRow.WINDOW)
    rows = [qa("w1", f"{SECRET} w2"), qa("w1", SECRET)]
    assert len(prepare_dataset(rows[:1], "forget set", words, options)) == 1
    error = error_of(DataError, prepare_dataset, rows, "forget set", words, options)
    assert error.got == (
        f"1 answers of the forget set, such as that in row 1, which the tokenizer reads as {words.unk_token} alone"
    )


def test_rows_and_tokenizers_that_cannot_be_used_are_refused(tokenizer, words):
    class Slow:
        is_fast = False

    def refused(kind, row, tokenizer):
        return error_of(kind, tokenize, [qa("q", "a"), row], tokenizer, name="forget set").got

    assert refused(ModelError, qa("q", SECRET), Slow()) == "the slow tokenizer Slow"
    assert refused(DataError, replace(qa("q", SECRET), alternatives=(SECRET, "b")), tokenizer) == (
        "3 answers in row 1 of the forget set"
    )
    assert refused(DataError, Row((), SECRET), words) == "no answer token in row 1 of the forget set, of 1 tokens"
    dropping = copy.deepcopy(tokenizer)
    for dropping.chat_template in (USER_ALONE, "[x]" + USER_ALONE, USER_ALONE + "[assistant]"):
        assert refused(ModelError, qa("q", SECRET), dropping) == (
            "a chat template whose text does not hold the answer of row 0 of the forget set"
        )
    rows = tokenize([qa("w1", "w2", "w3"), qa("w1", f"w3 {SECRET}")], words, name="forget set", with_paraphrases=True)
    assert error_of(DataError, check_paraphrases, rows).got == "no paraphrased_answer in row 1 of the forget set"


# Rows that come tokenized


BAD_TOKENS = [
    ([5, 6, 7], [-100, 7], None, "3 input_ids, 2 labels and an attention_mask of 3 in {row}"),
    ([5, 6], [-100, 6], [1], "2 input_ids, 2 labels and an attention_mask of 1 in {row}"),
    ([5, 6], [-100, -100], None, "no scored token in {row}"),
    ([5, 6], [5, -100], None, "no scored token in {row}"),  # nothing comes before the first token
    ([0, 5], [-100, 5], [0, 1], "no scored token in {row}"),
    ([5], [5], None, "no scored token in {row}"),
    ([5, 6], [-100, 7], None, "an id below 0, or a label that is neither -100 nor its own token, in {row}"),
    ([5, 6, 7], [6, 7, -100], None, "an id below 0, or a label"),  # shifted
    ([-1, 6], [-100, 6], None, "an id below 0, or a label"),
    ([5, 6, 7], [-100, -100, 7], [1, 0, 1], "an attention_mask in {row} that is not one run of 1 with 0 before and"),
    ([5, 6], [-100, 6], [0, 0], "an attention_mask in {row} that is not one run of 1"),
    ([5, 6], [-100, 6], [1, 2], "an attention_mask in {row} that is not one run of 1"),
    ([5, 6], [-100, 6], [0.5, 1.0], "attention_mask as float64 numbers of shape (2,) in {row}"),
    ([5.0, 6.0], [-100, 6], None, "input_ids as float64 numbers of shape (2,) in {row}"),
    ([5, 6], np.array([-100.0, 6.0]), None, "labels as float64 numbers"),
    ([5, 2**32 + 6], [-100, 6], None, "input_ids as int64 numbers"),
    ([[5, 6]], [[5, 6]], None, "input_ids as int64 numbers of shape (1, 2)"),
    ([[5], [6, 7]], [5, 6], None, "input_ids as list in {row}"),
    (5, 5, None, "input_ids as int64 numbers in {row}"),
    (None, [5], None, "no input_ids in {row}"),
    ([5, 6], None, None, "no labels in {row}"),
    ("ab", "ab", None, "input_ids as <U2 numbers in {row}"),
]


@pytest.mark.parametrize(("ids", "labels", "mask", "says"), BAD_TOKENS)
def test_bad_token_columns_are_named_by_row(ids, labels, mask, says):
    records = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": ids, "labels": labels, "attention_mask": mask}]
    error = error_of(DataError, from_token_columns, records, "retain set")
    assert error.got.startswith(says.format(row="row 1 of the retain set"))
    assert error.fix.startswith("add it" if ids is None or labels is None else "repair")


PADDED = [  # the padding is the token that ends the row, too
    {"input_ids": [2, 2, 5, 6, 2], "labels": [-100, -100, -100, 6, 2], "attention_mask": [0, 0, 1, 1, 1]},
    {"input_ids": [5, 6, 2, 2, 2], "labels": [-100, 6, 2, -100, -100], "attention_mask": [1, 1, 1, 0, 0]},
    {"input_ids": [2, 5, 6, 2, 2], "labels": [-100, -100, 6, 2, -100], "attention_mask": [0, 1, 1, 1, 0]},
    {"input_ids": [5, 6, 2, 2, 2], "labels": [-100, 6, 2, 2, 2], "attention_mask": [True, True, True, False, False]},
]


def as_tensors(record):
    return {name: torch.tensor(value) for name, value in record.items()}


@pytest.mark.parametrize("kind", [list, lambda r: map(as_tensors, r), "numpy", "torch", "pandas", None])
def test_padding_of_token_rows_is_left_out_whatever_holds_them(kind):
    if callable(kind):
        records = kind(PADDED)
    else:
        columns = {name: [list(map(int, record[name])) for record in PADDED] for name in PADDED[0]}
        records = datasets.Dataset.from_dict(columns).with_format(kind)
    data = prepare_dataset(records, "forget set", None, EGUPConfig("out", max_length=9))
    assert {row.key() for row in data.rows} == {TokenizedRow(np.int32([5, 6, 2]), np.int32([-100, 6, 2])).key()}


def test_token_rows_are_cut_and_split_as_others_are():
    ids = list(range(1, 8))
    records = [{"input_ids": [0, *ids], "labels": [-100, -100, -100, *ids[2:]], "attention_mask": [0] + [1] * 7}]
    (cut,) = from_token_columns(records, "forget set", 4, OnLongRow.CUT).rows
    assert (cut.input_ids.tolist(), cut.labels.tolist(), cut.truncated) == ([1, 2, 3, 4], [-100, -100, 3, 4], True)
    pieces = from_token_columns([{"input_ids": ids, "labels": [-100, *ids[1:]]}], "forget set", max_length=4).rows
    assert [piece.input_ids.tolist() for piece in pieces] == [[1, 2, 3, 4], [4, 5, 6, 7]]
    assert [piece.labels.tolist() for piece in pieces] == [[-100, 2, 3, 4], [-100, 5, 6, 7]]
    error = error_of(DataError, from_token_columns, records, "forget set", 2, OnLongRow.CUT)
    assert error.got == "no answer token in row 0 of the forget set, of whose 7 tokens 2 are kept"


# Dates


@pytest.mark.parametrize(
    "format", ["%d %b %Y", "%A, %B %-d, %Y %H:%M", "100%%, %%d, %d%%", "%Y-%m-%dT%H", "no date", ""]
)
def test_a_chat_template_writes_the_date_of_its_template(tokenizer, format):
    chat = copy.deepcopy(tokenizer)
    written = "\n  {% if strftime_now is defined %}{{ " + f"strftime_now('{format}')" + " }}{% endif %}|"
    chat.chat_template = written + PLAIN_TURNS
    undated = copy.deepcopy(tokenizer)
    undated.chat_template = (
        written.replace(f"strftime_now('{format}')", repr(datetime(2024, 2, 29).strftime(format))) + PLAIN_TURNS
    )
    dated, plain = (
        tokenize([ROW], each, name="forget set", template=Template(date="2024-02-29")).rows[0]
        for each in (chat, undated)
    )
    assert tokenizer.decode(dated.input_ids) == tokenizer.decode(plain.input_ids)
    assert dated.key() == plain.key()
    assert (writes_date(chat), writes_date(tokenizer)) == (True, False)


@pytest.mark.parametrize("wrong", ["2024-02-30", "20240229", "tomorrow", ""])
def test_a_date_that_is_none_is_refused(wrong):
    assert error_of(ConfigError, Template, date=wrong).got == f"template_date={wrong}"


def long_texts():
    for number in range(400):
        text = f"Number {number}. " + "The house has a garden. " * 200
        yield {"question": f"Who is number {number}?", "answer": text}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["on the disk", "streamed"])
def test_the_texts_of_a_large_set_are_not_all_in_memory(kind, tokenizer, tmp_path):
    data = datasets.IterableDataset.from_generator(long_texts)
    if kind == "on the disk":
        datasets.Dataset.from_generator(long_texts, cache_dir=str(tmp_path / "cache")).save_to_disk(tmp_path / "rows")
        data = datasets.load_from_disk(str(tmp_path / "rows"))
    args = EGUPConfig("out", max_length=64, on_long_row="cut", disable_tqdm=True)
    prepare_dataset(list(long_texts())[:8], "forget set", tokenizer, args)  # what is imported and kept on first use
    tracemalloc.start()
    rows = prepare_dataset(data, "forget set", tokenizer, args)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = list(long_texts())
    assert peak < sum(len(row["answer"]) for row in whole)
    assert [index for index, _ in (rows[0], rows[399])] == [0, 399]
    assert rows[7][1].key() == prepare_dataset(whole[7:8], "forget set", tokenizer, args)[0][1].key()
