"""The encoders that are compared: a function of texts for each, set up at its best.

Each function takes the directory of a BERT checkpoint and returns ``encode(texts)``,
which gives the mean over the tokens of the last layer, cut to `MAX_LENGTH` tokens. The
inference engines (ONNX Runtime, OpenVINO, CTranslate2) get texts sorted by length in
batches of up to 2,048 padded tokens, which suits them better than fixed batches; the
other packages run as their documentation shows. All use as many threads as torch does.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import MAX_LENGTH, has_bfloat16, shape_of

Encode = Callable[[Sequence[str]], Any]

_BATCH_TOKENS = 2048  # padded tokens per batch of the inference engines


def ours(model: str, *, dtype: str = "float32", device: str = "cpu") -> Encode:
    from sklearn_bert import BertVectorizer

    if dtype == "bfloat16" and device == "cpu" and not has_bfloat16():
        raise RuntimeError("this processor has no bfloat16 arithmetic")
    return (
        BertVectorizer(
            model, pooling="mean", dtype=dtype, device=device, max_length=MAX_LENGTH
        )
        .fit([])
        .transform
    )


def sentence_transformers(
    model: str, *, batch_size: int, dtype: str = "float32", device: str = "cpu"
) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(
        model, device=device, model_kwargs={"dtype": getattr(torch, dtype)}
    )
    encoder.max_seq_length = MAX_LENGTH
    return lambda texts: encoder.encode(list(texts), batch_size=batch_size)


def tutorial(model: str) -> Encode:
    """Batches of 32 as given, all hidden states, as many tutorials have it."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModel.from_pretrained(model).eval()

    def encode(texts):
        rows = []
        for start in range(0, len(texts), 32):
            inputs = tokenizer(
                list(texts[start : start + 32]),
                padding=True, truncation=True, max_length=MAX_LENGTH,
                return_tensors="pt",
            )  # fmt: skip
            with torch.no_grad():
                states = network(**inputs, output_hidden_states=True).hidden_states[-1]
            mask = inputs["attention_mask"].unsqueeze(-1)
            rows.append((states * mask).sum(1) / mask.sum(1))
        return torch.cat(rows).numpy()

    return encode


def pipeline(model: str, *, batch_size: int) -> Encode:
    """Run the feature-extraction pipeline, and take the mean of what it returns.

    Beyond a batch of 1 it returns the states of padding too, without saying which: the
    mean that users take then counts them, and the cosine shows it.
    """
    import numpy as np
    import transformers

    extract = transformers.pipeline(
        "feature-extraction", model=model, device="cpu", return_tensors=True,
        tokenize_kwargs={"truncation": True, "max_length": MAX_LENGTH},
    )  # fmt: skip

    def encode(texts):
        states = extract(list(texts), batch_size=batch_size)
        return np.stack(
            [np.asarray(s).reshape(-1, s.shape[-1]).mean(0) for s in states]
        )

    return encode


def skrub(model: str) -> Encode:
    import pandas as pd
    from skrub import TextEncoder

    encoder = TextEncoder(model, n_components=None, device="cpu")
    encoder.fit(pd.Series(["a", "b"], name="text"))
    encoder._estimator.max_seq_length = MAX_LENGTH
    return lambda texts: encoder.transform(pd.Series(texts, name="text")).to_numpy()


def embetter(model: str) -> Encode:
    from embetter.text import SentenceEncoder

    encoder = SentenceEncoder(model, device="cpu")
    encoder.tfm.max_seq_length = MAX_LENGTH
    return lambda texts: encoder.transform(list(texts))


# Inference engines: a function of a padded batch, and what is around it


def onnx_runtime(model: str, *, place: str) -> Encode:
    import onnxruntime
    import torch
    from onnxruntime.transformers.optimizer import optimize_model

    file = _exported(model, place)
    fused = Path(place, "fused.onnx")
    if not fused.exists():
        shape = shape_of(model)
        # Fuses GELU and layer norms; the session adds its own optimisations.
        optimize_model(
            str(file), model_type="bert", num_heads=shape["n_heads"],
            hidden_size=shape["width"], opt_level=0,
        ).save_model_to_file(str(fused))  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(
        str(fused), options, providers=["CPUExecutionProvider"]
    )
    return _sorted_batches(
        model,
        lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[
            0
        ],
    )


def openvino(model: str, *, place: str, dtype: str) -> Encode:
    import openvino
    import torch

    if dtype == "bf16" and not has_bfloat16():
        raise RuntimeError("this processor has no bfloat16 arithmetic")
    file = _exported(model, place)
    network = openvino.Core().compile_model(
        str(file), "CPU",
        {
            "INFERENCE_PRECISION_HINT": dtype,
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time on all threads
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )  # fmt: skip
    request = network.create_infer_request()
    return _sorted_batches(
        model,
        lambda ids, mask: request.infer({"input_ids": ids, "attention_mask": mask})[0],
    )


def ctranslate2(model: str, *, place: str, dtype: str) -> Encode:
    import ctranslate2
    import numpy as np
    import torch
    from ctranslate2.converters import TransformersConverter

    directory = Path(place, "ctranslate2")
    if not directory.exists():
        partial = directory.with_name(f"ctranslate2.{os.getpid()}")
        TransformersConverter(model).convert(str(partial))
        with contextlib.suppress(OSError):  # another worker was faster
            os.rename(partial, directory)
    encoder = ctranslate2.Encoder(
        str(directory), device="cpu", compute_type=dtype,
        intra_threads=torch.get_num_threads(),
    )  # fmt: skip

    def run(ids, mask):
        rows = [row[:n].tolist() for row, n in zip(ids, mask.sum(1), strict=True)]
        return np.asarray(encoder.forward_batch(rows).last_hidden_state)

    return _sorted_batches(model, run)


def _exported(model: str, place: str) -> Path:
    """Return the file of the ONNX graph, for any numbers of texts and tokens."""
    file = Path(place, "model.onnx")
    if not file.exists():
        partial = file.with_suffix(f".{os.getpid()}")
        _export(model, partial)
        os.rename(partial, file)
    return file


def _export(model: str, file: Path) -> None:
    import torch
    from transformers import AutoModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = AutoModel.from_pretrained(model, attn_implementation="sdpa")

        def forward(self, input_ids, attention_mask):
            return self.network(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state

    ids = torch.ones((3, 12), dtype=torch.int64)
    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=MAX_LENGTH)}
    torch.onnx.export(
        States().eval(), (ids, torch.ones_like(ids)), str(file),
        input_names=["input_ids", "attention_mask"], output_names=["states"],
        dynamo=True, external_data=False, verbose=False,
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
    )  # fmt: skip


def _sorted_batches(model: str, run: Callable[[Any, Any], Any]) -> Encode:
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    width = shape_of(model)["width"]

    def encode(texts):
        encoded = tokenizer(list(texts), truncation=True, max_length=MAX_LENGTH)
        ids = encoded["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        out = np.empty((len(ids), width), dtype=np.float32)
        while order:
            longest = len(ids[order[0]])
            n_texts = max(1, _BATCH_TOKENS // longest)
            rows, order = order[:n_texts], order[n_texts:]
            padded = np.zeros((len(rows), longest), dtype=np.int64)
            mask = np.zeros_like(padded)
            for r, i in enumerate(rows):
                padded[r, : len(ids[i])] = ids[i]
                mask[r, : len(ids[i])] = 1
            states = run(padded, mask)
            weights = mask[..., None].astype(np.float32)
            out[rows] = (states * weights).sum(1) / weights.sum(1)
        return out

    return encode


REFERENCE = "sentence-transformers, batch 32"

# Name: the function, its arguments, whether it needs a place for converted files, and
# the precision of its matrix products (None: none that torch has a rate for).
CONTENDERS: dict[str, tuple[Callable[..., Encode], dict, bool, str | None]] = {
    REFERENCE: (sentence_transformers, {"batch_size": 32}, False, "float32"),
    "sentence-transformers, batch 8": (
        sentence_transformers, {"batch_size": 8}, False, "float32",
    ),
    "tutorial loop, batch 32": (tutorial, {}, False, "float32"),
    "transformers pipeline, batch 1": (pipeline, {"batch_size": 1}, False, "float32"),
    "transformers pipeline, batch 32": (pipeline, {"batch_size": 32}, False, "float32"),
    "skrub TextEncoder": (skrub, {}, False, "float32"),
    "embetter SentenceEncoder": (embetter, {}, False, "float32"),
    "ONNX Runtime float32": (onnx_runtime, {}, True, "float32"),
    "OpenVINO float32": (openvino, {"dtype": "f32"}, True, "float32"),
    "OpenVINO bfloat16": (openvino, {"dtype": "bf16"}, True, "bfloat16"),
    "CTranslate2 float32": (ctranslate2, {"dtype": "float32"}, True, "float32"),
    "CTranslate2 int8": (ctranslate2, {"dtype": "int8"}, True, None),
    "sklearn_bert float32": (ours, {"dtype": "float32"}, False, "float32"),
    "sklearn_bert bfloat16": (ours, {"dtype": "bfloat16"}, False, "bfloat16"),
}  # fmt: skip


def prepare(contender: str, model: str, texts: str, place: str) -> Callable[[], Any]:
    """Load a contender, warm it up, and return the work: to encode all texts."""
    function, arguments, needs_place, _ = CONTENDERS[contender]
    given = json.loads(Path(texts).read_text(encoding="utf-8"))
    if needs_place:
        Path(place).mkdir(parents=True, exist_ok=True)
        arguments = {**arguments, "place": place}
    encode = function(model, **arguments)
    encode(given[:32])
    return lambda: encode(given)
