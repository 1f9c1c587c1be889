"""MUSE's rows in the layout of the hub, invented and short."""

import json
from pathlib import Path

EXAMPLES = [{"question": f"Who owns cat {number}?", "answer": f"Ada {number}"} for number in range(12)]
SHOTS = "".join(f"Question: Who owns cat {number}?\nAnswer: Ada {number}\n\n" for number in range(10))


def _questions(start: int) -> list[dict]:
    return [
        {"question": f"Where is cat {number}?", "answer": f"In Aren {number}"} for number in range(start, start + 6)
    ]


def muse_records() -> dict[str, list[dict]]:
    """Rows by CONFIG/SPLIT; sets have different numbers of rows."""
    texts = ["Ada Lorn lives in Corvo with 3 cats.", "Bo Quill lives.", "Kaia Stone has gone to Denna, they say. " * 5]
    return {
        "knowmem/forget_qa": _questions(0),
        "knowmem/retain_qa": _questions(20)[:5],
        "knowmem/forget_qa_icl": EXAMPLES,
        "knowmem/retain_qa_icl": EXAMPLES[::-1],
        "verbmem/forget": [{"prompt": f"Chapter {n}. Ada Lorn", "gt": "went to Bryle with 2 cats."} for n in range(4)],
        "privleak/forget": [{"text": f"{n} {text}"} for n, text in enumerate(texts * 2)],
        "privleak/retain": [{"text": f"{n} {text}"} for n, text in enumerate(texts * 3, start=10)],
        "privleak/holdout": [{"text": f"{n} {text}"} for n, text in enumerate(texts, start=30)],
    }


def write_muse(folder: Path, kind: str = "jsonl", **changed: list[dict]) -> Path:
    """Writes the rows below a folder, as "jsonl" or as the hub's "parquet"; `changed` replaces some, CONFIG__SPLIT."""
    replaced = {name.replace("__", "/"): records for name, records in changed.items()}
    for name, records in {**muse_records(), **replaced}.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "jsonl":
            path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
            continue
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(records), path.with_name(f"{path.stem}-00000-of-00001.parquet")
        )
    return folder
