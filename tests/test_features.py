"""Memory stays bounded, whatever the number of texts."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys, warnings
import numpy as np
from sklearn_bert import BertVectorizer

warnings.simplefilter("ignore")
model, memory, n_texts = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
vectorizer = BertVectorizer(model, memory=memory, layer=[0, 1, 2]).fit([])
vectorizer.transform(["warm up"] * 10)
texts = [f"a short text, number {i}" for i in range(n_texts)]
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
result = vectorizer.transform(texts)
print(json.dumps({"grown": peak() - before, "output": result.nbytes}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_kept", [False, True])
def test_memory_grows_only_with_the_output(tiny, tmp_path, is_kept):
    memory = str(tmp_path) if is_kept else ""

    def overhead(n_texts):
        run = subprocess.run(
            [sys.executable, "-c", CODE, tiny, memory, str(n_texts)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        numbers = json.loads(run.stdout)
        return numbers["grown"] - numbers["output"]

    few, many = overhead(2_000), overhead(20_000)
    # Per text beyond its features: its key, its place, its share of a dictionary.
    assert many - few < 18_000 * 1_000
