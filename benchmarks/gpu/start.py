"""What happens before the parts: the small model learns its rows, and a CPU unlearns them for comparison."""

import json
from dataclasses import asdict
from tempfile import TemporaryDirectory

from benchmarks.gpu.cases import Findings
from benchmarks.gpu.place import REFERENCE, SETS, Place
from benchmarks.gpu.training import train
from egup_trainer.data.sources import load_rows
from egup_trainer.data.tokenization import tokenize
from egup_trainer.demo.twins import learn, make_model, train_tokenizer
from egup_trainer.files import write_file
from egup_trainer.records.facts import run_facts


def look(place: Place, findings: Findings) -> None:
    """The machine and its versions; fails if CUDA cannot be used in this process."""
    import torch

    with findings.case("machine") as case:
        if not place.dry:
            torch.cuda.init()
            case.measured["gpu_gb"] = torch.cuda.get_device_properties(0).total_memory / 1e9
            case.measured["gpus"] = torch.cuda.device_count()
        case.measured |= run_facts(command="python -m benchmarks.gpu")


def prepare(place: Place, findings: Findings) -> None:
    """Trains the small model, on the GPU if there is one, and writes it, its rows, and what a CPU makes of it."""
    with findings.case("small model"):
        people = {name: getattr(place.people, name) for name in SETS}
        for name, records in people.items():
            write_file(place.source(name), "\n".join(map(json.dumps, records)) + "\n")
        learned = [*people["forget"], *people["retain"]]
        texts = (record[part] for record in learned for part in ("question", "answer"))
        tokenizer = train_tokenizer(texts, place.size.vocabulary)
        rows = [tokenize(load_rows(people[name]), tokenizer, name=name) for name in ("forget", "retain")]
        with TemporaryDirectory() as folder:
            model = make_model(tokenizer, place.size, seed=0)
            model = learn(model, rows, tokenizer, place.learning, folder, seed=0)
        model.save_pretrained(place.model)
        tokenizer.save_pretrained(place.model)
    with findings.case("on the CPU") as case:
        found = train(place, on_cpu=True)
        write_file(place.folder / REFERENCE, json.dumps(asdict(found)))
        case.measured["seconds_a_step"] = found.seconds
