"""Measure an epoch of fine-tuning beside a plain loop over transformers.

Protocol. A process each, interleaved rounds; in every round each contender trains one
epoch on the same short texts (docstring summaries cut to drawn lengths) with two
classes, by AdamW, 16 texts a step, gradients cut to norm 1, dropout as the checkpoint
says. Weights are float32, and so is what is computed, but for two contenders under
torch's autocast to bfloat16, where the machine has arithmetic for it. All have trained
one epoch before the first round, so what is computed once is not counted: it is
reported as seconds before the first epoch. The plain loop freezes by
``requires_grad_(False)`` and pads each batch to its longest text; once with batches
drawn at random and once with the batches of like length that sklearn_bert makes.
sklearn_bert also runs with the states of the frozen layers recomputed.

Command: ``python benchmarks/bench_finetune.py [--cases ...] [--contenders NAME ...]
[--texts N] [--rounds N] [--keep | --out FILE] [--short]``
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import common

CASES = {"4 of 6 layers frozen": 4, "nothing frozen": 0}
PLAIN = "transformers, batches at random"
CONTENDERS = {
    PLAIN: {"how": "plain", "is_sorted": False},
    "transformers, batches of like length": {"how": "plain", "is_sorted": True},
    "sklearn_bert": {"how": "own", "keeps_states": True},
    "sklearn_bert, frozen layers recomputed": {"how": "own", "keeps_states": False},
    "transformers, like length, bfloat16": {
        "how": "plain", "is_sorted": True, "dtype": "bfloat16",
    },
    "sklearn_bert, bfloat16": {"how": "own", "keeps_states": True, "dtype": "bfloat16"},
}  # fmt: skip
TEXTS_PER_STEP = 16
RATES = {"encoder": 1e-5, "head": 1e-4}


def make_data(texts):
    """Return texts and two classes that lie in every length."""
    import numpy as np

    from sklearn_bert.training import Data

    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    weights = np.ones(len(given), dtype=np.float32)
    return Data(given, np.arange(len(given)) % 2, weights)


def make_trainer(model, texts, n_frozen, max_iter, keeps_states, dtype="float32"):
    from sklearn_bert.checkpoint import find_checkpoint
    from sklearn_bert.training import Recipe, Trainer
    from sklearn_bert.tuned import Design, TunedNetwork

    design = Design(
        poolings=("mean",), max_length=common.MAX_LENGTH, prompt="", hidden_size=0,
        n_outputs=2, is_multilabel=False, dtype=dtype,
    )  # fmt: skip
    recipe = Recipe(
        n_frozen=n_frozen, unfreezing="none", head_warmup=0,
        texts_per_step=TEXTS_PER_STEP, max_iter=max_iter,
        learning_rate=RATES["encoder"], head_learning_rate=RATES["head"],
        layer_decay=1.0, warmup=0.0, weight_decay=0.01, max_grad_norm=1.0,
        label_smoothing=0.0, n_iter_no_change=None, seed=0,
    )  # fmt: skip
    network = TunedNetwork(find_checkpoint(model), design, "auto")
    return Trainer(network, recipe, make_data(texts), keeps_states=keeps_states)


def prepare_plain(model, texts, n_frozen, max_iter, is_sorted, dtype="float32"):
    """Return a function that trains an epoch as one would write it."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    data = make_data(texts)
    steps_of = None
    if is_sorted:
        trainer = make_trainer(model, texts, n_frozen, max_iter, keeps_states=False)
        trainer.close()
        steps_of = trainer._steps
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModel.from_pretrained(model, dtype=torch.float32).to(device).train()
    head = torch.nn.Linear(network.config.hidden_size, 2).to(device)
    if n_frozen:
        network.embeddings.requires_grad_(False)
        for block in network.encoder.layer[:n_frozen]:
            block.requires_grad_(False)
    own = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": own, "lr": RATES["encoder"]},
            {"params": head.parameters(), "lr": RATES["head"]},
        ],
        weight_decay=0.01,
        fused=True,
    )
    everything = [*own, *head.parameters()]
    rng = np.random.default_rng(0)
    encoded = tokenizer(
        data.texts, truncation=True, max_length=common.MAX_LENGTH,
    )["input_ids"]  # fmt: skip
    n_steps = -(-len(encoded) // TEXTS_PER_STEP)
    epoch = 0

    def work():
        nonlocal epoch
        if steps_of is None:
            steps = np.array_split(rng.permutation(len(encoded)), n_steps)
        else:
            steps = steps_of(epoch)
        epoch += 1
        for rows in steps:
            inputs = tokenizer.pad(
                {"input_ids": [encoded[i] for i in rows]}, return_tensors="pt"
            ).to(device)
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                states = network(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"].unsqueeze(-1)
            scores = head((states * mask).sum(1) / mask.sum(1))
            targets = torch.from_numpy(data.targets[rows]).to(device)
            loss = torch.nn.functional.cross_entropy(scores, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(everything, 1.0)
            optimizer.step()
        return {}

    return work


def prepare(model, texts, n_frozen, max_iter, how, **options):
    if options.get("dtype") == "bfloat16" and not common.has_bfloat16():
        raise RuntimeError("this processor has no bfloat16 arithmetic")
    started = time.perf_counter()
    if how == "plain":
        epoch = prepare_plain(model, texts, n_frozen, max_iter, **options)
    else:
        trainer = make_trainer(model, texts, n_frozen, max_iter, **options)
        epoch = trainer.run_epoch
    before = time.perf_counter() - started
    epoch()

    def work():
        epoch()
        return {"before": before}

    return work


def compare(
    case: str, chosen: list[str], n_texts: int, rounds: int, place: Path
) -> dict:
    model = common.minilm()
    texts = common.make_texts("short", n_texts)
    file = place / "texts.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    shared = {
        "model": model, "texts": str(file), "n_frozen": CASES[case],
        "max_iter": rounds + 1,
    }  # fmt: skip
    contenders = {
        name: shared | CONTENDERS[name]
        for name in chosen
        # Where nothing is frozen there is nothing to recompute.
        if CASES[case] or CONTENDERS[name].get("keeps_states", True)
    }
    answers, absent = common.race(__file__, contenders, rounds)
    seconds = {name: common.seconds_of(given) for name, given in answers.items()}
    rows = {}
    for name, values in seconds.items():
        rows[name] = {
            "seconds": common.rounded(values),
            "seconds_before": round(answers[name][0]["before"], 2),
            "texts_per_second": round(n_texts / statistics.median(values), 1),
        }
        if PLAIN in seconds:
            rows[name]["ratio"] = common.ratios(seconds[PLAIN], values)
    return {
        "n_texts": n_texts,
        "tokens": common.spread(common.count_tokens(model, texts)),
        "rounds": rounds,
        "rows": rows,
        "absent": absent,
    }


def report(results: dict) -> str:
    """Return the tables of results, in Markdown."""
    return common.report_cases(
        results,
        ("an epoch of", "times faster", "texts/s", "seconds before"),
        lambda case, facts: (
            f"**{case}**: the default model, {facts['n_texts']} texts (mean "
            f"{facts['tokens']['mean']:.0f} tokens), {facts['rounds']} rounds."
        ),
        lambda row: (f"{row['texts_per_second']:,.0f}", f"{row['seconds_before']:.1f}"),
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    names = list(CONTENDERS)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--contenders", nargs="+", choices=names, default=names, metavar="NAME",
        help=f"of: {'; '.join(names)}",
    )  # fmt: skip
    parser.add_argument("--texts", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)


def main() -> None:
    if common.is_worker():
        common.serve(prepare)
        return
    short = {
        "texts": 96, "rounds": 2, "cases": list(CASES)[:1],
        "contenders": list(CONTENDERS)[:3],
    }  # fmt: skip
    options = common.parse(__doc__, add_options, short)
    keeper = common.Keeper("finetune", options)
    with tempfile.TemporaryDirectory() as name:
        for case in options.cases:
            common.say(case)
            facts = compare(
                case, options.contenders, options.texts, options.rounds, Path(name)
            )
            keeper.add(case, facts)
            print(report({"cases": {case: facts}}), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
