"""Look inside: which layer, which pooling, what a representation holds, and pictures.

Every question is a function that returns data and a Display that draws it. A module per
question; none needs matplotlib until something is drawn, and none imports another but
`_drawing`.

Level 7 of the module map: the modules in here import `_validation`, `checkpoint`,
`features`, `geometry`, `tokenizer` and `vectorizer`.
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
from ._probing import (
    DescriptionLength,
    LayerProbes,
    ProbingDisplay,
    Selectivity,
    control_labels,
    minimum_description_length,
    probe_layers,
    selectivity,
)
from ._sweep import LayerSweep, LayerSweepDisplay, SweepComparison, layer_sweep

__all__ = [
    "Anisotropy",
    "DescriptionLength",
    "ExplainedVariance",
    "FeatureHistogramDisplay",
    "LayerGeometry",
    "LayerGeometryDisplay",
    "LayerProbes",
    "LayerSimilarity",
    "LayerSimilarityDisplay",
    "LayerSweep",
    "LayerSweepDisplay",
    "PairComparison",
    "PairsDisplay",
    "ProbingDisplay",
    "ProjectionDisplay",
    "Selectivity",
    "SweepComparison",
    "alignment",
    "anisotropy",
    "compare_pairs",
    "control_labels",
    "effective_rank",
    "explained_variance",
    "layer_geometry",
    "layer_similarity",
    "layer_sweep",
    "linear_cka",
    "minimum_description_length",
    "outlier_dimensions",
    "probe_layers",
    "selectivity",
    "uniformity",
]
