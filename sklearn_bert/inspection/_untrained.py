"""An encoder that has learned nothing: the same architecture with random weights.

Its files are written into a temporary directory and named by their contents, so that
the same seed finds the same place in the store.

Imports `checkpoint` and `request`; torch and `tokenizer` when asked to write.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint, find_checkpoint
from ..request import Request

__all__ = ["untrained_features"]

_WEIGHTS = (".safetensors", ".bin", ".index.json", ".h5", ".msgpack", ".onnx", ".ot")


def untrained_features(
    vectorizer: Any, request: Request, texts: list[Any], seed: int
) -> NDArray[np.float32]:
    """Return features by layer under random weights, before any normalisation."""
    checkpoint = request.checkpoint
    # A loaded encoder may keep the files mapped, which Windows does not delete.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        _write_untrained(checkpoint, Path(place), seed)
        written = find_checkpoint(place, trust_remote_code=checkpoint.trust_remote_code)
        untrained = replace(
            checkpoint,
            name=f"{checkpoint.name}, untrained",
            directory=place,
            fingerprint=written.fingerprint,
        )
        request = replace(request, checkpoint=untrained)
        block: NDArray[np.float32] = vectorizer._by_layer(texts, request)
        return block


def _write_untrained(checkpoint: Checkpoint, directory: Path, seed: int) -> None:
    """Write an encoder's files with random weights, the same for the same seed."""
    import torch
    from transformers import AutoConfig, AutoModel

    from ..tokenizer import QUIET

    for file in Path(checkpoint.directory).iterdir():
        # modules.json names directories; what it declares is known by now.
        if file.is_file() and not file.name.endswith((*_WEIGHTS, "modules.json")):
            shutil.copyfile(file, directory / file.name)
    remote = {"trust_remote_code": checkpoint.trust_remote_code}
    config = AutoConfig.from_pretrained(str(directory), **remote)
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(int(seed))
        network = AutoModel.from_config(config, dtype=torch.float32, **remote)
    finally:
        torch.set_rng_state(state)
    with tempfile.TemporaryDirectory() as place, QUIET:
        network.save_pretrained(place)  # also writes a configuration of its own
        for file in Path(place).iterdir():
            if file.name.endswith(_WEIGHTS):
                shutil.move(file, directory / file.name)
