"""Faster linear layers for a loaded, frozen network on a CPU.

`pack_linears` swaps every ``nn.Linear`` below a module for one whose weight oneDNN has
laid out once, for its matrix kernels. The GELU that follows, where the architecture is
known to have one there, is applied by oneDNN with AVX-512, and in place without; the
one by tanh, which transformers spells out in several operations, by torch's own. The
network stays transformers' own. Packing uses operators that are private to torch, so it
is tried, never assumed: the caller compares the swapped network with the plain one and
takes the swap back with `unpack` if a number differs.

Level 0 of the module map: only `network` imports it; it imports nothing of the package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PackedLinear", "pack_linears", "unpack"]

_ROWS = 2048  # tokens per batch that the layout is made for; others work as well
# Where a GELU directly follows a linear layer: names of both in one parent module.
_FOLLOWED_BY_GELU = {
    ("dense", "intermediate_act_fn"),  # BERT, RoBERTa, ELECTRA, MPNet, DeBERTa, ERNIE
    ("lin1", "activation"),  # DistilBERT
    ("ffn", "activation"),  # ALBERT
}

# Classes of transformers, and the GELU that each is.
_GELUS = {
    "GELUActivation": "gelu", "NewGELUActivation": "tanh", "FastGELUActivation": "tanh",
    "GELUTanh": "tanh",
}  # fmt: skip

Swap = tuple[nn.Module, str, nn.Module]  # parent, name, what was there


class PackedLinear(nn.Module):
    """A frozen linear layer whose weight is laid out for oneDNN.

    Parameters
    ----------
    linear : nn.Linear
        On the CPU.
    activation : {"none", "gelu", "tanh"}
        Applied to the result; "gelu" is the exact one, "tanh" its approximation.
    """

    def __init__(self, linear: nn.Linear, activation: str) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = activation
        self.is_fused = activation == "gelu" and _fuses_well()

    def forward(self, states: Tensor) -> Tensor:
        """Return activation(states @ weight.T + bias)."""
        activation = self.activation if self.is_fused else "none"
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self.packed, self.bias, activation, [], "none"
        )
        if self.activation != "none" and not self.is_fused:
            approximate = "tanh" if self.activation == "tanh" else "none"
            result = torch.ops.aten.gelu_(result, approximate=approximate)
        return result


def _fuses_well() -> bool:
    """Whether oneDNN's own GELU is the faster one: without AVX-512 it is not.

    There it adds a quarter to the time of the widest layer, and torch's a tenth.
    """
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def pack_linears(modules: list[nn.Module]) -> list[Swap]:
    """Swap the linear layers below modules; return what was swapped, maybe nothing."""
    if not torch.backends.mkldnn.is_available():
        return []
    swaps: list[Swap] = []
    try:
        for parent in [p for module in modules for p in module.modules()]:
            fused, kind = _linear_before_gelu(parent)
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    activation = kind if name == fused else "none"
                    setattr(parent, name, PackedLinear(child, activation))
                    swaps.append((parent, name, child))
            for linear, gelu in _FOLLOWED_BY_GELU:
                if linear == fused and hasattr(parent, gelu):
                    swaps.append((parent, gelu, getattr(parent, gelu)))
                    setattr(parent, gelu, nn.Identity())
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        unpack(swaps)  # this build of torch packs otherwise, or not at all
        return []
    return swaps


def unpack(swaps: list[Swap]) -> None:
    """Put back what `pack_linears` swapped."""
    for parent, name, original in reversed(swaps):
        setattr(parent, name, original)


def _linear_before_gelu(parent: nn.Module) -> tuple[str | None, str]:
    """Return the name of the linear layer of parent that a GELU follows, and which."""
    for linear, gelu in _FOLLOWED_BY_GELU:
        follower: Any = getattr(parent, gelu, None)
        kind = _GELUS.get(type(follower).__name__, "")
        if isinstance(follower, nn.GELU):
            kind = "gelu" if follower.approximate == "none" else follower.approximate
        if kind and type(getattr(parent, linear, None)) is nn.Linear:
            return linear, kind
    return None, "none"
