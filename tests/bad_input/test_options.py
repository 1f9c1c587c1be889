"""Unknown names, contradictions and values of no meaning are refused in one line, with a guess at what was meant."""

import pytest
from fixtures_bad_input import ROWS, assert_refused, json_lines, source_flags, unlearn_words, write

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

# name -> (flags, sources, what the line must say)
REFUSED = {
    "flag": (
        ["--objectiv", "npo"],
        {},
        "unknown flag --objectiv, but expected a flag of `egup unlearn --help`. Did you mean --objective?",
    ),
    "far flag": (
        ["--zzzzzz"],
        {},
        "Got the unknown flag --zzzzzz, but expected a flag of `egup unlearn --help`. Remove it.",
    ),
    "flag with its value": (
        ["--clreg_weigth=0.1"],
        {},
        "Got the unknown flag --clreg_weigth, but expected a flag of `egup unlearn --help`. Did you mean "
        "--clreg_weight?",
    ),
    "config": (["--confg=run.yaml"], {}, "Got the unknown flag --confg, but expected a flag of"),
    "shortened flag": (["--obj", "npo"], {}, "Got the unknown flag --obj"),
    "word": (["rows.jsonl"], {}, "Got the unknown flag rows.jsonl"),
    "objective": (
        ["--objective", "nppo"],
        {},
        "Got objective='nppo', but expected one of grad_ascent, grad_diff, npo, simnpo, wga, satimp, ceu, "
        "undial, dpo, altpo, rmu, pdu, task_vector, finetune. Did you mean npo?",
    ),
    "retain loss": (
        ["--retain_loss", "feature"],
        {},
        "Got retain_loss='feature', but expected one of nll, kl, features, none. Did you mean features?",
    ),
    "choice": (
        ["--proxy_match", "nearst"],
        {},
        "'nearst' for --proxy_match, but expected one of mean, nearest. Did you mean nearest?",
    ),
    "choice of transformers": (["--eval_strategy", "epochs"], {}, "Did you mean epoch?"),
    "scheduler": (["--lr_scheduler_type", "cosin"], {}, "Did you mean cosine?"),
    "suite": (
        ["--eval_suite", "tofuu", "--eval_strategy", "epoch"],
        {},
        "Got eval_suite='tofuu', but expected one of tofu, muse, custom. Did you mean tofu?",
    ),
    "split": (
        ["--eval_suite", "tofu", "--eval_strategy", "epoch", "--forget_split", "forget1"],
        {},
        "Got forget_split=forget1, but expected one of forget01, forget05, forget10. Did you mean forget",
    ),
    "corpus": (
        ["--eval_suite", "muse", "--eval_strategy", "epoch", "--muse_corpus", "book"],
        {},
        "Got muse_corpus='book', but expected one of news, books. Did you mean books?",
    ),
    "metric": (
        ["--eval_suite", "custom", "--eval_strategy", "epoch", "--metric_for_best_model", "forget_qualty"],
        {},
        "Got metric_for_best_model=forget_qualty, but expected loss, or a metric of the suite. "
        "Did you mean forget_quality?",
    ),
    "metric without a suite": (
        ["--eval_strategy", "epoch", "--metric_for_best_model", "losss"],
        {"eval": "retain"},
        "Got metric_for_best_model=losss, but expected loss, unless there is an --eval_suite. Did you mean loss?",
    ),
    "flag without a value": (["--objective"], {}, "Got argument --objective: expected one argument"),
    "text for a number": (["--learning_rate", "fast"], {}, "invalid float value: 'fast'"),
    "text for a switch": (["--inter_entanglement", "maybe"], {}, "Got argument --inter_entanglement"),
    "text for JSON": (
        ["--model_init_kwargs", "{dtype"],
        {},
        "Got options that cannot be used (Expecting property name",
    ),
    "dtype": (
        ["--dtype", "float33"],
        {},
        "Got the invalid choice: 'float33' for --dtype, but expected one of auto, bfloat16",
    ),
    "batch size to be found": (
        ["--auto_find_batch_size"],
        {},
        "Got auto_find_batch_size, but expected a batch size that fits: a search starts again on weights that have "
        "moved",
    ),
    "rows visited again": (["--ignore_data_skip"], {}, "Got ignore_data_skip=True, but expected False, the only value"),
    "two precisions": (["--fp16", "--bf16", "true"], {}, "Got options that cannot be used ("),
    "two quantisations": (["--load_in_4bit", "--load_in_8bit"], {}, "4 bit"),
    "adapter's flag alone": (
        ["--lora_alpha", "8"],
        {},
        "Got --lora_alpha without --use_peft, but expected both or none",
    ),
    "suite without evaluation": (["--eval_suite", "custom"], {}, "Got eval_suite=custom with eval_strategy=no"),
    "split without suite": (["--forget_split", "forget10"], {}, "Got --forget_split without --eval_suite"),
    "one row a step": (
        ["--clreg_weight", "1", "--per_device_train_batch_size", "1"],
        {},
        "Got clreg_positives=forget with one forget row a step",
    ),
    "rate without constraint": (
        ["--no_proxy_constraint", "--proxy_dual_rate", "0.1"],
        {},
        "Got proxy_dual_rate=0.1 without the proxy constraint",
    ),
    "reference without constraint": (
        ["--no_proxy_constraint", "--proxy_reference", "current"],
        {},
        "Got proxy_reference=current without the proxy constraint",
    ),
    "boundary without proxies": (["--stop_at_boundary"], {"proxy": None}, "Got no proxy set with stop_at_boundary"),
    "auto without proxies": (["--npo_beta", "auto"], {"proxy": None}, "Got "),
    "bounded without retain": (
        ["--objective", "pdu", "--retain_loss", "none"],
        {},
        "Got objective=pdu without a retain loss",
    ),
    "refusals without dpo": (
        ["--idk_answers", "a.txt"],
        {},
        "Got idk_answers with objective=npo, but expected both for dpo",
    ),
    "no alternate": (["--objective", "altpo"], {}, "Got no alternate answer in row 0 of the forget set"),
    "parts that negation cannot carry": (
        ["--objective", "task_vector", "--inter_entanglement"],
        {},
        "Got objective=task_vector with inter_entanglement, proxy_constraint, but expected it without them",
    ),
    "negation with evaluation": (
        ["--objective", "task_vector", "--no_proxy_constraint", "--eval_strategy", "epoch"],
        {},
        "Got objective=task_vector with eval_strategy=epoch",
    ),
    "best of no evaluation": (["--load_best_model_at_end"], {}, "Got load_best_model_at_end with eval_strategy=no"),
    "optimizer's package": (
        ["--optim", "galore_adamw"],
        {},
        "Got optim=galore_adamw, with which training cannot be set up (You need to install `galore_torch`",
    ),
    "optimizer's arguments": (["--optim_args", "nonsense"], {}, ". Change or leave out --optim_args"),
    "optimizer's own range": (["--adam_beta2", "1"], {}, "Got adam_beta2=1.0, with which training cannot be set up ("),
    "logger's package": (
        ["--report_to", "mlflow"],
        {},
        "(MLflowCallback requires mlflow to be installed. Run `pip install mlflow`.), but expected options for which "
        "transformers, accelerate and PyTorch have all that they need. Change or leave out --report_to, or install "
        "what is missing.",
    ),
    "scheduler without arguments": (
        ["--lr_scheduler_type", "warmup_stable_decay"],
        {},
        "Got lr_scheduler_type=warmup_stable_decay, with which training cannot be set up (",
    ),
    "scheduler's argument": (
        ["--lr_scheduler_kwargs", '{"x": 1}'],
        {},
        "argument 'x'), but expected options for which",
    ),
    "scheduler's arguments as a list": (
        ["--lr_scheduler_kwargs", "[]"],
        {},
        "Got lr_scheduler_kwargs=[], but expected a mapping as JSON, in braces. Set --lr_scheduler_kwargs or leave "
        "it out.",
    ),
    "scheduler's and another flag": (
        ["--weight_decay", "0.1", "--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"lr_end": 1}'],
        {},
        ". Change or leave out --lr_scheduler_kwargs",
    ),
    "kernels": (["--use_liger_kernel"], {}, "Got use_liger_kernel=True, with which training cannot be set up ("),
    "checkpointing's argument": (
        ["--gradient_checkpointing", "--gradient_checkpointing_kwargs", '{"x": 1}'],
        {},
        "(Unexpected keyword arguments: x)",
    ),
    "compiler's mode": (["--torch_compile_mode", "fast"], {}, "(Unrecognized mode=fast, should be one of: "),
    "best without a metric": (["--save_strategy", "best"], {}, ". Change or leave out --save_strategy"),
    "hub without a token": (
        ["--push_to_hub", "--hub_token", "hf_x"],
        {},
        "Got --push_to_hub, and a hub that cannot be used (",
    ),
    "evaluation at the start": (
        ["--eval_on_start"],
        {},
        "Got eval_on_start=True without evaluation rows, but expected rows to evaluate on. Give eval_dataset (--eval "
        "or "
        "--eval_suite), or leave out --eval_on_start.",
    ),
    "no steps": (
        ["--max_steps", "0"],
        {},
        "Got max_steps=0, but expected 1 or more, or -1 for as many steps as --num_train_epochs has. Set "
        "--max_steps; to "
        "measure a model without training it, see `egup evaluate`.",
    ),
    "more workers than a machine has": (["--dataloader_num_workers", "99999999"], {}, "Got dataloader_num_workers="),
    "flag of a library's own check": (
        ["--tf32", "true"],
        {},
        "(--tf32 requires Ampere or a newer GPU arch, cuda>=11 and torch>=1.7), but expected valid flags. Change or "
        "leave "
        "out --tf32.",
    ),
    "beginning of flags": (
        ["--model", "x"],
        {},
        "Did you mean --model_revision or --model_init_kwargs or --model_name_or_path?",
    ),
    "word of a flag": (["--batch_siz", "4"], {}, ". Remove it"),
    "no name": (["--output_dir="], {}, "Got an empty --output_dir, but expected a folder. Name one, or leave out"),
    "name that is too long": (["--output_dir", "x" * 300], {}, "cannot be written (File name too long), but expected"),
    "no retain": ([], {"retain": None}, "Got no retain set, but expected rows to keep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_of_unlearn_that_cannot_work_are_refused(no_weights, tmp_path, capsys, name):
    flags, sources, says = REFUSED[name]
    eval_rows = write(tmp_path / "eval.jsonl", json_lines(ROWS["retain"]))
    sources = {source: eval_rows if path == "retain" else path for source, path in sources.items()}
    words = [*unlearn_words(no_weights, tmp_path / "out"), *source_flags(tmp_path, **sources)]
    assert_refused([*words, *flags], tmp_path, capsys, says)


def test_a_file_is_no_output_folder(no_weights, tmp_path, capsys):
    path = write(tmp_path / "taken", "mine")
    words = [*unlearn_words(no_weights, path), *source_flags(tmp_path)]
    assert_refused(words, tmp_path, capsys, f"Got --output_dir {path}, which is no folder and cannot become one")
    words = [*unlearn_words(no_weights, path / "below"), *source_flags(tmp_path)]
    assert_refused(words, tmp_path, capsys, f"Got --output_dir {path / 'below'}, which is no folder")
    assert path.read_text() == "mine"


OTHERS = {
    "evaluate suite": (
        "evaluate",
        ["--suite", "custm"],
        "Got suite='custm', but expected one of tofu, muse, custom. Did you mean custom?",
    ),
    "evaluate flag": (
        "evaluate",
        ["--suite", "custom", "--holdou", "a"],
        "Got the unknown flag --holdou, but expected a flag of `egup evaluate --help`. Did you mean --holdout?",
    ),
    "evaluate layer": ("evaluate", ["--suite", "custom", "--feature_layer", "nan"], "Got feature_layer=nan"),
    "evaluate length": (
        "evaluate",
        ["--suite", "custom", "--max_length", "0"],
        "Got max_length=0, but expected a whole number of at least 1",
    ),
    "evaluate another suite's flag": (
        "evaluate",
        ["--suite", "custom", "--muse_corpus", "news"],
        "Got --muse_corpus with suite custom, which does not read it",
    ),
    "evaluate tasks' folder alone": (
        "evaluate",
        ["--suite", "custom", "--lm_eval_include_path", "x"],
        "Got --lm_eval_include_path without --lm_eval_tasks",
    ),
    "evaluate no suite": ("evaluate", [], "Got no --suite, but expected it to be given. See `egup evaluate --help`."),
    "evaluate adapter's flag": (
        "evaluate",
        ["--suite", "custom", "--lora_r", "4"],
        "Got --lora_r, but expected an adapter's folder",
    ),
    "audit attack": (
        "audit",
        ["--attacks", "relearn"],
        "Got the unknown attack relearn, but expected attacks among relearning, quantization, prompts, sampling, "
        "probe, "
        "membership. Did you mean relearning?",
    ),
    "audit flag": (
        "audit",
        ["--max_row", "4"],
        "Got the unknown flag --max_row, but expected a flag of `egup audit --help`. Did you mean --max_rows?",
    ),
    "audit without holdout": ("audit", ["--attacks", "probe"], "Got the attack probe without holdout rows"),
    "audit share": (
        "audit",
        ["--relearn_share", "nan"],
        "Got relearn_share=nan, but expected a number above 0 and at most 1",
    ),
    "audit rate": (
        "audit",
        ["--relearn_learning_rate", "inf"],
        "Got relearn_learning_rate=inf, but expected a number above 0",
    ),
    "audit samples": ("audit", ["--num_samples", "0"], "Got num_samples=0, but expected a whole number of at least 1"),
    "audit rows": ("audit", ["--max_rows", "-1"], "Got max_rows=-1, but expected a whole number of at least 1"),
    "proxy flag": (
        "proxy",
        ["--num_row", "4"],
        "Got the unknown flag --num_row, but expected a flag of `egup proxy --help`. Did you mean --num_rows?",
    ),
    "proxy temperature": ("proxy", ["--temperature", "nan"], "Got temperature=nan, but expected a number above 0"),
    "proxy share": ("proxy", ["--top_p", "1.5"], "Got top_p=1.5, but expected a number above 0 and at most 1"),
    "proxy rows": ("proxy", ["--num_rows", "0"], "Got num_rows=0, but expected a whole number of at least 1"),
    "proxy layer": ("proxy", ["--feature_layer", "inf"], "Got feature_layer=inf"),
    "inspect flag": (
        "inspect",
        ["--indx", "4"],
        "Got the unknown flag --indx, but expected a flag of `egup inspect --help`. Did you mean --index?",
    ),
    "inspect index": ("inspect", ["--index", "8"], "Got index=8, but expected a number from 0 to 7. Set --index."),
    "inspect length": ("inspect", ["--max_length", "0"], "Got max_length=0, but expected a whole number of at least"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_options_of_the_other_commands_that_cannot_work_are_refused(no_weights, tmp_path, capsys, name):
    command, flags, says = OTHERS[name]
    words = [command, "--model_name_or_path", str(no_weights), *source_flags(tmp_path, proxy=None)]
    words = words[:5] if command == "inspect" else [*words, "--use_cpu", "--disable_tqdm"]
    output = {"evaluate": "o.json", "audit": "o.json", "proxy": "o.jsonl"}.get(command)
    words += ["--output", str(tmp_path / output)] if output else []
    assert_refused([*words, *flags], tmp_path, capsys, says)


def test_options_of_demo_that_cannot_work_are_refused(tmp_path, capsys):
    path, out = write(tmp_path / "taken", "mine"), str(tmp_path / "out")
    for flags, says in {
        ("--output_dir", str(path)): f"Got --output_dir {path}, which is no folder and cannot become one",
        ("--output_dir", out, "--seed", "-1"): "Got seed=-1, but expected a whole number of at least 0. Set --seed.",
        ("--output_dir", out, "--seed", "x"): (
            "Got argument --seed: invalid int value: 'x', but expected flags as shown"
        ),
        (
            "--output_dir",
            out,
            "--sed",
            "1",
        ): "Got the unknown flag --sed, but expected a flag of `egup demo --help`. Did you mean --seed?",
        (): "Got the following arguments are required: --output_dir, but expected flags as shown by --help",
    }.items():
        assert_refused(["demo", *flags], tmp_path, capsys, says)
