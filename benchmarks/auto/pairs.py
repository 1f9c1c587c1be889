"""Ten pairs of a model and data: before unlearning, retrained, and their rows.

The defaults of auto were chosen on other seeds (11 to 16) of six of them, and changed once more after seeds 31 to 33,
36 and 37 of five had been looked at. These seeds were to be looked at once; six of them were looked at twice, since the
defaults were changed after the first time.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM, set_seed

from benchmarks.pretrained.plan import Pretrained
from benchmarks.pretrained.start import save_start
from egup_trainer.data.schema import Row
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.demo.people import invent_people
from egup_trainer.demo.twins import ModelSize, Schedule, learn, make_model, train_tokenizer
from egup_trainer.modeling.loading import load_model, load_tokenizer

Records = dict[str, list[dict[str, Any]]]
"""The records of forget, retain, proxy and holdout rows."""

HIDDEN, LAYERS, HEADS, POSITIONS = 128, 4, 4, 512
ROWS_AN_AUTHOR = 20
CHAT_TEMPLATE = (
    "{% for turn in messages %}{{ '<|' + turn['role'] + '|>' + turn['content'] + '\n' }}"
    "{% if turn['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Pair:
    """A model and data.

    Args:
        make_model: a model with random weights, given tokenizer and seed; None for SmolLM2-135M-Instruct.
        make_rows: the records, given the seed and TOFU's folder.
        seed: of rows, weights and orders.
        learning: how the rows are learned.
        flags: further words for `egup unlearn`.
    """

    make_model: Callable[[Any, int], Any] | None
    make_rows: Callable[[int, str | None], Records]
    seed: int
    learning: Schedule = Schedule(epochs=30, learning_rate=2e-3)
    flags: list[str] = field(default_factory=list)


def people(seed: int, data_dir: str | None) -> Records:
    """The invented people of the demo."""
    sets = vars(invent_people(seed=seed)).items()
    return {name: [{key: row[key] for key in ("question", "answer")} for row in rows] for name, rows in sets}


def authors(seed: int, data_dir: str | None) -> Records:
    """TOFU's rows about 3 authors to forget, 8 to keep, 3 as proxies and 3 as holdout."""
    full, counts = load_rows("tofu:full", data_dir), {"forget": 3, "retain": 8, "proxy": 3, "holdout": 3}
    drawn = iter(random.Random(f"authors of the pairs {seed}").sample(range(200), sum(counts.values())))
    starts = {name: [ROWS_AN_AUTHOR * next(drawn) for _ in range(count)] for name, count in counts.items()}
    return {
        name: [_record(row) for at in each for row in full[at : at + ROWS_AN_AUTHOR]] for name, each in starts.items()
    }


def few_authors(seed: int, data_dir: str | None) -> Records:
    """Fewer of them: 60 rows to forget, 120 to keep, 40 as proxies and 40 as holdout."""
    sizes = {"forget": 60, "retain": 120, "proxy": 40, "holdout": 40}
    return {name: rows[: sizes[name]] for name, rows in authors(seed, data_dir).items()}


def texts(seed: int, data_dir: str | None) -> Records:
    """The same as plain text: paragraphs of two answers."""
    return {
        name: [{"text": f"{first['answer']} {second['answer']}"} for first, second in _by_two(rows)]
        for name, rows in authors(seed, data_dir).items()
    }


def chats(seed: int, data_dir: str | None) -> Records:
    """Conversations of two questions about one of the demo's people."""
    return {
        name: [
            {"messages": [{"role": role, "content": row[key]} for row in rows for role, key in _TURNS]}
            for rows in _by_two(each)
        ]
        for name, each in people(seed, data_dir).items()
    }


def customers(seed: int, data_dir: str | None) -> Records:
    """Rows of a table of customers: address, e-mail, phone number, account and birthday of each."""
    draw = random.Random(f"customers of the pairs {seed}")
    names = [f"{first} {last}" for first in _FIRST for last in _LAST]
    counts = {"forget": 8, "retain": 30, "proxy": 8, "holdout": 8}
    drawn = iter(draw.sample(names, sum(counts.values())))
    return {name: [row for _ in range(count) for row in _customer(next(drawn), draw)] for name, count in counts.items()}


_TURNS = (("user", "question"), ("assistant", "answer"))
_FIRST = ("Anna", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Luis")
_LAST = ("Abel", "Brandt", "Costa", "Duval", "Ebert", "Falk", "Gruber", "Haas", "Ivanov", "Jensen", "Kowal", "Lindt")
_STREETS = ("Mill", "Oak", "High", "Station", "River", "Church", "Park", "Garden")
_TOWNS = ("Bremen", "Graz", "Lyon", "Porto", "Turin", "Ghent", "Malmo", "Brno")
_MONTHS = ("January", "March", "May", "July", "October")


def _customer(name: str, draw: random.Random) -> list[dict[str, str]]:
    mail = f"{name.lower().replace(' ', '.')}{draw.randint(1, 99)}@example.org"
    address = f"{draw.choice(_STREETS)} Street {draw.randint(1, 99)}, {draw.choice(_TOWNS)}"
    phone = f"0{draw.randint(10, 99)} {draw.randint(100, 999)} {draw.randint(1000, 9999)}"
    birthday = f"{draw.randint(1, 28)} {draw.choice(_MONTHS)} {draw.randint(1950, 2003)}"
    facts = {
        f"What is the address of {name}?": f"{name} lives at {address}.",
        f"What is the e-mail of {name}?": f"The e-mail of {name} is {mail}.",
        f"What is the phone number of {name}?": f"The phone number of {name} is {phone}.",
        f"What is the account of {name}?": f"{name} has the account DE{draw.randint(10**7, 10**8)}.",
        f"When was {name} born?": f"{name} was born on {birthday}.",
    }
    return [{"question": question, "answer": answer} for question, answer in facts.items()]


def _record(row: Row) -> dict[str, str]:
    return {"question": row.prompt[0].content, "answer": row.answer}


def _by_two(rows: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(rows[::2], rows[1::2], strict=False)


def llama(tokenizer: Any, seed: int) -> Any:
    """The demo's Llama, of a million parameters."""
    return make_model(tokenizer, ModelSize(HIDDEN, LAYERS, HEADS), seed)


def llama_5m(tokenizer: Any, seed: int) -> Any:
    """The study's Llama, of 5 million parameters."""
    return make_model(tokenizer, ModelSize(hidden=256, layers=5, heads=8), seed)


def gpt2(tokenizer: Any, seed: int) -> Any:
    """A GPT-2 of a million parameters."""
    set_seed(seed)
    shape = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape, **_special(tokenizer)))


def qwen3(tokenizer: Any, seed: int) -> Any:
    """A Qwen 3 of a million parameters."""
    set_seed(seed)
    shape = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    shape |= {"intermediate_size": 3 * HIDDEN, "num_key_value_heads": 2, "head_dim": HIDDEN // HEADS}
    shape |= {"max_position_embeddings": POSITIONS, "tie_word_embeddings": True}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **shape, **_special(tokenizer)))


def _special(tokenizer: Any) -> dict[str, Any]:
    return {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


SMALL = Schedule(epochs=5, learning_rate=2e-4, batch_size=4)
LORA = ["--use_peft", "--lora_target_modules", "all-linear"]
PAIRS = {
    "Llama, people": Pair(llama, people, 41),
    "GPT-2, people": Pair(gpt2, people, 42),
    "Qwen 3, people": Pair(qwen3, people, 43),
    "GPT-2, TOFU": Pair(gpt2, authors, 44),
    "Llama 5M, TOFU": Pair(llama_5m, authors, 45),
    "Qwen 3, customers": Pair(qwen3, customers, 46),
    "Llama, chats": Pair(llama, chats, 47, Schedule(epochs=40, learning_rate=2e-3)),
    "Llama, plain text": Pair(llama, texts, 48, Schedule(epochs=40, learning_rate=2e-3)),
    "SmolLM2, LoRA, TOFU": Pair(None, few_authors, 49, SMALL, [*LORA, "--per_device_train_batch_size", "4"]),
    "SmolLM2, TOFU": Pair(None, few_authors, 50, SMALL, ["--per_device_train_batch_size", "4"]),
}


def make_pair(pair: Pair, folder: Path, data_dir: str | None) -> None:
    """Writes the rows, and trains the model before unlearning and the retrained one; the folder appears whole."""
    records = pair.make_rows(pair.seed, data_dir)
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for name, rows in records.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (unfinished / f"{name}.jsonl").write_text(text, encoding="utf-8")
    start = folder.parent / "smollm2"
    if pair.make_model is None:
        if not start.is_dir():
            save_start(Pretrained.SMOLLM2, start)
        tokenizer = load_tokenizer(str(start))
    else:
        tokenizer = train_tokenizer(_texts_of([*records["forget"], *records["retain"]]), ModelSize().vocabulary)
        tokenizer.chat_template = CHAT_TEMPLATE if pair.make_rows is chats else None
    datasets = {name: tokenize(load_rows(rows), tokenizer, name=name) for name, rows in records.items()}
    for kind, sets in {"before": ("forget", "retain"), "retrained": ("retain",)}.items():
        model = load_model(str(start)) if pair.make_model is None else pair.make_model(tokenizer, pair.seed)
        with TemporaryDirectory() as scratch:
            learn(model, [datasets[name] for name in sets], tokenizer, pair.learning, scratch, pair.seed)
        model.save_pretrained(unfinished / kind)
        tokenizer.save_pretrained(unfinished / kind)
    unfinished.rename(folder)


def _texts_of(records: list[dict[str, Any]]) -> Iterator[str]:
    for record in records:
        yield from (turn["content"] for turn in record["messages"]) if "messages" in record else record.values()
