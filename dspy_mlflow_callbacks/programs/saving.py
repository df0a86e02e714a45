"""Saving a program with its tracing as DSPy saves programs, and loading it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import cloudpickle
import dspy

from dspy_mlflow_callbacks.config import TracingConfig
from dspy_mlflow_callbacks.programs.stored import KEY, StoredTracing, arm, armed, tracing_in_force
from dspy_mlflow_callbacks.programs.withholding import PickleWithholder, Withholder, pickled, places_in


class Standing(dspy.Module):
    """Stands for a program where others pickle it: called it is the program, pickled it has no credentials in it.

    Args:
        program: The program.
        stored: What goes along with it.
        settings: DSPy's settings in which it is called; None leaves them alone.
        withholder: Notes what is left out.
    """

    def __init__(
        self,
        program: Any,
        stored: StoredTracing,
        withholder: PickleWithholder,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._standing = (program, stored, withholder, settings)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the program in its settings."""
        program, _, _, settings = self._standing
        with dspy.context(**(settings or {})):
            return program(*args, **kwargs)

    def stored(self) -> StoredTracing:
        """Return what goes along with the program, with what was left out of it so far."""
        _, stored, withholder, _ = self._standing
        return attrs.evolve(stored, withheld=tuple(withholder.found.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        program, _, withholder, _ = self._standing
        content = Pickled(pickled(program, withholder, places_in(program)))
        return armed, (content, json.dumps(self.stored().to_dict()))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()


@attrs.frozen
class Pickled:
    """Something that is pickled already."""

    content: bytes = attrs.field(repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return cloudpickle.loads, (self.content,)


class _State(dspy.Module):
    """Has the state that a program has, without credentials."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self._state = state

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002  (DSPy's method)
        return self._state


def save_program(
    program: dspy.Module,
    path: str | Path,
    *,
    save_program: bool | None = None,
    config: TracingConfig | None = None,
    modules_to_serialize: list[Any] | None = None,
) -> None:
    """Save *program* as `program.save` does, with the configuration of its tracing and without credentials.

    What governs the program goes along: its attached callback's options, else those of the callback of this package
    among DSPy's settings. They are readable JSON: in `metadata.json`, in the state itself, or, for a `.pkl`, in a file
    beside it that ends with `.tracing.json`. The program itself is not changed.

    Args:
        program: A `dspy.Module`.
        path: A folder for the whole program, or a file `.json` or `.pkl` for its state only.
        save_program: Whether the whole program is saved; None goes by *path*: with a suffix, its state only.
        config: What is saved in place of the options that are in force.
        modules_to_serialize: See `dspy.Module.save`.

    Raises:
        TypeError: if *program* is no program, or it is traced in a way that JSON cannot say, by a function of yours.
        ValueError: if *path* does not fit, as `dspy.Module.save` says.

    Example:
        ```python
        save_program(program, "my_program")
        program = load_program("my_program", allow_pickle=True)
        ```
    """
    path = Path(path)
    stored = tracing_in_force("save_program", program, config)
    if not path.suffix if save_program is None else save_program:
        standing = Standing(program, stored, PickleWithholder())
        standing.save(path, save_program=True, modules_to_serialize=modules_to_serialize)
        metadata = json.loads((path / "metadata.json").read_text())
        _write(path / "metadata.json", {**metadata, KEY: standing.stored().to_dict()})
        return
    _save_state(program, path, stored)


def load_program(path: str | Path, program: dspy.Module | None = None, *, allow_pickle: bool = False) -> Any:
    """Return a program that was saved, traced as it was when it was saved.

    Variables `DSPY_MLFLOW_<OPTION>` win over the options that were saved. One warning says which environment variables
    must be set for credentials that were not saved.

    Args:
        path: What `save_program` or `dspy.Module.save` wrote.
        program: The program whose state it is; None for a whole program.
        allow_pickle: Whether pickles may be read, which can run any code: allow it for files that you trust.

    Raises:
        ValueError: if a pickle may not be read, or a state comes without a program.
        FileNotFoundError: if there is nothing at *path*.

    Example:
        ```python
        program = load_program("state.json", dspy.ChainOfThought("question -> answer"))
        ```
    """
    path = Path(path)
    if not path.exists():
        message = f"load_program: there is nothing at {path}"
        raise FileNotFoundError(message)
    if path.is_dir():
        stored = _stored_in(path / "metadata.json")
        loaded = dspy.load(str(path), allow_pickle=allow_pickle)
        if stored is None:
            arm(loaded, StoredTracing(), f"The program at {path}")
        return loaded
    if not isinstance(program, dspy.Module):
        message = f"load_program: {path} has the state of a program; give the program too, got {program!r}"
        raise ValueError(message)  # noqa: TRY004  (the program is missing)
    program.load(path, allow_pickle=allow_pickle)
    stored = _stored_in(path if path.suffix == ".json" else _beside(path))
    arm(program, stored or StoredTracing(), f"The state at {path}")
    return program


def _save_state(program: Any, path: Path, stored: StoredTracing) -> None:
    withholder = Withholder()
    for name, parameter in program.named_parameters():
        lm = getattr(parameter, "lm", None)
        if lm is not None:
            withholder.lm(str(lm.model), getattr(lm, "kwargs", None) or {}, f"{name}.lm")
    is_json = path.suffix == ".json"
    state = withholder.without(program.dump_state(json_mode=is_json), "")
    if not is_json:
        state = {name: Pickled(pickled(each, withholder, {})) for name, each in state.items()}
    said = attrs.evolve(stored, withheld=tuple(withholder.found.values())).to_dict()
    _State({**state, KEY: said} if is_json else dict(state)).save(path)
    if not is_json:
        _write(_beside(path), {KEY: said})


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.tracing.json")


def _stored_in(path: Path) -> StoredTracing | None:
    values = json.loads(path.read_text()).get(KEY) if path.exists() else None
    return None if values is None else StoredTracing.from_dict(values)


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
