"""What `dspy.Evaluate` does with each example, for which DSPy emits no event."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Protocol

from dspy.utils.callback_context import ACTIVE_CALL_ID


class HearsExamples(Protocol):
    """Hears when the work on an example of one evaluation starts and ends, in the thread that does it.

    Neither method raises. Each start has its end, whatever becomes of the evaluation meanwhile.
    """

    def start(self, call_id: str, example: Any) -> None:
        """Hear that the program, and then the metric, are about to be called for *example*."""
        ...

    def end(self, call_id: str, outputs: Any, exception: BaseException | None) -> None:
        """Hear what came of it: the prediction and what the metric returned, or what either raised."""
        ...


def announcing_examples(function: Callable[[Any], Any], hearer: HearsExamples) -> Callable[[Any], Any]:
    """Return *function*, which works on one example, so that it is a call that *hearer* hears of.

    It returns and raises what *function* does. What is called inside has it as its parent.
    """

    def work(example: Any) -> Any:
        call_id = uuid.uuid4().hex
        outputs, exception = None, None
        token = ACTIVE_CALL_ID.set(call_id)
        try:
            hearer.start(call_id, example)
            outputs = function(example)
        except BaseException as error:
            exception = error
            raise
        finally:
            ACTIVE_CALL_ID.reset(token)
            hearer.end(call_id, outputs, exception)
        return outputs

    return work
