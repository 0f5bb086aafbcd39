"""Packed linear layers compute what plain ones do, and come off again."""

import pytest
import torch
from checkpoints import build_checkpoint
from torch import nn
from transformers.activations import ACT2FN

from sklearn_bert.checkpoint import find_checkpoint
from sklearn_bert.encoder import Encoder, Plan
from sklearn_bert.kernels import PackedLinear, pack_linears, unpack


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_rows", [1, 7, 2048, 3000])
def test_a_packed_layer_equals_the_plain_one(n_rows, bias):
    linear = nn.Linear(48, 80, bias=bias)
    states = torch.randn(2, n_rows, 48)
    packed = PackedLinear(linear, "none")(states)
    torch.testing.assert_close(packed, linear(states), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512", "DEFAULT"])
def test_a_gelu_is_the_exact_one_fused_or_not(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    linear, states = nn.Linear(48, 80), torch.randn(30, 48)
    expected = nn.functional.gelu(linear(states))
    layer = PackedLinear(linear, "gelu")
    assert layer.is_fused == (capability == "AVX512")
    torch.testing.assert_close(layer(states), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh"]
)
def test_every_gelu_of_transformers_is_its_own(name):
    parent = nn.Module()
    parent.ffn = linear = nn.Linear(48, 80)
    parent.activation = gelu = ACT2FN[name]
    states = 3 * torch.randn(30, 48)
    expected = gelu(linear(states))
    swaps = pack_linears([parent])
    assert isinstance(parent.activation, nn.Identity)
    torch.testing.assert_close(parent.ffn(states), expected, atol=1e-5, rtol=1e-5)
    unpack(swaps)
    assert parent.activation is gelu


@pytest.mark.parametrize("name", ["relu", "quick_gelu", "gelu_10", "silu"])
def test_what_is_no_gelu_stays(name):
    parent = nn.Module()
    parent.ffn, parent.activation = nn.Linear(48, 80), ACT2FN[name]
    pack_linears([parent])
    assert parent.activation is not None
    assert not isinstance(parent.activation, nn.Identity)
    assert parent.ffn.activation == "none"


def load(tmp_path, name):
    path = build_checkpoint(name, tmp_path / name)
    return Encoder(find_checkpoint(str(path)), "cpu", "float32")


@pytest.mark.parametrize(
    ("name", "gelu"),
    [("bert", "gelu"), ("distilbert", "gelu"), ("albert", "tanh"), ("modernbert", "")],
)
def test_linear_layers_of_a_network_are_swapped(tmp_path, name, gelu):
    encoder = load(tmp_path, name)
    layers = [m for block in encoder.network._blocks for m in block.modules()]
    assert encoder.execution.linear == "prepacked"
    assert not any(type(layer) is nn.Linear for layer in layers)
    packed = [layer for layer in layers if isinstance(layer, PackedLinear)]
    assert {layer.activation for layer in packed} == {"none", gelu or "none"}


def test_unpack_puts_everything_back(tmp_path):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(build_checkpoint("bert", tmp_path / "bert"))
    before = str(model)
    swaps = pack_linears([model])
    assert str(model) != before
    unpack(swaps)
    assert str(model) == before


def test_a_swap_that_changes_numbers_is_taken_back(tmp_path, monkeypatch):
    def wrong(self, states):
        return nn.functional.linear(states, self.plain) + 1

    monkeypatch.setattr(PackedLinear, "forward", wrong)
    encoder = load(tmp_path, "bert")
    assert encoder.execution.linear == "plain"
    encoded = encoder.encode(["text"], Plan({"mean": (3,)}, 64))
    assert encoded.n_passes == 1


def test_a_torch_without_the_operators_runs_plain(tmp_path, monkeypatch):
    def absent(self, linear, activation):
        raise AttributeError("no such operator")

    monkeypatch.setattr(PackedLinear, "__init__", absent)
    assert load(tmp_path, "bert").execution.linear == "plain"
