"""Look inside: which layer, which pooling, what a representation holds, and pictures.

Every question is a function that returns data and a Display that draws it: `_sweep`
computes, `_sweep_display` draws. Computing parts know nothing of pictures, only parts
that draw import `_drawing`, and parts import each other without cycles. None needs
matplotlib until something is drawn.

Level 8 of the module map: the modules in here import `_validation`, `checkpoint`,
`features`, `geometry`, `ragged`, `request`, `tokenizer`, `tokens` and `vectorizer`.
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
from ._code import pipeline_code
from ._geometry import (
    LayerGeometry,
    LayerSimilarity,
    layer_geometry,
    layer_similarity,
)
from ._geometry_display import (
    FeatureHistogramDisplay,
    LayerGeometryDisplay,
    LayerSimilarityDisplay,
    ProjectionDisplay,
)
from ._layer_probes import LayerProbes, probe_layers
from ._layer_probes_display import ProbingDisplay
from ._pairs import PairComparison, compare_pairs
from ._pairs_display import PairsDisplay
from ._probing import (
    DescriptionLength,
    Selectivity,
    control_labels,
    minimum_description_length,
    selectivity,
)
from ._recommend import Reason, Recommendation, recommend
from ._sweep import LayerSweep, SweepComparison, layer_sweep
from ._sweep_display import LayerSweepDisplay

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
    "Reason",
    "Recommendation",
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
    "pipeline_code",
    "probe_layers",
    "recommend",
    "selectivity",
    "uniformity",
]
