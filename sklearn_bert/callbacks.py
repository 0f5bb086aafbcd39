"""scikit-learn's callbacks, where it has them (1.9 and later): bars, early stopping.

`Task` is one step of a `fit` as callbacks see it. Without callbacks, or with an older
scikit-learn, it does nothing, so that estimators need not ask.

Level 0 of the module map: imports nothing of the package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class CallbackSupportMixin:
        """Adds `set_callbacks`."""

    def with_callbacks(method: Any) -> Any:
        """Decorate a `fit` that begins a `Task`."""

else:
    try:
        from sklearn.callback import CallbackSupportMixin, with_callbacks
    except ImportError:

        class CallbackSupportMixin:
            """Adds nothing: this scikit-learn has no callbacks."""

        def with_callbacks(method):
            """Return the method as it is."""
            return method


__all__ = ["CallbackSupportMixin", "Task", "with_callbacks"]


class Task:
    """A step of `fit`, of which callbacks hear when it begins and ends.

    Attributes
    ----------
    is_stopped : bool
        Whether a callback has asked to leave the steps of this task.
    attributes : callable or None
        Set inside the step: returns the fitted attributes of an estimator as if `fit`
        had stopped there, for callbacks that score it.
    """

    def __init__(self, context: Any = None, **facts: Any) -> None:
        self._context = context
        self._facts = facts
        self.is_stopped = False
        self.attributes: Callable[[], dict[str, Any]] | None = None

    @classmethod
    @contextlib.contextmanager
    def root(
        cls, estimator: Any, n_steps: int, X: Any, y: Any, sample_weight: Any = None
    ) -> Iterator[Task]:
        """Begin the whole `fit` of an estimator, and end it.

        Parameters
        ----------
        estimator : estimator
            With the mixin above; its `fit` decorated.
        n_steps : int
            The most steps that it has.
        X, y, sample_weight
            What `fit` was given.
        """
        begin = getattr(estimator, "_init_callback_context", None)
        if begin is None:
            yield cls()
            return
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        context = begin(max_subtasks=n_steps)
        facts = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        context.call_on_fit_task_begin(**facts)
        yield cls(context, **facts)
        context.call_on_fit_task_end(**facts)

    @contextlib.contextmanager
    def step(self, name: str, n_steps: int | None = 0) -> Iterator[Task]:
        """Begin a part of this task, and end it.

        Parameters
        ----------
        name : str
        n_steps : int or None, default=0
            How many parts it has itself; None if that shows later.
        """
        if self._context is None:
            yield self
            return
        context = self._context.subcontext(task_name=name, max_subtasks=n_steps)
        context.call_on_fit_task_begin(**self._facts)
        task = Task(context, **self._facts)
        yield task
        if context.call_on_fit_task_end(
            **self._facts, reconstruction_attributes=task.attributes
        ):
            self.is_stopped = True

    def lend(self, sub_estimator: Any) -> contextlib.AbstractContextManager[None]:
        """Have the callbacks follow the fit of another estimator, if it takes them."""
        if self._context is None or not hasattr(sub_estimator, "set_callbacks"):
            return contextlib.nullcontext()
        lent: contextlib.AbstractContextManager[None] = (
            self._context.propagate_callback_context(sub_estimator)
        )
        return lent
