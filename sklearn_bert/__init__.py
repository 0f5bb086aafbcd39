"""BERT features for scikit-learn: encode once, then search everything else.

Importing this package imports neither torch nor transformers; they are loaded when a
text has to be encoded.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "BertFineTuneClassifier", "BertProbeClassifier", "BertTokenProbeClassifier",
    "BertTokenVectorizer", "BertVectorizer", "__version__", "span_f1",
]  # fmt: skip

if TYPE_CHECKING:
    from .finetune import BertFineTuneClassifier
    from .probe import BertProbeClassifier
    from .token_probe import BertTokenProbeClassifier, span_f1
    from .tokens import BertTokenVectorizer
    from .vectorizer import BertVectorizer

_HOMES = {
    "BertFineTuneClassifier": "finetune",
    "BertProbeClassifier": "probe",
    "BertTokenProbeClassifier": "token_probe",
    "BertTokenVectorizer": "tokens",
    "BertVectorizer": "vectorizer",
    "span_f1": "token_probe",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
