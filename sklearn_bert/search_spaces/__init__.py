"""What is worth searching: layers, combinations, poolings and the strength of the head.

Given an encoder, the sensible space as plain data for scikit-learn's searches
(`_plain`), and the same in the forms of Optuna, FLAML, skrub and TPOT (`_tools`), which
are imported when their function is called. Nothing here encodes a text, loads a network
or searches.

Level 9 of the module map: the modules in here import `_validation`, `checkpoint`,
`probe` and `vectorizer`; nothing imports them.
"""

from ._plain import grid_space, plain_space, random_space
from ._tools import (
    flaml_learner,
    flaml_space,
    optuna_space,
    skrub_choices,
    suggest,
    tpot_node,
)

__all__ = [
    "flaml_learner",
    "flaml_space",
    "grid_space",
    "optuna_space",
    "plain_space",
    "random_space",
    "skrub_choices",
    "suggest",
    "tpot_node",
]
