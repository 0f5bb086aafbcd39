"""Look inside: which layer, which pooling, what a representation holds, and pictures.

Every question is a function that returns data and a Display that draws it. A module per
question; none needs matplotlib until something is drawn, and none imports another but
`_drawing`.

Level 7 of the module map: the modules in here import `checkpoint`, `features` and
`vectorizer`.
"""

from ._sweep import LayerSweep, LayerSweepDisplay, layer_sweep

__all__ = ["LayerSweep", "LayerSweepDisplay", "layer_sweep"]
