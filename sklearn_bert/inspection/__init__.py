"""Look inside: which layer, which pooling, what a representation holds, and pictures.

Every question is a function that returns data and a Display that draws it. A module per
question; none needs matplotlib until something is drawn, and none imports another but
`_drawing`.

Level 7 of the module map: the modules in here import `_validation`, `checkpoint`,
`features`, `geometry` and `vectorizer`.
"""

from ..geometry import (
    Anisotropy,
    ExplainedVariance,
    alignment,
    anisotropy,
    effective_rank,
    explained_variance,
    linear_cka,
    outlier_dimensions,
    uniformity,
)
from ._geometry import (
    FeatureHistogramDisplay,
    LayerGeometry,
    LayerGeometryDisplay,
    LayerSimilarity,
    LayerSimilarityDisplay,
    ProjectionDisplay,
    layer_geometry,
    layer_similarity,
)
from ._pairs import PairComparison, PairsDisplay, compare_pairs
from ._sweep import LayerSweep, LayerSweepDisplay, layer_sweep

__all__ = [
    "Anisotropy",
    "ExplainedVariance",
    "FeatureHistogramDisplay",
    "LayerGeometry",
    "LayerGeometryDisplay",
    "LayerSimilarity",
    "LayerSimilarityDisplay",
    "LayerSweep",
    "LayerSweepDisplay",
    "PairComparison",
    "PairsDisplay",
    "ProjectionDisplay",
    "alignment",
    "anisotropy",
    "compare_pairs",
    "effective_rank",
    "explained_variance",
    "layer_geometry",
    "layer_similarity",
    "layer_sweep",
    "linear_cka",
    "outlier_dimensions",
    "uniformity",
]
