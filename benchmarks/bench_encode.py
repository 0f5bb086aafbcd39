"""Measure how fast texts are encoded, side by side with what people use today.

Protocol: every contender runs in a process of its own, loads the model and encodes 32
texts to warm up. Then rounds begin: in each, every contender encodes the same texts
once, one after the other. Reported is the median over rounds of the ratio to
sentence-transformers with its default batch of 32 in the same round, with the smallest
and the largest ratio, and the lowest cosine to its vectors. Contenders that are not
installed are left out by name. Texts: short ones are docstring summaries, long ones
are runs of them of 100 to 500 words. BERT-base has random weights.

Command: ``python benchmarks/bench_encode.py [--texts N] [--rounds N] [--out FILE]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REFERENCE = "sentence-transformers, batch 32"


def ours(model: str, dtype: str):
    from sklearn_bert import BertVectorizer

    vectorizer = BertVectorizer(model, dtype=dtype, normalize=True).fit([])
    return vectorizer.transform


def sentence_transformers(model: str, batch_size: int):
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu")
    return lambda texts: encoder.encode(
        texts, batch_size=batch_size, normalize_embeddings=True
    )


def naive(model: str):
    """Return the loop of many tutorials: batches as given, all hidden states."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModel.from_pretrained(model).eval()

    def encode(texts):
        rows = []
        for start in range(0, len(texts), 32):
            inputs = tokenizer(
                texts[start : start + 32],
                padding=True, truncation=True, max_length=256, return_tensors="pt",
            )  # fmt: skip
            with torch.no_grad():
                states = network(**inputs, output_hidden_states=True).hidden_states[-1]
            mask = inputs["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(1) / mask.sum(1)
            rows.append(torch.nn.functional.normalize(pooled, dim=1))
        return torch.cat(rows).numpy()

    return encode


def skrub(model: str):
    import pandas as pd
    from skrub import TextEncoder

    encoder = TextEncoder(model, n_components=None, device="cpu")
    encoder.fit(pd.Series(["a", "b"], name="text"))
    return lambda texts: encoder.transform(pd.Series(texts, name="text")).to_numpy()


CONTENDERS = {
    REFERENCE: lambda model: sentence_transformers(model, 32),
    "sentence-transformers, batch 8": lambda model: sentence_transformers(model, 8),
    "tutorial loop, batch 32": naive,
    "skrub TextEncoder": skrub,
    "sklearn_bert float32": lambda model: ours(model, "float32"),
    "sklearn_bert bfloat16": lambda model: ours(model, "bfloat16"),
}


def work(name: str, model: str, texts: list[str]) -> None:
    """Encode whenever a line arrives on standard input; answer with the seconds."""
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    try:
        encode = CONTENDERS[name](model)
        encode(texts[:32])
    except ImportError as error:
        print(json.dumps({"absent": str(error)}), file=answer, flush=True)
        return
    print(json.dumps({}), file=answer, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        vectors = encode(texts)
        seconds = time.perf_counter() - started
        np.save(line.strip(), np.asarray(vectors, dtype=np.float32))
        print(json.dumps({"seconds": seconds}), file=answer, flush=True)


def make_bert_base(directory: Path) -> str:
    """Write a BERT-base with random weights and the default model's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from sklearn_bert.checkpoint import DEFAULT_MODEL, find_checkpoint

    tokenizer = find_checkpoint(DEFAULT_MODEL).directory
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)
    BertModel(BertConfig()).save_pretrained(directory)
    return str(directory)


def make_texts(kind: str, n_texts: int) -> list[str]:
    from sklearn_bert.datasets import load_docstrings

    summaries = load_docstrings(None).data
    if kind == "short":
        return (summaries * (1 + n_texts // len(summaries)))[:n_texts]
    words = " ".join(summaries).split()
    lengths = [100 + 61 * i % 400 for i in range(n_texts)]
    return [" ".join(words[37 * i % 5000 :][:n]) for i, n in enumerate(lengths)]


def compare(model: str, texts: list[str], rounds: int, place: Path) -> dict:
    import numpy as np

    file = place / "texts.json"
    file.write_text(json.dumps(texts))
    workers, absent = {}, {}
    for name in CONTENDERS:
        worker = subprocess.Popen(
            [sys.executable, __file__, "--work", name, model, str(file)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        ready = json.loads(worker.stdout.readline() or '{"absent": "it failed"}')
        if "absent" in ready:
            absent[name] = ready["absent"]
        else:
            workers[name] = worker
    seconds = {name: [] for name in workers}
    for _ in range(rounds):
        for i, (name, worker) in enumerate(workers.items()):
            worker.stdin.write(f"{place / f'{i}.npy'}\n")
            worker.stdin.flush()
            seconds[name].append(json.loads(worker.stdout.readline())["seconds"])
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    reference = np.load(place / "0.npy")
    rows = {}
    for i, name in enumerate(workers):
        ratios = [r / s for r, s in zip(seconds[REFERENCE], seconds[name], strict=True)]
        cosines = (np.load(place / f"{i}.npy") * reference).sum(axis=1)
        rows[name] = {
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "texts_per_second": len(texts) / statistics.median(seconds[name]),
            "cosine": float(cosines.min()),
        }
    return {"rows": rows, "absent": absent}


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        name, model, texts = sys.argv[2:5]
        work(name, model, json.loads(Path(texts).read_text()))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    from sklearn_bert.checkpoint import DEFAULT_MODEL, find_checkpoint

    results = {"machine": platform.processor() or platform.machine(), "cases": {}}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        models = {
            "MiniLM (6 x 384)": find_checkpoint(DEFAULT_MODEL).directory,
            "BERT-base (12 x 768)": make_bert_base(place / "base"),
        }
        for label, model in models.items():
            for kind, n_texts in (
                ("short", options.texts),
                ("long", options.texts // 4),
            ):
                n_texts = n_texts if label.startswith("MiniLM") else n_texts // 4
                texts = make_texts(kind, n_texts)
                case = compare(model, texts, options.rounds, place)
                results["cases"][f"{label}, {kind}"] = case
                print(f"\n{label}, {n_texts} {kind} texts, {options.rounds} rounds")
                print(f"{'':34s} ratio (lowest-highest)  texts/s  cosine")
                for contender, row in case["rows"].items():
                    print(
                        f"{contender:34s} {row['ratio']:5.2f} ({row['lowest']:.2f}-"
                        f"{row['highest']:.2f})      {row['texts_per_second']:9.0f}  "
                        f"{row['cosine']:.4f}",
                        flush=True,
                    )
                for contender, why in case["absent"].items():
                    print(f"{contender:34s} not here: {why}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
