"""What models write: the most likely token after the other, whatever the batch and the model's own settings."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures_evaluation import chat_tokenizer, lively_model, plain_tokens, question, taught_model, with_adapter
from peft import PromptTuningConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM, RwkvConfig, RwkvForCausalLM

from egup_trainer.data.rendering import Template
from egup_trainer.data.schema import Message, Row
from egup_trainer.errors import ModelError
from egup_trainer.evaluation.rows import Generation, RowSet
from egup_trainer.evaluation.scoring import ScoringOptions, score_sets
from egup_trainer.modeling import generation
from egup_trainer.modeling.generation import generate
from egup_trainer.modeling.loading import load_model

TEXTS = [
    "Where does Ada",
    "Who is",
    "Leo Birch number 4 lives in Denna with 2 cats. And Kaia Stone? She lives in Aren, or in Bryle?",
    "Bo",
    "Jon Frost number",
]
NEW = 8


@pytest.fixture
def prompts(tokenizer):
    """Token ids of prompts of many lengths."""
    found = [np.array(tokenizer(text)["input_ids"], dtype=np.int32) for text in TEXTS]
    assert max(map(len, found)) > 16 + NEW  # more than gemma3's sliding window
    return found


def text_of(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True).strip()


def plain_texts(model, tokenizer, prompts, new=NEW, ends=()):
    return [text_of(tokenizer, plain_tokens(model, prompt.tolist(), new, ends)) for prompt in prompts]


def written(model, tokenizer, prompts, *, new=NEW, stop_words=(), batch_size=3, accelerator=None):
    how = {"max_new_tokens": new, "stop_words": stop_words, "batch_size": batch_size, "accelerator": accelerator}
    return generate(model, tokenizer, prompts, **how)


# Greedy


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "qwen3"])
def test_each_token_is_the_most_likely_one_after_the_prompt_alone(tokenizer, prompts, name):
    model = lively_model(tokenizer, name)
    expected = plain_texts(model, tokenizer, prompts)
    assert len(set(expected)) == len(TEXTS)
    for batch_size in (1, 3, 16):
        assert written(model, tokenizer, prompts, batch_size=batch_size) == expected


def test_padding_changes_nothing(model, tokenizer, prompts):
    expected = plain_texts(model, tokenizer, prompts)
    for side in ("left", "right"):
        for pad in ("a", "<eos>", None):
            other = copy.deepcopy(tokenizer)
            other.padding_side, other.pad_token = side, pad
            assert written(model, other, prompts, batch_size=16) == expected


def test_a_mixture_of_experts_that_gives_router_logits_writes(tokenizer, prompts):
    """With them, transformers computes a loss in each step, and fails after the first new token."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=len(tokenizer), num_key_value_heads=2, num_local_experts=4, **sizes)
    model = MixtralForCausalLM(config).eval()
    expected = written(model, tokenizer, prompts)
    model.config.output_router_logits = True
    assert written(model, tokenizer, prompts) == expected
    assert model.config.output_router_logits


def test_an_adapter_is_on_and_the_mode_is_as_it_was(model, tokenizer, prompts):
    expected = plain_texts(model, tokenizer, prompts)
    lora = with_adapter(model, std=0.3)
    adapted = plain_texts(lora.eval(), tokenizer, prompts)
    assert adapted != expected
    assert written(lora.train(), tokenizer, prompts) == adapted
    assert lora.training


def test_under_autocast_the_model_still_writes(model, tokenizer, prompts):
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    run = SimpleNamespace(
        num_processes=1,
        process_index=0,
        device=torch.device("cpu"),
        autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        reduce=lambda tensor, how: tensor,
    )
    texts = written(model, tokenizer, prompts, accelerator=run)
    assert set(seen) == {torch.bfloat16}
    assert all(texts)


# Settings saved with the model


def saved_settings(tokens: list[int]) -> dict[str, dict]:
    """Settings that change what a model writes, by name; `tokens` are those that it writes without."""
    return {
        "do_sample": {"do_sample": True, "temperature": 50.0},
        "top_k": {"do_sample": True, "top_k": 3},
        "repetition_penalty": {"repetition_penalty": 50.0},
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
        "min_new_tokens": {"min_new_tokens": NEW},
        "max_length": {"max_length": 6},
        "max_new_tokens": {"max_new_tokens": 2},
        "num_beams": {"num_beams": 4, "length_penalty": 5.0, "early_stopping": True},
        "forced_eos_token_id": {"forced_eos_token_id": 33},
        "suppress_tokens": {"suppress_tokens": tokens},
        "bad_words_ids": {"bad_words_ids": [[token] for token in tokens]},
        "sequence_bias": {"sequence_bias": [[[33], 100.0]]},
        "guidance_scale": {"guidance_scale": 4.0},
        "stop_strings": {"stop_strings": ["a", "e"]},
        "cache_implementation": {"cache_implementation": "static"},
        "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
        "pad_token_id": {"pad_token_id": tokens[0]},
        "eos_token_id": {"eos_token_id": tokens[:8]},
    }


@pytest.mark.parametrize("name", saved_settings([0]))
def test_settings_saved_with_the_model_have_no_influence(model, tokenizer, prompts, name):
    tokens = sorted({t for p in prompts for t in plain_tokens(model, p.tolist(), NEW)})
    expected = plain_texts(model, tokenizer, prompts)
    assert written(model, tokenizer, prompts) == expected
    before = model.generation_config.to_dict()
    for setting, value in saved_settings(tokens)[name].items():
        setattr(model.generation_config, setting, value)
    settings = model.generation_config.to_dict()
    assert settings != before
    torch.manual_seed(0)
    assert written(model, tokenizer, prompts) == expected
    assert model.generation_config.to_dict() == settings  # a model's own settings are not ours to change


def test_settings_in_an_old_models_configuration_have_no_influence(model, tokenizer, prompts, tmp_path):
    """Models were once saved with them in config.json; what loads such a model takes them over."""
    expected = plain_texts(model, tokenizer, prompts)
    tokens = sorted({token for prompt in prompts for token in plain_tokens(model, prompt.tolist(), NEW)})
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    settings = {"do_sample": True, "num_beams": 4, "repetition_penalty": 5.0, "suppress_tokens": tokens}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | settings))
    old = load_model(str(tmp_path))
    assert old.generation_config.suppress_tokens == tokens
    assert written(old, tokenizer, prompts) == expected


# Where a text ends


def closed_by(tokenizer, end: int | None):
    """The tokenizer with a chat template that closes answers with a token."""
    other = copy.deepcopy(tokenizer)
    if end is None:
        other.chat_template = "{{ raise_exception('no system turn') }}"
        return other
    word = other.convert_ids_to_tokens(end)
    other.add_special_tokens({"additional_special_tokens": [word]})
    assert other.convert_tokens_to_ids(word) == end
    other.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + '" + word + "\\n' }}{% endfor %}"
    return other


def test_a_text_ends_where_the_chat_template_closes_an_answer(model, tokenizer, prompts):
    """As Llama 3 and Gemma do, whose tokenizer names another end."""
    end = plain_tokens(model, prompts[0].tolist(), NEW)[3]
    expected = plain_texts(model, tokenizer, prompts, ends=(end,))
    assert expected != plain_texts(model, tokenizer, prompts)
    chat = closed_by(tokenizer, end)
    assert generation.end_tokens(chat) == sorted({end, tokenizer.eos_token_id})
    assert written(model, chat, prompts) == expected
    assert generation.end_tokens(closed_by(tokenizer, None)) == [tokenizer.eos_token_id]


def test_a_text_ends_at_the_tokenizers_end_token(tokenizer, prompts):
    """Taught models know when to stop."""
    model = taught_model(tokenizer)
    prompt = np.array(tokenizer("Question: Who is Ada?\nAnswer:")["input_ids"], dtype=np.int32)
    tokens = plain_tokens(model, prompt.tolist(), NEW)
    assert tokens.index(tokenizer.eos_token_id) > 0
    given = [prompt, *prompts]
    expected = plain_texts(model, tokenizer, given, ends=(tokenizer.eos_token_id,))
    for other in (33, [33, tokenizer.eos_token_id], None):
        model.generation_config.eos_token_id = other
        assert written(model, tokenizer, given, batch_size=6) == expected


def test_end_tokens_that_the_model_adds_are_told_once(model, tokenizer, prompts, caplog):
    generation._warn_once.cache_clear()
    model.generation_config.eos_token_id = [33, tokenizer.eos_token_id, 7]
    for _ in range(2):
        written(model, tokenizer, prompts[:1])
    (message,) = caplog.messages
    assert f"({tokenizer.eos_token_id})" in message
    assert "(7, 33)" in message


def test_a_text_that_ends_at_once_is_empty(model, tokenizer, prompts):
    other = copy.deepcopy(tokenizer)
    other.eos_token = tokenizer.convert_ids_to_tokens(plain_tokens(model, prompts[1].tolist(), 1)[0])
    assert written(model, other, prompts)[1] == ""


def test_without_any_end_token_all_is_written(model, tokenizer, prompts):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = endless.pad_token = None
    assert written(model, endless, prompts) == plain_texts(model, tokenizer, prompts)


# Models that read no padding

SMALL = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2}


def recurrent(kind: str, tokenizer):
    torch.manual_seed(0)
    if kind == "rwkv":  # mixes up the rows of any batch
        model = RwkvForCausalLM(RwkvConfig(**SMALL, attention_hidden_size=32, context_length=64))
    else:
        config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
        model = get_peft_model(lively_model(tokenizer), config)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.data.mul_(6)
    return model.eval()


@pytest.mark.parametrize("kind", ["rwkv", "prompt tuning"])
def test_a_model_that_reads_padding_as_text_gets_none(kind, tokenizer, prompts):
    model = recurrent(kind, tokenizer)
    given = [(prompt % 256)[:length] for prompt, length in zip(prompts, (4, 7, 4, 6, 7), strict=True)]
    alone = [written(model, tokenizer, [prompt])[0] for prompt in given]
    assert len(set(alone)) > 2
    assert written(model, tokenizer, given, batch_size=5) == alone


class Speller:
    """Decodes token t to the t-th of some texts; special ones are left out."""

    eos_token_id, pad_token_id = 0, 0

    def __init__(self, *texts: str):
        self.texts = texts

    def decode(self, tokens, skip_special_tokens):
        assert skip_special_tokens
        return "".join(self.texts[token] for token in tokens)


class Reciter(torch.nn.Module):
    """A model that writes the given tokens, whatever the prompt."""

    def __init__(self, *tokens: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokens = torch.tensor([tokens])
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())

    def get_input_embeddings(self):
        return torch.nn.Embedding(100_000, 1)

    def generate(self, input_ids, generation_config, **options):
        if generation_config.return_dict_in_generate:
            return SimpleNamespace(logits=(torch.zeros(len(input_ids), 4),) * generation_config.max_new_tokens)
        return torch.cat([input_ids, self.tokens.expand(len(input_ids), -1)], dim=1)


@pytest.mark.parametrize(
    ("texts", "stop_words", "expected"),
    [
        ((" Ada\n\nQuestion: x",), ("\n\n", "\nQuestion", "Question:"), "Ada"),
        ((" Ada\nQuestion: x\n\n",), ("\n\n", "\nQuestion", "Question:"), "Ada"),
        ((" Ada Question: x",), ("\n\n", "\nQuestion", "Question:"), "Ada"),
        ((" Ada Question x ",), ("\n\n", "\nQuestion", "Question:"), "Ada Question x"),
        (("\n\nAda",), ("\n\n",), ""),  # cut first, stripped after
        (("\n\nAda \n",), (), "Ada"),
        (("A stop", " word"), ("stop word",), "A"),  # across tokens
        (("a b", "<eos>", " c"), ("c",), "a b"),
        (("a b c", "<eos>"), ("b", "a b"), ""),  # the one that stands first
    ],
)
def test_a_text_is_cut_at_its_end_then_at_stop_words_then_stripped(texts, stop_words, expected):
    tokenizer = Speller("<eos>", *(text for text in texts if text != "<eos>"))
    numbers = iter(range(1, 9))
    tokens = [0 if text == "<eos>" else next(numbers) for text in texts]
    assert written(Reciter(*tokens), tokenizer, [np.array([5])], new=6, stop_words=stop_words) == [expected]


def test_what_stands_after_the_end_hides_no_stop_word_and_shows_none():
    tokenizer = Speller("<eos>", "Ada", " stop")
    assert written(Reciter(1, 0, 2), tokenizer, [np.array([5])], stop_words=("stop",)) == ["Ada"]
    assert written(Reciter(2, 0, 1), tokenizer, [np.array([5])], stop_words=("Ada",)) == ["stop"]


# Positions


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_too_few_positions_are_refused(tokenizer, name):
    model, prompts = lively_model(tokenizer, name), [np.array([5]), np.arange(100) % 50 + 1]
    assert written(model, tokenizer, prompts, new=28)
    with pytest.raises(ModelError) as error:
        written(model, tokenizer, prompts, new=29)
    assert "129 tokens" in error.value.got
    assert "128 positions" in error.value.got


# Prompts of rows


def prompts_of(row, tokenizer, template=None, monkeypatch=None):
    """What the model is given to write on from."""
    given = []

    def remember(model, tokenizer, prompts, *args, **kwargs):
        given.extend(prompts)
        return [""] * len(prompts)

    monkeypatch.setattr("egup_trainer.evaluation.scoring.generate", remember)
    row_set = RowSet("forget", [row], template or Template(), generation=Generation(NEW))
    score_sets(lively_model(tokenizer), tokenizer, [row_set], ScoringOptions(progress=False))
    return given


def test_a_prompt_is_the_text_before_the_answer_in_the_rows_own_tokens(tokenizer, monkeypatch):
    """The space before an answer belongs to its first token, so the prompt ends before it."""
    (prompt,) = prompts_of(question("Who?", "Ada Lorn"), tokenizer, monkeypatch=monkeypatch)
    assert prompt.tolist() == tokenizer("Question: Who?\nAnswer:")["input_ids"]
    assert prompts_of(Row((), "A plain text"), tokenizer, monkeypatch=monkeypatch) == []


def test_a_prompt_of_a_chat_is_what_its_template_writes_before_the_answer(tokenizer, monkeypatch):
    chatty = chat_tokenizer(tokenizer)
    turns = (
        Message("system", "Be brief."),
        Message("user", "Who?"),
        Message("assistant", "Ada"),
        Message("user", "Who else?"),
    )
    (prompt,) = prompts_of(Row(turns, "!Bo"), chatty, monkeypatch=monkeypatch)
    written_out = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = chatty.apply_chat_template(written_out, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(prompt) == text
    (plain,) = prompts_of(Row(turns, "!Bo"), chatty, Template("U: ", "\nA: ", always=True), monkeypatch)
    assert tokenizer.decode(plain) == "Be brief.\nU: Who?\nA: Ada\nU: Who else?\nA: "


def test_generations_of_rows_are_those_of_their_prompts(model, tokenizer):
    rows = [
        question("Who?", "Ada Lorn"),
        Row((), "A plain text"),
        question("And whose cats are these?", "Kaia Stone's."),
    ]
    scores = score_sets(
        model, tokenizer, [RowSet("forget", rows, generation=Generation(NEW))], ScoringOptions(progress=False)
    )
    found = [row.generation for row in scores["forget"].samples.values()]
    asked = [tokenizer(f"Question: {q}\nAnswer:")["input_ids"] for q in ("Who?", "And whose cats are these?")]
    first, second = plain_texts(model, tokenizer, [np.array(ids) for ids in asked])
    assert found == [first, None, second]
