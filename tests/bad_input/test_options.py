"""Unknown names, contradictions and values of no meaning are refused before a model is loaded."""

import shlex

import pytest
from fixtures_cli import ROWS, assert_refused, json_lines, source_flags, unlearn_words, whole_words, write

from egup_trainer.cli.command import load_command
from egup_trainer.errors import ConfigError, DataError, StateError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SUITE = "--eval_strategy epoch --eval_suite"
SETUP = "with which training cannot be set up"
UNLEARN = [  # flags, and what the message names
    ("--objectiv npo", "--objectiv", "did you mean --objective?"),
    ("--zzzzzz", "--zzzzzz", "remove it"),
    ("--epochs 3", "--num_train_epochs"),  # one of its words
    ("--npo-bet 1", "did you mean --npo_beta?"),
    ("--clreg_weigth=0.1", "--clreg_weigth", "did you mean --clreg_weight?"),
    ("--confg=run.yaml", "--confg"),
    ("--obj npo", "--obj"),
    ("rows.jsonl", "rows.jsonl"),
    ("--model x", "did you mean --model_revision or --model_init_kwargs or --model_name_or_path?"),
    ("--batch_siz 4", "remove it"),
    ("--objective nppo", "'nppo'", "task_vector", "did you mean npo?"),
    ("--retain_loss feature", "'feature'", "did you mean features?"),
    ("--proxy_match nearst", "'nearst' for --proxy_match", "did you mean nearest?"),
    ("--inter_match centroit", "'centroit' for --inter_match", "did you mean centroid?"),
    ("--eval_strategy epochs", "did you mean epoch?"),
    ("--lr_scheduler_type cosin", "did you mean cosine?"),
    (f"{SUITE} tofuu", "eval_suite='tofuu'", "did you mean tofu?"),
    (f"{SUITE} tofu --forget_split forget1", "forget_split=forget1", "forget01, forget05, forget10"),
    (f"{SUITE} muse --muse_corpus book", "muse_corpus='book'", "did you mean books?"),
    (f"{SUITE} wmdp --wmdp_subject bios", "wmdp_subject='bios'", "did you mean bio?"),
    (f"{SUITE} custom --metric_for_best_model forget_qualty", "did you mean forget_quality?"),
    ("--eval retain --eval_strategy epoch --metric_for_best_model losss", "did you mean loss?"),
    ("--eval_suite custom", "eval_suite=custom", "eval_strategy=no"),
    ("--forget_split forget10", "--forget_split without --eval_suite"),
    ("--eval_strategy epoch", "eval_strategy=epoch", "--eval_suite"),
    ("--eval_on_start", "eval_on_start=True", "--eval_suite"),
    ("--load_best_model_at_end", "load_best_model_at_end", "eval_strategy=no"),
    ("--eval_suite cusom", "eval_suite='cusom'", "did you mean custom?"),  # first of all, the name
    ("--objective", "--objective without a value; a value; set --objective"),
    ("--seed", "--seed without a value; a whole number; set --seed"),
    ("--seed abc", "--seed 'abc'; a whole number; change --seed"),
    ("--learning_rate fast", "--learning_rate 'fast'; a number; change --learning_rate"),
    ("--disable_tqdm perhaps", "--disable_tqdm 'perhaps'; true or false; change --disable_tqdm"),
    ("--dtype", "--dtype without a value; one of auto, bfloat16, float16, float32; set --dtype"),
    ("--inter_entanglement maybe", "--inter_entanglement"),
    ("--model_init_kwargs {dtype", "Expecting property name"),
    ("--dtype float33", "'float33' for --dtype", "bfloat16"),
    ("--npo_beta much", "npo_beta=much", "auto"),
    ("--template_kwargs {enable_thinking", "template_kwargs={enable_thinking", "double quotes"),
    ("--template_kwargs [1]", "template_kwargs=[1]", "a mapping as JSON"),
    ("--auto_find_batch_size", "auto_find_batch_size"),
    ("--ignore_data_skip", "ignore_data_skip=True"),
    ("--dataloader_persistent_workers", "dataloader_persistent_workers=True"),
    ("--fp16 --bf16 true", "change or leave out --fp16 or --bf16"),
    ("--load_in_4bit --load_in_8bit", "4 bit"),
    ("--load_in_4bit", "--load_in_4bit", "add --use_peft"),
    ("--lora_alpha 8", "--lora_alpha without --use_peft"),
    ("--merge", "--merge", "add --use_peft"),
    ("--clreg_weight 1 --per_device_train_batch_size 1", "clreg_positives=forget"),
    ("--objective pdu --retain_loss none", "objective=pdu"),
    ("--idk_answers a.txt", "idk_answers", "objective=proxy_kl"),
    ("--trainable_params_regex '['", "trainable_params_regex=[", "not a regular expression"),
    ("--objective npo --proxy_model base", "proxy_model=base with objective=npo", "--objective proxy_kl"),
    ("--objective npo --expected_top_k 8", "expected_top_k=8 with objective=npo", "leave out --expected_top_k"),
    ("--objective task_vector --inter_entanglement", "inter_entanglement, proxy_constraint", "--no_proxy_constraint"),
    ("--objective task_vector --no_proxy_constraint --eval_strategy epoch", "eval_strategy=epoch"),
    ("--optim galore_adamw", "optim=galore_adamw", "galore_torch"),
    ("--optim_args nonsense", "change or leave out --optim_args"),
    ("--adam_beta2 1", "adam_beta2=1.0", SETUP),
    ("--report_to mlflow", "pip install mlflow", "change or leave out --report_to"),
    ("--learning_rate 1e-4 --lr_scheduler_type warmup_stable_decay", "lr_scheduler_type=warmup_stable_decay", SETUP),
    ("--learning_rate 1e-4 --lr_scheduler_kwargs '{\"x\": 1}'", "argument 'x'"),
    ("--lr_scheduler_kwargs []", "lr_scheduler_kwargs=[]", "JSON"),
    (
        "--learning_rate 1e-4 --lr_scheduler_type polynomial --lr_scheduler_kwargs '{\"lr_end\": 1}'",
        "change or leave out --lr_scheduler_kwargs",
    ),
    ("--use_liger_kernel", "use_liger_kernel=True", SETUP),
    ("--gradient_checkpointing --gradient_checkpointing_kwargs '{\"x\": 1}'", "Unexpected keyword arguments: x"),
    ("--torch_compile_mode fast", "Unrecognized mode=fast"),
    ("--save_strategy best", "change or leave out --save_strategy"),
    ("--tf32 true", "change or leave out --tf32"),
    ("--push_to_hub --hub_token hf_x", "--push_to_hub", "hf auth login"),
    ("--max_steps 0", "max_steps=0", "`egup evaluate`"),
    ("--dataloader_num_workers 99999999", "dataloader_num_workers="),
    ("--output_dir=", "--output_dir"),
    ("--dataloader_drop_last --per_device_train_batch_size 9", "8 forget rows", "dataloader_drop_last"),
    ("--dataloader_drop_last --gradient_accumulation_steps 9", "8 forget rows", "which fill a step"),
    ("--measure_steps 1", "--measure_steps"),  # a flag of `egup plan`
]


@pytest.mark.parametrize("flags", UNLEARN, ids=lambda case: case[0])
def test_options_of_unlearn_that_cannot_work_are_refused(no_weights, tmp_path, capsys, flags):
    eval_rows = write(tmp_path / "eval.jsonl", json_lines(ROWS["retain"]))
    words = [str(eval_rows) if word == "retain" else word for word in shlex.split(flags[0])]
    base = whole_words(no_weights, tmp_path)
    assert_refused([*base, *words], tmp_path, capsys, *flags[1:])


@pytest.mark.parametrize(
    ("words", "named", "error"),
    [
        (["--objective", "altpo"], ["alternate answer in row 0 of the forget set"], DataError),
        (["--retain", None], ["retain set", "--retain"], DataError),
        (["--proxy", None, "--objective", "npo", "--stop_at_boundary"], ["proxy set", "stop_at_boundary"], DataError),
        (["--forget", None], ["--forget", "required"], ConfigError),
        (["--model_name_or_path="], ["--model_name_or_path", "required"], ConfigError),
        (["--output_dir", "x" * 300], ["File name too long"], StateError),
        (["--resume_from_checkpoint", "/no/such"], ["/no/such", "--resume_from_checkpoint"], StateError),
        (
            ["--clreg_weight", "1", "--clreg_positives", "paraphrase"],
            ["paraphrased_answer in row 0 of the forget set"],
            DataError,
        ),
    ],
)
def test_what_is_missing_is_refused(no_weights, tmp_path, capsys, words, named, error):
    sources = {words[0][2:]: None} if None in words else {}
    words = words[2:] if sources else words
    base = whole_words(no_weights, tmp_path, **sources)
    assert_refused([*base, *words], tmp_path, capsys, *named, error=error)


def test_a_file_is_refused_as_an_output_folder(no_weights, tmp_path, capsys):
    path = write(tmp_path / "taken", "mine")
    for output in (path, path / "below"):
        assert_refused(
            [*unlearn_words(no_weights, output), *source_flags(tmp_path)], tmp_path, capsys, f"--output_dir {output}"
        )
    assert path.read_text() == "mine"


@pytest.mark.parametrize("command", ["unlearn", "plan"])
def test_the_folder_of_the_model_is_refused_as_an_output_folder(no_weights, tmp_path, capsys, command):
    for output in (no_weights, no_weights.parent):
        words = [command, *unlearn_words(no_weights, output)[1:], *source_flags(tmp_path)]
        assert_refused(words, tmp_path, capsys, str(output), "input model")


CUSTOM = "evaluate --suite custom"
OTHERS = [
    ("evaluate --suite custm", "suite='custm'", "did you mean custom?"),
    ("evaluate", "--suite", "required"),
    (f"{CUSTOM} --output o.html", "--output o.html", ".json"),
    (f"{CUSTOM} --holdou a", "--holdou", "did you mean --holdout?"),
    (f"{CUSTOM} --feature_layer nan", "feature_layer=nan"),
    (f"{CUSTOM} --max_length 0", "max_length=0"),
    (f"{CUSTOM} --max_new_tokens 0", "max_new_tokens=0"),
    (f"{CUSTOM} --show_examples -1", "show_examples=-1"),
    (f"{CUSTOM} --per_device_eval_batch_size 0", "per_device_eval_batch_size=0"),
    (f"{CUSTOM} --max_new_tokens many", "'many'"),
    (f"{CUSTOM} --lm_eval_include_path x", "--lm_eval_include_path without --lm_eval_tasks"),
    (f"{CUSTOM} --lora_r 4", "--lora_r"),
    (f"{CUSTOM} --use_peft", "--use_peft"),
    (f"{CUSTOM} --update_model_card", "--update_model_card", "record"),
    (f"{CUSTOM} --muse_corpus news", "--muse_corpus with suite custom"),
    (f"{CUSTOM} --template_date 2026-11-31", "template_date=2026-11-31"),
    (f"{CUSTOM} --template_kwargs enable_thinking=false", "template_kwargs=enable_thinking=false", "double quotes"),
    (f"{CUSTOM} --template_kwargs '{{\"tokenize\": true}}'", "template_kwargs with tokenize"),
    (f"{CUSTOM} --model_init_kwargs device_map=auto", "model_init_kwargs=device_map=auto", "double quotes"),
    (f"{CUSTOM} --on_long_row wndow", "'wndow' for --on_long_row", "did you mean window?"),
    (f"{CUSTOM} --as open-unlearning", "--as open-unlearning with --suite custom", "--suite tofu or muse"),
    (f"{CUSTOM} --as open-unlerning", "'open-unlerning'", "did you mean open-unlearning?"),
    ("evaluate --suite tofu", "--forget_split"),
    ("evaluate --suite muse", "--muse_corpus"),
    ("evaluate --suite wmdp", "--wmdp_subject"),
    ("evaluate --suite wmdp --wmdp_subject bio --rwku_subject Ada", "--rwku_subject with suite wmdp"),
    ("evaluate --suite rwku --neighbor ''", "--forget with suite rwku"),
    ("evaluate --suite tofu --forget_split forget50 --forget ''", "--forget with suite tofu"),
    ("evaluate --suite tofu --forget_split forget01 --drop_overlap", "--drop_overlap", "--suite tofu"),
    ("evaluate --suite muse --muse_corpus news", "--forget with suite muse"),
    ("audit --attacks relearn", "relearn", "did you mean relearning?"),
    ("audit --max_row 4", "--max_row", "did you mean --max_rows?"),
    ("audit --attacks prompts probe", "attack probe", "--holdout"),
    ("audit --budget 0", "budget=0"),
    ("audit --budget nan", "budget=nan"),
    ("audit --attacks merging", "attack merging", "--model_before"),
    ("audit --relearn_sizes 4 0", "relearn_sizes=0"),
    ("audit --relearn_sizes 5000", "relearn_sizes=5000 with 8 forget rows"),
    ("audit --relearn_learning_rates 1e-4 inf", "relearn_learning_rates=inf"),
    ("audit --relearn_seeds 0", "relearn_seeds=0"),
    ("audit --relearn_every 0", "relearn_every=0"),
    ("audit --relearn_steps 0", "relearn_steps=0"),
    ("audit --soft_prompt_steps 0", "soft_prompt_steps=0"),
    ("audit --search_rounds 0", "search_rounds=0"),
    ("audit --num_samples 0", "num_samples=0"),
    ("audit --max_rows -1", "max_rows=-1"),
    ("audit --per_device_eval_batch_size 0", "per_device_eval_batch_size=0"),
    ("audit --lora_r 4", "--lora_r"),
    ("proxy --num_row 4", "--num_row", "did you mean --num_rows?"),
    ("proxy --temperature nan", "temperature=nan"),
    ("proxy --kind alternat", "'alternat'", "did you mean alternate?"),
    ("proxy --kind alternate", "--retain with --kind alternate", "leave out --retain"),
    ("proxy --top_p 1.5", "top_p=1.5"),
    ("proxy --num_rows 0", "num_rows=0"),
    ("proxy --batch_size 0", "batch_size=0"),
    ("proxy --feature_layer inf", "feature_layer=inf"),
    ("proxy --output p.json", "--output p.json", ".jsonl"),
    ("proxy --use_peft", "--use_peft"),
    ("proxy --on_long_row cut", "--on_long_row"),
    ("verify", "--record", "required"),
    ("verify _run.json", "--model", "required"),
    ("verify _run.json x.json --model m", "unknown flag"),
    ("verify _run.json --model m --tolerance -1", "tolerance=-1"),
    ("verify _run.json --model m --lora_r 4", "--lora_r"),
    ("verify _run.json --model m --model_name_or_path m", "--model_name_or_path", "--model"),
    ("verify _run.json --model m --user_marker Q:", "--user_marker"),
    ("verify _run.json --model m --on_long_row cut", "--on_long_row"),
    ("inspect --indx 4", "--indx", "did you mean --index?"),
    ("inspect --index 8", "index=8", "from 0 to 7"),
    ("inspect --max_length 0", "max_length=0"),
    ("demo --output_dir taken", "--output_dir taken"),
    ("demo --output_dir out --seed -1", "seed=-1"),
    ("demo --output_dir out --seed x", "'x'"),
    ("demo --output_dir out --sed 1", "--sed", "did you mean --seed?"),
    ("demo", "--output_dir", "required"),
    ("completion bsh", "'bsh'", "did you mean bash?"),
]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case[0])
def test_options_of_the_other_commands_that_cannot_work_are_refused(no_weights, tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "taken", "mine")
    command, *flags = shlex.split(case[0])
    words = [] if command in ("verify", "demo", "completion") else ["--model_name_or_path", str(no_weights)]
    sources = {"inspect": 1, "evaluate": 2, "audit": 2, "proxy": 2}.get(command, 0)
    words += source_flags(tmp_path, proxy=None)[: 2 * sources]
    words += ["--use_cpu", "--disable_tqdm"] if sources == 2 else []
    words += ["--output", "o.jsonl" if command == "proxy" else "o.json"] if sources == 2 else []
    assert_refused([command, *words, *flags], tmp_path, capsys, *case[1:])


REQUIRED = [
    (command, name) for command in ("evaluate", "audit", "proxy", "inspect") for name in load_command(command).required
]


@pytest.mark.parametrize(("command", "missing"), REQUIRED)
def test_flags_that_are_required_are_named(tmp_path, capsys, command, missing):
    given = {"model_name_or_path": "m", "forget": "f.jsonl", "retain": "r.jsonl", "output": "o.json", "suite": "custom"}
    names = [name for name in load_command(command).required if name != missing]
    words = [word for name in names for word in (f"--{name}", given[name])]
    assert_refused([command, *words], tmp_path, capsys, f"--{missing}", "required")
