"""Measure whether memory grows with anything but the output.

Protocol: 10,000, 50,000 and 200,000 real short texts (the first 12 words of a paragraph
and a number, so that all are distinct) go through `BertVectorizer.transform`, in a
fresh process each, with a tiny random encoder, so that the number of texts dominates
and not the network. Reported is the peak resident size above the one after loading,
less the bytes of the output, in all and per text.

Command: ``python benchmarks/bench_memory.py CORPUS`` where CORPUS is a gzipped text
file with a paragraph a line; without it, numbered sentences are used.
"""

import gzip
import json
import subprocess
import sys
import tempfile

WORKER = """
import gzip, itertools, json, resource, sys, warnings
from sklearn_bert import BertVectorizer
warnings.simplefilter("ignore")
model, corpus, n_texts, memory = *sys.argv[1:3], int(sys.argv[3]), sys.argv[4] or None
lines = gzip.open(corpus, "rt", encoding="utf-8") if corpus else ("a short text",)
words = (line.split()[:12] for line in itertools.cycle(list(lines)) if line.strip())
texts = [" ".join(w) + f" {i}" for i, w in zip(range(n_texts), words)]
vectorizer = BertVectorizer(model, memory=memory).fit([])
vectorizer.transform(["warm up"])
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
result = vectorizer.transform(texts)
print(json.dumps({"n_texts": n_texts, "output_bytes": result.nbytes,
                  "grown_bytes": peak() - before}))
"""


def main() -> None:
    from sklearn_bert.datasets import make_tiny_encoder

    corpus = sys.argv[1] if len(sys.argv) > 1 else ""
    if corpus:
        with gzip.open(corpus, "rt", encoding="utf-8") as stream:
            stream.readline()
    print("memory  n_texts   output MB   beyond it MB   bytes per text beyond")
    for is_kept in (False, True):
        for n_texts in (10_000, 50_000, 200_000):
            with tempfile.TemporaryDirectory() as place:
                model = make_tiny_encoder(f"{place}/encoder", width=64)
                memory = f"{place}/memory" if is_kept else ""
                run = subprocess.run(
                    [sys.executable, "-c", WORKER, model, corpus, str(n_texts), memory],
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
            row = json.loads(run.stdout)
            beyond = row["grown_bytes"] - row["output_bytes"]
            print(
                f"{'disk' if is_kept else 'none':6s} {n_texts:8,d} "
                f"{row['output_bytes'] / 1e6:11.1f} {beyond / 1e6:14.1f} "
                f"{beyond / n_texts:14.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
