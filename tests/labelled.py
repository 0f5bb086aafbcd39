"""Where labelled texts are, if anywhere; they are no part of the project."""

import os
from pathlib import Path

DATA = Path(
    os.environ.get("SKLEARN_BERT_DATA")
    or Path(__file__).resolve().parents[2] / "shared" / "data"
)
