"""Tracing without a line of code: `DSPY_MLFLOW_AUTOLOG=1` in the environment of any Python.

The interpreter comes by here when it starts (see `startup/`), so only what it has loaded anyway is imported, and
nothing may raise. DSPy is not imported before the program does: programs set variables for it first.
"""

from __future__ import annotations

import os
import sys
from typing import Any

VARIABLE = "DSPY_MLFLOW_AUTOLOG"
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

_OURS = __name__.partition(".")[0]
_WARNED: set[str] = set()


def begin() -> None:
    """Trace DSPy from the moment on at which the program imports it, if the environment asks for it."""
    text = os.environ.get(VARIABLE, "").strip().lower()
    if text in TRUE:
        if "dspy" not in sys.modules and not any(isinstance(each, _DspyImport) for each in sys.meta_path):
            sys.meta_path.insert(0, _DspyImport())
    elif text and text not in FALSE:
        allowed = ", ".join((*TRUE, *FALSE))
        _warn(f"{VARIABLE}={os.environ[VARIABLE]!r} is ignored: must be one of {allowed}. Programs are not traced.")


class _DspyImport:
    """Finds `dspy` as all others would, and is told when it has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "dspy":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._listen(spec.loader)
                return spec
        return None

    def _listen(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            vars(loader).pop("exec_module", None)  # some loaders serve many modules
            execute(module)
            if module.__name__ == "dspy" and self in sys.meta_path:
                sys.meta_path.remove(self)
                _dspy_is_there(module)

        loader.exec_module = exec_module


def _dspy_is_there(dspy: Any) -> None:
    if any(_is_importing(module) for name, module in list(sys.modules.items()) if name.startswith(f"{_OURS}.")):
        _at_first_call(type(dspy.settings))  # one of our own modules brought it in, and is not ready yet
    else:
        _autolog()


def _is_importing(module: Any) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _at_first_call(settings: Any) -> None:
    original = settings.get

    def get(self: Any, key: str, default: Any = None) -> Any:
        settings.get = original
        _autolog()
        return self.get(key, default)

    settings.get = get


def switch_on() -> None:
    """Trace as a program does that is started with the variable, now: DSPy is imported here."""
    from dspy_mlflow_callbacks.autologging import autolog  # noqa: PLC0415  (see above)

    autolog(log_traces_from_compile=True)  # what is recorded, the options say alone


def _autolog() -> None:
    try:
        switch_on()
    except Exception as error:  # noqa: BLE001  (the program must not notice)
        _warn(f"Programs are not traced: {error!r}", error)


def _warn(message: str, error: Exception | None = None) -> None:
    import logging  # noqa: PLC0415  (see above)

    if message not in _WARNED:  # Python may come by more than once
        _WARNED.add(message)
        logging.getLogger(_OURS).warning(message, exc_info=error)
