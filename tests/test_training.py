"""What trains, what stays, and that a step is the step one would write by hand."""

import errno
import json
import math
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES, build_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from sklearn_bert import encoder, training
from sklearn_bert.checkpoint import find_checkpoint
from sklearn_bert.datasets import make_tiny_encoder
from sklearn_bert.training import Data, Recipe, Trainer, seed_of
from sklearn_bert.tuned import DRAWING, Design, TunedNetwork

TEXTS = [
    f"{adjective} {noun}{tail}"
    for noun, tail in (("film", ""), ("plot", " and cast"), ("joke", "!"))
    for adjective in ("good", "fine", "bad", "dull")
]
CLASSES = np.array([1, 1, 0, 0] * 3)
LABELS = np.column_stack([CLASSES, [0, 1] * 6, [1, 0, 0] * 4]).astype(np.float32)
DESIGN = Design(
    poolings=("mean",), max_length=64, prompt="", hidden_size=0, n_outputs=2,
    is_multilabel=False, dtype="float32",
)  # fmt: skip
RECIPE = Recipe(
    n_frozen=1, unfreezing="none", head_warmup=0, texts_per_step=4, max_iter=2,
    learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.9, warmup=0.0,
    weight_decay=0.01, max_grad_norm=1.0, label_smoothing=0.0, n_iter_no_change=None,
    seed=0,
)  # fmt: skip
DATA = Data(TEXTS, CLASSES, np.ones(12, dtype=np.float32))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Directory of a tiny encoder of three layers without dropout."""
    place = tmp_path_factory.mktemp("plain")
    make_tiny_encoder(place, n_layers=3)
    config = json.loads((place / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (place / "config.json").write_text(json.dumps(config))
    return str(place)


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory):
    return make_tiny_encoder(tmp_path_factory.mktemp("with_dropout"), n_layers=3)


def network_of(place, **changes):
    return TunedNetwork(find_checkpoint(place), replace(DESIGN, **changes), "cpu")


def train(place, data=DATA, design=None, **changes):
    """Return a trainer that has finished; options of Trainer may be among changes."""
    options = {
        key: changes.pop(key)
        for key in ("batch_size", "checkpoint_dir", "keeps_states", "score", "identity")
        if key in changes
    }
    network = network_of(place, **(design or {}))
    trainer = Trainer(network, replace(RECIPE, **changes), data, **options)
    with closing(trainer):
        while not trainer.is_done:
            trainer.run_epoch()
        trainer.finish()
    return trainer


def weights_of(network):
    return {k: p.detach().clone() for k, p in network._all_parameters().items()}


def assert_same_weights(found, expected, **tolerance):
    """Compare bitwise, or to a tolerance.

    A key's bias moves no attention: its gradient is rounding, of which Adam makes steps
    of full length, so that it is left out of the second comparison.
    """
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if not tolerance:
            assert torch.equal(found[name], values), name
        elif not name.endswith("key.bias"):
            torch.testing.assert_close(found[name], values, **tolerance, msg=name)


# What trains


@pytest.mark.parametrize("n_frozen", [0, 1, 2, 3])
def test_weights_below_the_boundary_stay_bitwise_and_those_above_change(
    with_dropout, n_frozen
):
    before = weights_of(network_of(with_dropout))
    after = weights_of(train(with_dropout, n_frozen=n_frozen).network)
    for name, values in after.items():
        block = name.partition("layer.")[2].partition(".")[0]
        is_trained = int(block) >= n_frozen if block else n_frozen == 0
        if name.startswith("head."):
            is_trained = True
        if "pooler" in name:
            is_trained = False
        if name.endswith("key.bias") and is_trained:
            continue  # see assert_same_weights
        assert is_trained != torch.equal(values, before[name]), name


def test_frozen_parameters_get_no_gradient(plain):
    trainer = Trainer(network_of(plain), replace(RECIPE, n_frozen=2), DATA)
    trainer.network.freeze(2)
    trainer._step(np.arange(4), 1.0)
    trainer.close()
    for name, parameter in trainer.network._all_parameters().items():
        is_trained = "layer.2." in name or name.startswith("head.")
        assert (parameter.grad is not None) == is_trained, name


def test_learning_rates_fall_by_layer_and_gains_are_not_decayed(plain):
    trainer = Trainer(network_of(plain), replace(RECIPE, n_frozen=0), DATA)
    trainer.close()
    found = {}
    for group in trainer._optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = group["base"], group["weight_decay"]
    own = trainer.network._all_parameters()
    rate = {name: found[id(p)][0] for name, p in own.items() if id(p) in found}
    assert rate["encoder.encoder.layer.2.output.dense.weight"] == 1e-3
    assert rate["encoder.encoder.layer.0.output.dense.weight"] == pytest.approx(8.1e-4)
    word = "encoder.embeddings.word_embeddings.weight"
    assert rate[word] == pytest.approx(1e-3 * 0.9**3)
    assert rate["head.classifier.0.weight"] == 1e-2
    gains = [p for p in own.values() if p.ndim == 1 and id(p) in found]
    assert {found[id(p)][1] for p in gains} == {0.0}
    assert found[id(own[word])][1] == 0.01


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_frozen": 4, "max_iter": 3}, [4, 4, 4]),
        ({"n_frozen": 4, "max_iter": 3, "head_warmup": 1}, [6, 4, 4]),
        ({"n_frozen": 4, "max_iter": 4, "unfreezing": "gradual"}, [6, 5, 4, 4]),
        ({"n_frozen": 0, "max_iter": 4, "unfreezing": "gradual"}, [6, 4, 2, 0]),
        (
            {"n_frozen": 3, "unfreezing": "gradual", "head_warmup": "probe",
             "max_iter": 4},
            [5, 4, 3, 3],
        ),
        ({"n_frozen": 2, "max_iter": 2, "head_warmup": 5}, [6, 6]),
        ({"n_frozen": 6, "max_iter": 2, "unfreezing": "gradual"}, [6, 6]),
    ],
)  # fmt: skip
def test_the_schedule_unfreezes_from_the_top(changes, expected):
    assert replace(RECIPE, **changes).schedule(6) == expected


def test_gradual_unfreezing_trains_more_blocks_each_epoch(with_dropout):
    trainer = train(with_dropout, n_frozen=0, unfreezing="gradual", max_iter=4)
    assert [epoch["n_frozen"] for epoch in trainer.history] == [3, 2, 1, 0]
    sizes = [epoch["n_trainable"] for epoch in trainer.history]
    assert sizes[0] == 2 * 32 + 2
    assert sizes == sorted(set(sizes))


def test_the_learning_rate_rises_and_falls_linearly(plain):
    trainer = train(plain, warmup=0.5, max_iter=2)  # six steps, three of them up
    rates = [trainer._factor(step) for step in range(6)]
    np.testing.assert_allclose(rates, [1 / 4, 2 / 4, 3 / 4, 1, 2 / 3, 1 / 3])


# A step


def test_a_step_of_full_fine_tuning_is_the_one_written_by_hand(plain):
    network = network_of(plain)
    recipe = replace(
        RECIPE, n_frozen=0, texts_per_step=12, max_iter=1, label_smoothing=0.1
    )
    weights = np.linspace(0.5, 1.5, 12).astype(np.float32)
    trainer = Trainer(network, recipe, Data(TEXTS, CLASSES, weights))
    state = {k: v.clone() for k, v in network.head.classifier.state_dict().items()}
    trainer.run_epoch()
    trainer.finish()

    model = AutoModel.from_pretrained(plain)
    head = torch.nn.Sequential(torch.nn.Linear(32, 2))
    head.load_state_dict(state)
    groups = []
    for part, depth in [
        (model.embeddings, 3), (model.encoder.layer[0], 2), (model.encoder.layer[1], 1),
        (model.encoder.layer[2], 0),
    ]:  # fmt: skip
        for parameter in part.parameters():
            decay = 0.01 if parameter.ndim > 1 else 0.0
            groups.append(
                {"params": [parameter], "lr": 1e-3 * 0.9**depth, "weight_decay": decay}
            )
    groups.append({"params": [head[0].weight], "lr": 1e-2, "weight_decay": 0.01})
    groups.append({"params": [head[0].bias], "lr": 1e-2, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    inputs = AutoTokenizer.from_pretrained(plain)(
        TEXTS, padding=True, return_tensors="pt"
    )
    states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    scores = head((states * mask).sum(1) / mask.sum(1))
    losses = torch.nn.functional.cross_entropy(
        scores, torch.from_numpy(CLASSES), reduction="none", label_smoothing=0.1
    )
    loss = (losses * torch.from_numpy(weights)).mean()
    loss.backward()
    everything = [p for group in groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(everything, 1.0)
    optimizer.step()

    assert trainer.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    expected = {f"encoder.{k}": p for k, p in model.named_parameters()}
    expected |= {f"head.classifier.{k}": p for k, p in head.named_parameters()}
    expected = {name: values.detach() for name, values in expected.items()}
    assert_same_weights(weights_of(network), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"head_warmup": "probe"},
        {"head_warmup": 0},
        {"head_warmup": 1, "max_iter": 3},
        {"unfreezing": "gradual", "max_iter": 4},
    ],
)
@pytest.mark.parametrize("place", ["plain", "with_dropout"])
@pytest.mark.parametrize("n_frozen", [0, 1, 2, 3])
def test_stored_states_train_as_recomputed_ones(request, place, n_frozen, options):
    options = {"n_frozen": n_frozen, **options}
    place = request.getfixturevalue(place)
    stored = train(place, **options)
    recomputed = train(place, **options, keeps_states=False)
    assert_same_weights(
        weights_of(stored.network), weights_of(recomputed.network), atol=2e-4, rtol=0
    )
    losses = [[epoch["loss"] for epoch in t.history] for t in (stored, recomputed)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected", "kept"),
    [  # three steps an epoch
        ({"n_frozen": 2, "max_iter": 3}, [0, 0, 9], {2}),
        ({"n_frozen": 2, "max_iter": 3, "head_warmup": 1}, [0, 0, 6], {2, 3}),
        ({"n_frozen": 1, "max_iter": 4, "head_warmup": 3}, [0, 3, 3], {1, 3}),
        (
            {"n_frozen": 0, "max_iter": 5, "unfreezing": "gradual"},
            [6, 9, 12],
            {1, 2, 3},
        ),
        # What one epoch alone would read is not worth a pass to keep it.
        ({"n_frozen": 2, "max_iter": 1}, [3, 3, 3], set()),
        ({"n_frozen": 0, "max_iter": 2, "head_warmup": 1}, [6, 6, 6], set()),
    ],
    ids=["frozen", "warm", "long warm", "gradual", "one epoch", "one warm epoch"],
)
def test_frozen_layers_run_once(with_dropout, options, expected, kept):
    network = network_of(with_dropout)
    runs = [0, 0, 0]
    for i, block in enumerate(network._blocks):
        block.attention.register_forward_pre_hook(
            lambda module, args, i=i: runs.__setitem__(i, runs[i] + 1)
        )
    trainer = Trainer(network, replace(RECIPE, **options), DATA)
    assert set(trainer._states) == kept
    before = list(runs)
    while not trainer.is_done:
        trainer.run_epoch()
        assert all(
            layer <= trainer.history[-1]["n_frozen"] for layer in trainer._states
        )
    trainer.finish()
    assert [now - was for now, was in zip(runs, before, strict=True)] == expected


def test_stored_states_lie_in_a_file_that_goes_with_the_trainer(with_dropout):
    trainer = Trainer(network_of(with_dropout), RECIPE, DATA)
    states = trainer._states[RECIPE.n_frozen]
    assert isinstance(states.values, np.memmap)
    assert states.counts.tolist() == trainer._lengths.tolist()
    trainer.close()
    assert not trainer._states


@pytest.fixture
def gradients(plain, monkeypatch):
    """Return a function that trains one step and returns its gradients and its loss.

    Weights would not do: Adam's first step is as long whatever the gradient's scale.
    """
    seen = {}
    step = torch.optim.AdamW.step

    def noted(self, *args):
        parameters = (p for group in self.param_groups for p in group["params"])
        seen.update((i, p.grad.clone()) for i, p in enumerate(parameters))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)

    def of_step(**options):
        seen.clear()
        options = {"n_frozen": 0, "texts_per_step": 12, "max_iter": 1, **options}
        trainer = train(plain, **options)
        return dict(seen), trainer.history[0]["loss"]

    return of_step


def norm_of(gradients):
    return float(torch.stack([g.norm() for g in gradients.values()]).norm())


@pytest.mark.parametrize("batch_size", [1, 5])
def test_small_batches_add_up_to_the_same_step(gradients, batch_size):
    expected, loss = gradients(max_grad_norm=None)
    found, of_parts = gradients(max_grad_norm=None, batch_size=batch_size)
    assert of_parts == pytest.approx(loss, rel=1e-5)
    for i, gradient in expected.items():
        torch.testing.assert_close(found[i], gradient, rtol=1e-3, atol=1e-6)


def test_gradients_are_clipped_together(gradients):
    free, _ = gradients(max_grad_norm=None)
    limit = norm_of(free) / 7
    clipped, _ = gradients(max_grad_norm=limit)
    assert norm_of(clipped) == pytest.approx(limit, rel=1e-4)
    for i, gradient in free.items():
        torch.testing.assert_close(7 * clipped[i], gradient, rtol=1e-3, atol=1e-6)
    loose, _ = gradients(max_grad_norm=2 * norm_of(free))
    assert norm_of(loose) == pytest.approx(norm_of(free), rel=1e-5)


def test_a_multilabel_target_has_a_sigmoid_per_label(plain):
    data = Data(TEXTS, LABELS, DATA.weights)
    design = {"n_outputs": 3, "is_multilabel": True}
    trainer = train(plain, data, design, max_iter=30, head_warmup="probe")
    found = trainer.network.predict(TEXTS, None) > 0
    assert (found == LABELS).mean() > 0.95


@pytest.mark.parametrize("hidden_size", [0, 8])
def test_the_head_starts_fitted(plain, hidden_size, monkeypatch):
    monkeypatch.setattr(training, "_PROBE_C", {1: 1.0, 2: 1.0})
    trainer = Trainer(
        network_of(plain, hidden_size=hidden_size),
        replace(RECIPE, head_warmup="probe", n_frozen=3), DATA,
    )  # fmt: skip
    trainer.close()
    found = trainer.network.predict(TEXTS, None).argmax(axis=1)
    assert (found == CLASSES).mean() > 0.9


def test_the_probe_start_is_logistic_regression(plain, monkeypatch):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(training, "_PROBE_C", {1: 0.5})
    trainer = Trainer(
        network_of(plain), replace(RECIPE, head_warmup="probe", n_frozen=3), DATA
    )
    states = trainer._states[3]
    Z = np.stack([rows.mean(axis=0) for rows in states])
    trainer.close()
    plain_fit = LogisticRegression(C=0.5, tol=1e-8).fit(
        StandardScaler().fit_transform(Z), CLASSES
    )
    expected = plain_fit.decision_function(StandardScaler().fit_transform(Z))
    scores = trainer.network.predict(TEXTS, None)
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], expected, atol=2e-3)


# Order and chance


def test_an_epoch_takes_every_text_once_in_an_order_of_its_own(plain):
    trainer = train(plain, max_iter=1)
    first, again, second = (trainer._steps(epoch) for epoch in (0, 0, 1))
    assert sorted(np.concatenate(first)) == list(range(12))
    assert [len(step) for step in first] == [4, 4, 4]
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, second))


def test_texts_of_a_step_are_of_like_length(plain):
    texts = ["a" * n for n in range(1, 41)]
    data = Data(texts, np.arange(40) % 2, np.ones(40, dtype=np.float32))
    trainer = Trainer(network_of(plain), RECIPE, data)
    trainer.close()
    spreads = [np.ptp(trainer._lengths[step]) for step in trainer._steps(0)]
    assert max(spreads) == 3


def test_a_small_rest_is_shared_out_among_steps(plain):
    data = Data(TEXTS[:9], CLASSES[:9], DATA.weights[:9])
    trainer = Trainer(network_of(plain), RECIPE, data)
    trainer.close()
    assert sorted(len(step) for step in trainer._steps(0)) == [3, 3, 3]


def test_training_repeats_bitwise_and_another_seed_differs(with_dropout):
    first, second = (weights_of(train(with_dropout).network) for _ in range(2))
    assert_same_weights(first, second)
    other = weights_of(train(with_dropout, seed=1).network)
    assert not torch.equal(
        other["head.classifier.0.weight"], first["head.classifier.0.weight"]
    )


def test_fits_in_threads_repeat_and_leave_the_generator_alone(with_dropout):
    changes = {"n_frozen": 0, "max_iter": 3}
    expected = weights_of(train(with_dropout, **changes).network)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        trainers = list(pool.map(lambda _: train(with_dropout, **changes), range(3)))
    assert torch.equal(torch.get_rng_state(), before)
    for trainer in trainers:
        assert_same_weights(weights_of(trainer.network), expected)


def test_training_needs_no_gradients_of_the_caller(plain):
    expected = weights_of(train(plain).network)
    with torch.no_grad():
        assert_same_weights(weights_of(train(plain).network), expected)


def test_nobody_elses_random_numbers_change(with_dropout):
    torch.manual_seed(3)
    numpy_state = np.random.mtrand._rand.get_state
    before = torch.get_rng_state(), numpy_state()[1].tolist(), random.getstate()
    train(with_dropout, head_warmup="probe")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_the_frozen_encoders_of_the_process_are_left_alone(with_dropout):
    frozen = encoder.get_encoder(find_checkpoint(with_dropout), "cpu", "float32")
    plan = encoder.Plan({"mean": (0, 3)}, max_length=64)
    before = frozen.encode(TEXTS, plan).columns["mean"].copy()
    known = dict(encoder._registry)
    train(with_dropout, n_frozen=0)
    assert dict(encoder._registry) == known
    np.testing.assert_array_equal(frozen.encode(TEXTS, plan).columns["mean"], before)


# Architectures

BOUNDARIES = {"albert": [3]}
REFUSED = {"mobilebert", "convbert"}


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - REFUSED))
def test_every_architecture_starts_from_the_states_of_any_layer(name, tmp_path):
    place = str(build_checkpoint(name, tmp_path / name))
    network = network_of(place, max_length=32)
    for layer in BOUNDARIES.get(name, [1, 2, 3]):
        assert network.can_start_at(layer), layer


@pytest.mark.parametrize("name", ["deberta_v2", "distilbert", "electra", "modernbert"])
def test_other_architectures_train_above_the_boundary_only(name, tmp_path):
    place = str(build_checkpoint(name, tmp_path / name))
    before = weights_of(network_of(place, max_length=32))
    trainer = train(place, design={"max_length": 32}, n_frozen=2, max_iter=1)
    changed = {
        key.removeprefix("encoder.")
        for key, values in weights_of(trainer.network).items()
        if not torch.equal(values, before[key]) and not key.startswith("head.")
    }
    assert len(changed) > 5
    assert all(re.search(r"layers?\.2\.|final_norm", name) for name in changed)
    assert ("final_norm.weight" in changed) == (name == "modernbert")


def test_torch_s_generator_is_free_between_steps(with_dropout, monkeypatch):
    held, factor, step = [], Trainer._factor, Trainer._step

    def noted_factor(self, i):
        held.append(("between", DRAWING.are_taken()))
        return factor(self, i)

    def noted_step(self, rows, rate):
        held.append(("within", DRAWING.are_taken()))
        return step(self, rows, rate)

    monkeypatch.setattr(Trainer, "_factor", noted_factor)
    monkeypatch.setattr(Trainer, "_step", noted_step)
    train(with_dropout, max_iter=2)
    assert set(held) == {("between", False), ("within", True)}
    assert not DRAWING.are_taken()


def test_shared_layers_are_frozen_all_or_none(tmp_path):
    place = str(build_checkpoint("albert", tmp_path / "albert"))
    with pytest.raises(ValueError, match=r"num_layers_to_freeze=1: all its layers sha"):
        train(place, design={"max_length": 32}, n_frozen=1)
    with pytest.raises(ValueError, match=r"unfreezing='gradual': all its layers sha"):
        train(
            place, design={"max_length": 32}, n_frozen=0, unfreezing="gradual",
            max_iter=6,
        )  # fmt: skip
    trainer = train(place, design={"max_length": 32}, n_frozen=0, max_iter=1)
    assert trainer.history[0]["n_trainable"] > 1000


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_network_whose_texts_leak_is_refused(name, tmp_path):
    place = str(build_checkpoint(name, tmp_path / name))
    with pytest.raises(ValueError, match=r"padded batch differ .* same text alone"):
        network_of(place, max_length=32)


def test_a_pooler_without_weights_is_not_saved_as_if_it_had_any(tmp_path):
    place = build_checkpoint("bert_no_pooler_weights", tmp_path / "encoder")
    network = train(str(place), design={"max_length": 32}, max_iter=1).network
    (tmp_path / "saved").mkdir()
    network.save(tmp_path / "saved")
    names = load_file(tmp_path / "saved" / "model.safetensors")
    assert not any("pooler" in name for name in names)


# What does not fit, or goes wrong


def limit_batches(monkeypatch, most):
    """Let no batch of more texts fit; return the list of those that are tried."""
    scores, sizes = TunedNetwork.scores, []

    def limited(self, pieces, given=None):
        sizes.append(len(pieces))
        if len(pieces) > most:
            raise torch.OutOfMemoryError("of a device")
        return scores(self, pieces, given)

    monkeypatch.setattr(TunedNetwork, "scores", limited)
    return sizes


def test_out_of_memory_halves_the_batch_and_adds_up(gradients, monkeypatch):
    expected, loss = gradients(max_grad_norm=None)
    sizes = limit_batches(monkeypatch, 3)
    found, of_parts = gradients(max_grad_norm=None, batch_size=12)
    assert of_parts == pytest.approx(loss, rel=1e-5)
    for i, gradient in expected.items():
        torch.testing.assert_close(found[i], gradient, rtol=1e-3, atol=1e-6)
    assert sizes[:3] == [12, 6, 3]
    assert max(sizes[3:]) == 3


def test_the_batch_that_did_not_fit_is_halved_not_the_first(plain, monkeypatch):
    texts = ["good film " * 7, *TEXTS[:7]]
    data = Data(texts, CLASSES[:8], DATA.weights[:8])
    network = network_of(plain)
    network.budget = 60
    trainer = Trainer(network, replace(RECIPE, n_frozen=0, texts_per_step=8), data)
    with closing(trainer):
        sizes = limit_batches(monkeypatch, 2)
        trainer.run_epoch()
    assert sizes[0] == 1  # the long text, alone, which fits
    assert sizes[1] > 2
    assert sum(sizes) > 8
    assert math.isfinite(trainer.history[0]["loss"])


def test_a_text_that_does_not_fit_alone_is_named(plain, monkeypatch):
    def full(self, pieces, given=None):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(TunedNetwork, "scores", full)
    with pytest.raises(torch.OutOfMemoryError, match=r"A single text of \d+ tokens"):
        train(plain)


def test_a_loss_that_is_not_finite_is_said_with_its_cure(plain):
    with pytest.raises(ValueError, match=r"no longer finite .* smaller learning_rate"):
        train(plain, n_frozen=0, learning_rate=1e30, max_grad_norm=None)


def test_weights_that_the_last_step_broke_are_not_kept(plain, tmp_path):
    options = {"n_frozen": 0, "max_iter": 1, "texts_per_step": 12}
    with pytest.raises(ValueError, match=r"a weight is no longer finite in step 1 of"):
        train(plain, checkpoint_dir=tmp_path, learning_rate=1e38, **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(plain, tmp_path, monkeypatch):
    expected = weights_of(train(plain).network)
    replace_file = os.replace
    calls = []

    def full(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(*paths)

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match=r"of epoch 2 was not written .* No space"):
        trainer = train(plain, checkpoint_dir=tmp_path)
    assert_same_weights(weights_of(trainer.network), expected)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    again = Trainer(network_of(plain), RECIPE, DATA, checkpoint_dir=tmp_path)
    with closing(again):
        assert len(again.history) == 1


def test_what_safetensors_cannot_write_is_a_warning_too(plain, tmp_path, monkeypatch):
    def full(*given, **options):
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr(training, "save_file", full)
    with pytest.warns(UserWarning, match=r"of epoch 1 was not written .* No space"):
        train(plain, checkpoint_dir=tmp_path, max_iter=1)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_save_left_is_swept(plain, tmp_path):
    aside = tmp_path / "checkpoint.safetensors.0a1b.tmp"
    aside.mkdir()
    (aside / ".tmpAbCdEf").write_bytes(b"half")  # as safetensors names them
    train(plain, checkpoint_dir=tmp_path, max_iter=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_scores_that_are_all_nan_stop_as_if_none_got_better(plain):
    with pytest.warns(UserWarning, match=r"score of epoch 1 is NaN") as caught:
        trainer = train(plain, max_iter=5, n_iter_no_change=2, score=lambda _: math.nan)
    assert len(trainer.history) == 2
    assert len(caught) == 1
    assert trainer.best_epoch is None


def test_a_score_of_nan_is_never_the_best(plain):
    scores = iter([math.nan, 0.7, 0.8])
    with pytest.warns(UserWarning, match=r"score of epoch 1 is NaN"):
        trainer = train(
            plain, max_iter=3, n_iter_no_change=3, score=lambda _: next(scores)
        )
    assert trainer.best_epoch == 3


def test_a_broken_encoder_is_said_in_the_first_step(plain):
    network = network_of(plain)
    with torch.no_grad():
        network.model.encoder.layer[2].output.dense.bias.fill_(math.nan)
    trainer = Trainer(network, replace(RECIPE, n_frozen=0), DATA)
    with closing(trainer), pytest.raises(ValueError, match=r"step 1 of epoch 1"):
        trainer.run_epoch()


def test_a_broken_encoder_is_said_before_a_head_is_fitted(plain):
    network = network_of(plain)
    with torch.no_grad():
        network.model.encoder.layer[2].output.dense.bias.fill_(math.nan)
    with pytest.raises(ValueError, match=r"gives 12 of 12 texts features that are not"):
        Trainer(network, replace(RECIPE, head_warmup="probe"), DATA)


def leave_room(monkeypatch, network, n_layers):
    """Leave room on the disk for the states of so many layers, and a half."""
    n_tokens = sum(len(piece) for piece in network.pieces(DATA.texts))
    of_layer = 4 * network.checkpoint.width * n_tokens
    free = int((n_layers + 0.5) * of_layer / 0.9)
    usage = type(training.shutil.disk_usage("."))(free, 0, free)
    monkeypatch.setattr(training.shutil, "disk_usage", lambda path: usage)


def test_without_room_for_states_frozen_layers_run_again(plain, monkeypatch):
    expected = train(plain)
    leave_room(monkeypatch, network_of(plain), 0)
    with pytest.warns(UserWarning, match=r"frozen layers take .* Point TMPDIR"):
        found = train(plain)
    assert_same_weights(
        weights_of(found.network), weights_of(expected.network), atol=2e-4, rtol=0
    )


def test_with_room_for_some_states_those_that_spare_most_are_kept(plain, monkeypatch):
    network = network_of(plain)
    leave_room(monkeypatch, network, 1)
    recipe = replace(RECIPE, n_frozen=1, max_iter=4, head_warmup=1)  # 3 once, 1 thrice
    with pytest.warns(UserWarning, match=r"of 1 of 2 layers are kept"):
        trainer = Trainer(network, recipe, DATA)
    with closing(trainer):
        assert set(trainer._states) == {1}
        while not trainer.is_done:
            trainer.run_epoch()
    monkeypatch.undo()
    changes = {"n_frozen": 1, "max_iter": 4, "head_warmup": 1}
    recomputed = train(plain, **changes, keeps_states=False)
    assert_same_weights(
        weights_of(network), weights_of(recomputed.network), atol=2e-4, rtol=0
    )


@pytest.mark.filterwarnings("ignore:The states of frozen layers")
@pytest.mark.parametrize("n_layers_fit", [1, 2])
def test_a_run_goes_on_with_the_states_that_the_disk_had_room_for(
    plain, tmp_path, monkeypatch, n_layers_fit
):
    leave_room(monkeypatch, network_of(plain), n_layers_fit)
    changes = {"n_frozen": 0, "max_iter": 5, "unfreezing": "gradual"}
    whole = train(plain, **changes)
    stopped = Trainer(
        network_of(plain), replace(RECIPE, **changes), DATA, checkpoint_dir=tmp_path
    )
    stopped.run_epoch()
    stopped.close()
    resumed = train(plain, **changes, checkpoint_dir=tmp_path)
    assert_same_weights(weights_of(resumed.network), weights_of(whole.network))


@pytest.mark.skipif(os.name == "nt", reason="directories have no locks there")
def test_a_directory_is_for_one_run_at_a_time(plain, tmp_path):
    first = Trainer(network_of(plain), RECIPE, DATA, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"is in use by another fit just now"):
        Trainer(network_of(plain), RECIPE, DATA, checkpoint_dir=tmp_path)
    first.run_epoch()
    first.close()
    other = replace(RECIPE, seed=1)
    for _ in range(2):  # one that is refused lets the directory go
        with pytest.raises(ValueError, match=r"of another run: random_state differ"):
            Trainer(network_of(plain), other, DATA, checkpoint_dir=tmp_path)
    again = Trainer(network_of(plain), RECIPE, DATA, checkpoint_dir=tmp_path)
    again.close()
    assert len(again.history) == 1


def test_patience_begins_when_the_last_block_is_unfrozen(plain):
    scores = iter([0.9, *[0.5] * 9])
    options = {"unfreezing": "gradual", "n_frozen": 0, "max_iter": 9}
    trainer = train(
        plain, **options, n_iter_no_change=2, score=lambda _: next(scores)
    )  # fmt: skip
    assert [epoch["n_frozen"] for epoch in trainer.history] == [3, 2, 1, 0, 0]
    assert trainer.best_epoch == 1


def test_a_prompt_that_does_not_count_is_left_out_of_the_pooling(plain):
    checkpoint = find_checkpoint(plain)
    declared = replace(checkpoint.declared, include_prompt=False)
    design = replace(DESIGN, prompt="of ", poolings=("mean", "cls", "max"))
    network = TunedNetwork(replace(checkpoint, declared=declared), design, "cpu")
    states, counted = network._states(network.pieces(["film"]))
    pooled = network.head.pool(states, counted)[0]
    rows = states[0, 3:]  # [CLS], o, f come first
    torch.testing.assert_close(pooled[:32], rows.mean(dim=0))
    torch.testing.assert_close(pooled[32:64], rows[0])
    torch.testing.assert_close(pooled[64:], rows.amax(dim=0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_less_and_updates_in_full(plain, dtype):
    trainer = train(plain, design={"dtype": dtype}, max_iter=6)
    full = train(plain, max_iter=6)
    assert {p.dtype for p in trainer.trained.values()} == {torch.float32}
    losses = [t.history[-1]["loss"] for t in (trainer, full)]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert losses[0] != losses[1]


def test_a_step_whose_scaled_gradient_overflows_is_left_out(plain):
    network = network_of(plain, dtype="float16")
    trainer = Trainer(network, replace(RECIPE, n_frozen=0, max_iter=40), DATA)
    scale = 2.0**30  # times a gradient of 0.01, more than float16 holds
    trainer._scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = weights_of(network)
    with closing(trainer):
        trainer.run_epoch()
        assert_same_weights(weights_of(network), before)
        assert trainer._scaler.get_scale() == scale / 2**3  # three steps
        while not trainer.is_done:
            trainer.run_epoch()
    losses = [epoch["loss"] for epoch in trainer.history]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]


def test_a_trained_query_pools_by_a_softmax_over_scaled_products(plain):
    network = network_of(plain, poolings=("learned_attention",))
    width = network.checkpoint.width
    query = torch.linspace(-2, 2, width)
    with torch.no_grad():
        network.head.query.copy_(query)
        states, counted = network._states(network.pieces(["good film", "bad"]))
        found = network.head.pool(states, counted).numpy()
    for i, vector in enumerate(found):
        rows = states[i][counted[i]].double().numpy()
        weights = np.exp(rows @ query.double().numpy() / np.sqrt(width))
        expected = weights @ rows / weights.sum()
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


# Checkpoints


def scores_in(values):
    given = iter(values)
    return lambda _: next(given)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"n_frozen": 0, "unfreezing": "gradual"}, {"head_warmup": "probe"},
        {"head_warmup": 3, "n_frozen": 2, "label_smoothing": 0.1},
        {"design": {"dtype": "float16"}}, {"design": {"dtype": "bfloat16"}},
        {"design": {"poolings": ("cls", "learned_attention"), "hidden_size": 8}},
        {
            "design": {"n_outputs": 3, "is_multilabel": True},
            "data": Data(TEXTS, LABELS, np.linspace(0.5, 1.5, 12, dtype=np.float32)),
            "label_smoothing": 0.1,
        },
    ],
    ids=[
        "plain", "gradual", "probe", "warm", "float16", "bfloat16", "attention",
        "multilabel",
    ],
)  # fmt: skip
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    with_dropout, tmp_path, changes
):
    changes = {"max_iter": 4, **changes}
    whole = train(with_dropout, **changes)
    design, data = changes.pop("design", {}), changes.pop("data", DATA)
    recipe = replace(RECIPE, **changes)
    stopped = Trainer(
        network_of(with_dropout, **design), recipe, data, checkpoint_dir=tmp_path
    )
    stopped.run_epoch()
    stopped.run_epoch()
    stopped.close()
    resumed = Trainer(
        network_of(with_dropout, **design), recipe, data, checkpoint_dir=tmp_path
    )
    assert len(resumed.history) == 2
    while not resumed.is_done:
        resumed.run_epoch()
    resumed.finish()
    assert_same_weights(weights_of(resumed.network), weights_of(whole.network))
    assert [h["loss"] for h in resumed.history] == [h["loss"] for h in whole.history]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize(("scores", "n_bytes"), [(None, 12), ([0.5, 0.6], 16)])
def test_a_checkpoint_takes_so_many_bytes_per_weight(plain, tmp_path, scores, n_bytes):
    options = {"score": scores_in(scores), "n_iter_no_change": 2} if scores else {}
    trainer = train(plain, checkpoint_dir=tmp_path, **options)
    n_weights = trainer.history[0]["n_trainable"]
    size = (tmp_path / "checkpoint.safetensors").stat().st_size
    names = 200 * (n_bytes // 4) * len(trainer.trained)  # and facts
    assert 0 <= size - n_bytes * n_weights < names + 4000


def test_a_finished_run_is_not_run_again(with_dropout, tmp_path):
    first = train(with_dropout, checkpoint_dir=tmp_path)
    again = train(with_dropout, checkpoint_dir=tmp_path)
    assert_same_weights(weights_of(again.network), weights_of(first.network))
    assert again.history == first.history


def test_the_best_epoch_is_kept_and_survives_a_stop(with_dropout, tmp_path):
    scores = [0.5, 0.9, 0.7, 0.8, 0.1]
    options = {"n_iter_no_change": 2, "max_iter": 9}
    two = train(with_dropout, max_iter=9, n_iter_no_change=1,
                score=scores_in([0.9, 0.8]))  # fmt: skip
    whole = train(with_dropout, **options, score=scores_in(scores))
    assert whole.best_epoch == 2
    assert [h["score"] for h in whole.history] == scores[:4]
    assert two.best_epoch == 1
    recipe = replace(RECIPE, **options)
    stopped = Trainer(
        network_of(with_dropout), recipe, DATA, checkpoint_dir=tmp_path,
        score=scores_in(scores),
    )  # fmt: skip
    for _ in range(3):
        stopped.run_epoch()
    stopped.close()
    resumed = train(
        with_dropout, **options, checkpoint_dir=tmp_path, score=scores_in(scores[3:])
    )
    assert resumed.best_epoch == 2
    assert_same_weights(weights_of(resumed.network), weights_of(whole.network))


OTHERS = {
    "learning_rate": ({"learning_rate": 2e-3}, DATA),
    "random_state": ({"seed": 5}, DATA),
    "pooling": ({"design": {"poolings": ("max",)}}, DATA),
    "num_layers_to_freeze": ({"n_frozen": 2}, DATA),
    "X": ({}, replace(DATA, texts=[*TEXTS[:-1], "other"])),
    "y": ({}, replace(DATA, targets=1 - CLASSES)),
    "sample_weight": ({}, replace(DATA, weights=np.linspace(0.5, 1.5, 12))),
    "scoring": ({"identity": {"scoring": "'f1'"}}, DATA),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_run_is_refused(plain, tmp_path, what):
    train(plain, checkpoint_dir=tmp_path, identity={"scoring": "None"}, max_iter=1)
    changes, data = OTHERS[what]
    changes = {"identity": {"scoring": "None"}, "max_iter": 1, **changes}
    with pytest.raises(ValueError, match=rf"checkpoint of another run: {what} differ"):
        train(plain, data, checkpoint_dir=tmp_path, **changes)


def test_a_checkpoint_of_another_encoder_is_refused(plain, with_dropout, tmp_path):
    train(plain, checkpoint_dir=tmp_path, max_iter=1)
    with pytest.raises(ValueError, match="another run: model differ"):
        train(with_dropout, checkpoint_dir=tmp_path, max_iter=1)


@pytest.mark.parametrize(
    "damage", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: b"x" * 100]
)
def test_a_damaged_checkpoint_is_refused(plain, tmp_path, damage):
    train(plain, checkpoint_dir=tmp_path, max_iter=1)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint .* Delete"):
        train(plain, checkpoint_dir=tmp_path, max_iter=1)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        seed_of(tmp_path)


def test_a_checkpoint_of_another_format_is_refused(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_FORMAT", 0)
    train(plain, checkpoint_dir=tmp_path, max_iter=1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"has format 0 and this version .* format 1"):
        train(plain, checkpoint_dir=tmp_path, max_iter=1)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from sklearn_bert import training
from sklearn_bert.checkpoint import find_checkpoint
from sklearn_bert.training import Data, Recipe, Trainer
from sklearn_bert.tuned import DRAWING, Design, TunedNetwork

place, directory = sys.argv[1:3]
left = {{}}  # before it dies
step, rename, write = Trainer._step, os.replace, training.save_file

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count(what):
    left[what] -= 1
    return left[what] < 0

def counted_step(self, *args):
    return die() if count("steps") else step(self, *args)

def counted_rename(*args):
    return die() if count("renames") else rename(*args)

def counted_write(tensors, file, **options):
    write(tensors, file, **options)
    if count("writes"):
        os.truncate(file, file.stat().st_size // 2)
        die()

Trainer._step = counted_step
training.os.replace = counted_rename
training.save_file = counted_write
for moment in sys.argv[3:]:
    name, *numbers = moment.split("-")
    child = os.fork()  # before torch has threads
    if child == 0:
        left = dict(zip(("steps", "writes", "renames"), map(int, numbers)))
        data = Data({texts!r}, np.array({classes!r}), np.ones(12, dtype=np.float32))
        network = TunedNetwork(find_checkpoint(place), {design!r}, "cpu")
        trainer = Trainer(
            network, {recipe!r}, data, checkpoint_dir=Path(directory, name)
        )
        while not trainer.is_done:
            trainer.run_epoch()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.fixture
def one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="killed in a fork")
def test_a_killed_run_goes_on_to_the_same_weights(with_dropout, tmp_path, one_thread):
    recipe = replace(RECIPE, max_iter=6)
    whole = weights_of(train(with_dropout, max_iter=6).network)
    moments = [  # where, and steps, writes and renames before it dies; 3 steps an epoch
        "start-0-9-9", "early-1-9-9", "late-7-9-9", "last-11-9-9", "writing-99-0-9",
        "writing_again-99-2-9", "written-99-9-0", "written_again-99-9-3",
        *["again_and_again-4-9-9", "again_and_again-99-1-9"] * 2,
    ]  # fmt: skip
    left = {
        "start": (0, set()), "early": (0, set()), "late": (2, {".safetensors"}),
        "last": (3, {".safetensors"}), "writing": (0, {".tmp"}),
        "writing_again": (2, {".tmp", ".safetensors"}), "written": (0, {".tmp"}),
        "written_again": (3, {".tmp", ".safetensors"}),
        "again_and_again": (4, {".tmp", ".safetensors"}),
    }  # fmt: skip
    script = KILLED.format(
        texts=TEXTS, classes=CLASSES.tolist(), design=DESIGN, recipe=recipe
    )
    subprocess.run(
        [sys.executable, "-c", script, with_dropout, str(tmp_path), *moments],
        check=True,
    )
    for name, (n_epochs, files) in left.items():
        place = tmp_path / name
        assert {path.suffix for path in place.iterdir()} == files, name
        trainer = Trainer(network_of(with_dropout), recipe, DATA, checkpoint_dir=place)
        with closing(trainer):
            assert len(trainer.history) == n_epochs
            while not trainer.is_done:
                trainer.run_epoch()
            trainer.finish()
        assert_same_weights(weights_of(trainer.network), whole)
        assert [path.suffix for path in place.iterdir()] == [".safetensors"]
