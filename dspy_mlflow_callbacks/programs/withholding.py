"""Credentials stay out of what is saved: where they stood, what brings them back, and the pickler that leaves them."""

from __future__ import annotations

import io
import os
import types
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import cloudpickle
import dspy

from dspy_mlflow_callbacks.callbacks import TracingCallback
from dspy_mlflow_callbacks.secrets import CREDENTIALS, REDACTED, is_secret_name
from dspy_mlflow_callbacks.secrets.schemas import is_schema

_SCHEMES = ("", "Bearer ", "Basic ", "Token ", "token ")
_LEAST_CHARACTERS = 8  # shorter values of variables are no credentials that could be told from other texts

# Under these names stand types and descriptions of parameters by their names.
_ABOUT_NAMES = frozenset({"__annotations__", "annotations", "arg_desc", "arg_types", "args"})

# Where providers look for a key themselves, if that is not `<PROVIDER>_API_KEY`.
_VARIABLES = {
    "huggingface": "HF_TOKEN",
    "together_ai": "TOGETHERAI_API_KEY",
    "vertex_ai": "GOOGLE_APPLICATION_CREDENTIALS",
    "vertex_credentials": "GOOGLE_APPLICATION_CREDENTIALS",
}


@attrs.frozen
class Withheld:
    """A credential that is not saved.

    Attributes:
        place: Where it stood.
        variable: The environment variable that it is taken from; None where it has to be set in code.
    """

    place: str
    variable: str | None = None


def missing_text(withheld: Iterable[Withheld]) -> str:
    """Return which variables must be set, and what must be set in code; empty if nothing is missing."""
    lacking = [each for each in withheld if each.variable is None or not os.environ.get(each.variable)]
    by_variable = sorted({f"{each.variable} ({each.place})" for each in lacking if each.variable})
    by_hand = sorted({each.place for each in lacking if not each.variable})
    texts = [f"Set these environment variables: {', '.join(by_variable)}."] if by_variable else []
    return " ".join([*texts, *([f"Set again in code: {', '.join(by_hand)}."] if by_hand else [])])


@attrs.frozen
class FromEnvironment:
    """Stands for a credential where a program is pickled; unpickled it is what the variable says then."""

    scheme: str
    variable: str

    def __reduce__(self) -> tuple[Any, ...]:
        return from_environment, (self.scheme, self.variable)


def from_environment(scheme: str, variable: str) -> str:
    """Return what the environment variable says, or that there is nothing."""
    value = os.environ.get(variable)
    return f"{scheme}{value}" if value else REDACTED


class Withholder:
    """Makes copies of plain values without credentials, and notes where these stood.

    Args:
        environ: The environment, whose variables may hold the credentials.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.found: dict[str, Withheld] = {}
        self._environ = environ
        self._variables = {text: name for name, text in environ.items() if len(text) >= _LEAST_CHARACTERS}
        # `PWD` and `SSH_AUTH_SOCK` look like a secret's names, and say where files are.
        secret = [text for text, name in self._variables.items() if is_secret_name(name)]
        self._secrets = [text for text in secret if not os.path.exists(text)]  # noqa: PTH110  (no text is too long)

    def without(self, value: Any, place: str, *, model: str | None = None, is_secret: bool = False) -> Any:
        """Return *value* without credentials; it is never changed.

        Args:
            value: Anything; only dicts, lists, tuples and texts are looked into.
            place: Where it stands.
            model: The model of the LM whose parameters these are: its credentials are left out altogether.
            is_secret: Whether it stands under a secret's name.
        """
        if type(value) is dict:
            return self._mapping(value, place, model, is_secret=is_secret)
        if type(value) in (list, tuple):
            items = [self.without(each, place, model=model, is_secret=is_secret) for each in value]
            same = all(new is old for new, old in zip(items, value, strict=True))
            return value if same else type(value)(items)
        if type(value) is bytes and is_secret:
            return self._note(place, None, REDACTED.encode())
        return self._text(value, place, is_secret=is_secret) if type(value) is str and value else value

    def lm(self, model: str, kwargs: Any, place: str) -> dict[str, Any]:
        """Return the parameters of an LM without credentials, and note what its provider needs."""
        result = self.without(dict(kwargs), place, model=model)
        variable = _variable_of("api_key", model)
        if f"{place}.api_key" not in self.found and variable and self._environ.get(variable):
            self._note(f"{place}.api_key", variable)
        return dict(result)

    def _mapping(self, value: dict[Any, Any], place: str, model: str | None, *, is_secret: bool) -> dict[Any, Any]:
        result = {}
        for key, item in value.items():
            is_plain = key in _ABOUT_NAMES or is_schema(item)
            hides = not is_plain and (is_secret or (isinstance(key, str) and is_secret_name(key)))
            where = f"{place}.{key}" if place else str(key)
            if hides and model is not None and item:
                self._note(where, _variable_of(str(key), model))
                continue
            nested = _model_in(key, item) if model is None else model
            result[key] = item if is_plain else self.without(item, where, model=nested, is_secret=hides)
        same = len(result) == len(value) and all(result[key] is value[key] for key in value)
        return value if same else result

    def _text(self, text: str, place: str, *, is_secret: bool) -> Any:
        for scheme in _SCHEMES:
            rest = text.removeprefix(scheme) if text.startswith(scheme) else ""
            if rest in self._variables and (is_secret or rest in self._secrets):
                self._note(place, self._variables[rest])
                return self._restored(scheme, self._variables[rest])
        if is_secret and text != REDACTED:
            return self._note(place, None, REDACTED)
        shown = text
        for secret in self._secrets:
            shown = shown.replace(secret, REDACTED)
        shown = CREDENTIALS.text_without_secrets(shown)
        return text if shown == text else self._note(place, None, shown)

    def _restored(self, scheme: str, variable: str) -> Any:
        return REDACTED

    def _note(self, place: str, variable: str | None, shown: Any = None) -> Any:
        self.found[place] = Withheld(place, variable)
        return shown


class PickleWithholder(Withholder):
    """A `Withholder` for pickles: in them a credential of the environment is taken from there again."""

    def _restored(self, scheme: str, variable: str) -> Any:
        return FromEnvironment(scheme, variable)


class _Pickler(cloudpickle.Pickler):
    """Pickles as cloudpickle does, without credentials, histories of LMs and callbacks of this package."""

    def __init__(self, file: Any, withholder: Withholder, places: Mapping[int, str]) -> None:
        super().__init__(file)
        self._withholder = withholder
        self._places = places

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, TracingCallback):
            return type(None), ()  # its configuration goes along as JSON
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented:
            if isinstance(obj, (type, types.FunctionType, types.BuiltinFunctionType)):
                return reduced
            reduce = self.dispatch_table.get(type(obj))
            reduced = reduce(obj) if reduce else obj.__reduce_ex__(5)
        if isinstance(reduced, str):
            return NotImplemented
        place = self._places.get(id(obj)) or _named(obj)
        head, *rest = reduced
        return (head, *(self._part(each, obj, place) for each in rest))

    def _part(self, part: Any, obj: Any, place: str) -> Any:
        if isinstance(obj, dspy.BaseLM) and type(part) is dict:
            state = {name: value for name, value in part.items() if name not in ("kwargs", "history")}
            kwargs = self._withholder.lm(str(obj.model), part.get("kwargs") or {}, place)
            return {**self._withholder.without(state, place), "kwargs": kwargs, "history": []}
        if isinstance(part, (dict, list, tuple)):
            return self._withholder.without(part, place)
        if part is not None and hasattr(part, "__next__"):
            return iter([self._withholder.without(each, place) for each in part])
        return part


def _named(obj: Any) -> str:
    """Return how an object is named that stands nowhere by a name: code by where it is written."""
    if isinstance(obj, types.CodeType):
        return f"{obj.co_name} ({os.path.basename(obj.co_filename)}, line {obj.co_firstlineno})"  # noqa: PTH119  (a text)
    return type(obj).__name__


def pickled(value: Any, withholder: Withholder, places: Mapping[int, str]) -> bytes:
    """Return the pickle of *value*, which nothing is changed of, without credentials.

    Args:
        value: Anything that cloudpickle pickles.
        withholder: Notes what is left out.
        places: Where objects stand, by their ids.
    """
    file = io.BytesIO()
    _Pickler(file, withholder, places).dump(withholder.without(value, ""))
    return file.getvalue()


def places_in(program: Any) -> dict[int, str]:
    """Return where the modules and LMs of *program* stand in it, by their ids."""
    places = {}
    for name, module in program.named_sub_modules():
        place = name.removeprefix("self").lstrip(".") or "program"
        places[id(module)] = place
        lm = getattr(module, "lm", None)
        if lm is not None:
            places[id(lm)] = f"{place}.lm"
    return places


def _model_in(key: Any, item: Any) -> str | None:
    """Return the model of an LM's saved state, which DSPy keeps under `lm`."""
    return str(item["model"]) if key == "lm" and type(item) is dict and "model" in item else None


def _variable_of(name: str, model: str) -> str | None:
    if name == "api_key":
        provider = model.partition("/")[0] if "/" in model else "openai"
        return _VARIABLES.get(provider, f"{provider.upper().replace('-', '_')}_API_KEY")
    if name.startswith(("aws_", "azure_")):
        return name.upper()
    return _VARIABLES.get(name)
