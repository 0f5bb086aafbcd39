"""A function has one name in every process, and no other has it."""

import os
import subprocess
import sys
import threading
from functools import lru_cache, partial

import numpy as np
import pytest
from sklearn.metrics import f1_score, make_scorer

from sklearn_bert.naming import name_of

IN_EVERY_PROCESS = """
import re, sys
from functools import lru_cache, partial
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from sklearn_bert.naming import name_of

def plain(e, X, y): return sum(v in {'aa', 'bb', 'cc', 'dd'} for v in y)
def around(*values):
    def score(e, X, y): return values
    return score
class Holds:
    def __init__(self, value): self.value = value
    def __call__(self, e, X, y): return 1.0
    def score(self, e, X, y): return 2.0
held = [plain, {"a": plain, "b": {"x", "y", "z"}}, Holds(object()), LogisticRegression]
held += [re.compile("a"), np.arange(3), np.mean, np.add, "text".join, Holds(3.0)]
for scoring in (
    plain, make_scorer(partial(f1_score, average="macro")), make_scorer(f1_score),
    partial(plain, metric=f1_score), around(f1_score), around(*held), Holds(held),
    Holds(held).score, lru_cache(around(plain)), lambda e, X, y: held,
):
    print(name_of(scoring))
"""


def test_a_function_has_one_name_in_every_process():
    names = [
        subprocess.run(
            [sys.executable, "-c", IN_EVERY_PROCESS], capture_output=True, text=True,
            check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    ]  # fmt: skip
    assert len(set(names)) == 1
    one = names[0].splitlines()
    assert len(set(one)) == len(one) == 10
    assert "0x" not in names[0]


def around(value):
    def score(estimator, X, y):
        return value

    return score


def with_default(value):
    def score(estimator, X, y, *, factor=value):
        return factor

    return score


class Holds:
    def __init__(self, value):
        self.value = value

    def __call__(self, estimator, X, y):
        return self.value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def score(self, estimator, X, y):
        return self.value


def signs(n_texts, sign):
    values = np.zeros(n_texts)
    values[n_texts // 2] = sign  # where a repr leaves numbers out
    return values


@pytest.mark.parametrize(
    "make",
    [
        around, with_default, Holds, lambda v: Holds(v).__call__,
        lambda v: Slotted(v).score, lambda v: partial(around, v),
        lambda v: make_scorer(f1_score, beta=v), lambda v: lru_cache(around(v)),
        lambda v: Holds(around(v)), lambda v: Holds({"a": [around(v)]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("value", "other"),
    [
        (1.0, 2.0), (1.0, "1.0"), (signs(2000, 1), signs(2000, -1)),
        (np.float32([0]), np.int32([0])), (np.array([None]), np.array(["None"], "O")),
        ({"a", "b"}, {"a", "c"}), ([1, (2,)], [1, [2]]),
    ],
)  # fmt: skip
def test_functions_have_one_name_only_if_they_are_alike(make, value, other):
    assert name_of(make(value)) == name_of(make(value))
    assert name_of(make(value)) != name_of(make(other))
    assert " at 0x" not in name_of(make(value))


def test_what_a_function_does_is_in_its_name():
    assert name_of(lambda y: y) == name_of(lambda y: y)
    assert name_of(lambda y: y) != name_of(lambda y: -y)
    assert name_of(lambda y: 1) != name_of(lambda y: 2)
    assert name_of(make_scorer(lambda y: 1)) != name_of(make_scorer(lambda y: 2))
    assert name_of("accuracy") == "'accuracy'"


def test_what_holds_itself_or_cannot_be_written_down_has_a_name():
    circle = []
    circle.append(circle)
    assert name_of(Holds(circle)) == name_of(Holds(circle)) != name_of(Holds([]))
    assert name_of(Holds(threading.Lock())) == name_of(Holds(threading.Lock()))

    class Endless:
        def __reduce__(self):
            return Endless, (), Endless()

    assert name_of(Endless()) == name_of(Endless())

    def calls_itself(n):
        return calls_itself(n - 1)

    assert name_of(calls_itself) == name_of(calls_itself)
