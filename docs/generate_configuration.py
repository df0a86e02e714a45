"""Writes docs/configuration.md from `TracingConfig`: `make docs`."""

from __future__ import annotations

from pathlib import Path

from dspy_mlflow_callbacks.config import OPTIONS, default_text, variable_of

PAGE = Path(__file__).parent / "configuration.md"

TEXT = """\
<!-- Written by docs/generate_configuration.py from TracingConfig: change it there, then run `make docs`. -->

# Configuration

Every option is an argument of `MlflowCallback` (and of each single callback class), a field of `TracingConfig` and an environment variable, by the same name.

| what you want | how |
| --- | --- |
| set it in code, for the process or for one program | `MlflowCallback(sampling_ratio=0.1)` |
| set it from outside | `DSPY_MLFLOW_SAMPLING_RATIO=0.1 python app.py` |
| hold it in one value, check it, store it, pass it on | `MlflowCallback(config=TracingConfig(sampling_ratio=0.1))` |

## Which one holds

An argument beats `config=`, which beats the variable, which beats the default. `config=` is whole: a callback that is given one looks at no variable. To start from the
environment and pin some options, say `TracingConfig.from_env(level="info")`.

- An empty variable is unset.
- A variable with a wrong value is warned of once, with its name, its value and what is allowed, and the default stands: a program never stops for it. So is a variable
  `DSPY_MLFLOW_...` that is no option, with the one that may have been meant.
- A wrong argument raises `TypeError` or `ValueError` that begins with the option's name, and says what was given and what is allowed.
- Variables are read when the callback is made. A copy of a callback (`copy.deepcopy`, pickle, another process) keeps the options of the original.

In code:

```python
import dspy
from dspy_mlflow_callbacks import MlflowCallback, TracingConfig

config = TracingConfig.from_env(sampling_ratio=0.5, tags={{"team": "search"}}, level="info")
dspy.configure(callbacks=[MlflowCallback(config=config)])

program = dspy.ChainOfThought("question -> answer")
program.callbacks = [MlflowCallback(config=config, sampling_ratio=1.0, capture_inputs=False)]  # this program alone
```

From outside, for a program that says `MlflowCallback()`:

```console
$ export DSPY_MLFLOW_EXPERIMENT=questions
$ export DSPY_MLFLOW_TAGS=team=search,stage=production
$ export DSPY_MLFLOW_SAMPLING_RULES='[{{"name": "Search*", "ratio": 0.1, "max_per_second": 5}}]'
$ export DSPY_MLFLOW_REDACT_PATTERNS='[0-9]{{3}}-[0-9]{{4,5}}'
$ python app.py
```

A configuration is plain data: `to_dict()` gives JSON values, `from_dict()` takes them.

```python
import json
from dspy_mlflow_callbacks import TracingConfig

config = TracingConfig(events=["module", "lm"], max_payload_chars=10_000)
stored = json.dumps(config.to_dict())
assert TracingConfig.from_dict(json.loads(stored)) == config
```

## Options

| option | variable | default | allowed | meaning |
| --- | --- | --- | --- | --- |
{options}

## In which order they act

Where a call starts, the options become middleware, and the callback's own `middleware=[...]` follows in written order. The first that drops a call ends the chain:

1. `sampling_ratio`, where there are no rules: `RatioSampler` (first, since it asks for nothing but the root's id)
2. `tags`, `metadata`, `session_id`, `user`: `TagInjector` (before the rules, which may ask for tags)
3. `sampling_rules`, with `sampling_ratio` for what no rule is for: `RuleSampler`
4. `events`, `evaluate`, `compile`: `KindFilter`
5. `include`, `exclude`: `NameFilter`
6. `level`: `LevelFilter`
7. yours

What leaves the process with a span runs through payload steps: `Redactor` (`redact`, `redact_keys`, `redact_patterns`, `redact_fields`), then `PayloadLimit` (`max_payload_chars`).
`payload_steps=[...]` in code says all of it instead: then these options have no say, and as arguments beside it they raise `ValueError`.

```python
import dspy
from dspy_mlflow_callbacks import MlflowCallback, PayloadLimit, Redactor


def without_greetings(payload):
    return payload.with_text(payload.text.replace("hello", "..."))


def without_tools(call):
    return None if call.kind.value == "tool" else call


callback = MlflowCallback(
    level="info",
    middleware=[without_tools],
    payload_steps=[Redactor(fields=["ssn"]), without_greetings, PayloadLimit(10_000)],
)
dspy.configure(callbacks=[callback])
```

## Switching off

`enabled=False` records nothing and changes nothing in DSPy: the callback's hooks return at once. On a program, it leaves that program out below a callback that is set for the process:

```python
import dspy
from dspy_mlflow_callbacks import MlflowCallback

dspy.configure(callbacks=[MlflowCallback()])
private = dspy.Predict("question -> answer", callbacks=[MlflowCallback(enabled=False)])
```

## MLflow's own variables

They keep their meaning beside these:

| variable | meaning |
| --- | --- |
| `MLFLOW_TRACKING_URI` | the store |
| `MLFLOW_EXPERIMENT_NAME`, `MLFLOW_EXPERIMENT_ID` | MLflow's active experiment, where traces go unless `experiment` names another |
| `MLFLOW_TRACE_SAMPLING_RATIO` | MLflow's own sampling, of the traces that `sampling_ratio` and `sampling_rules` have kept |
| `MLFLOW_ENABLE_ASYNC_TRACE_LOGGING` | whether traces are stored in the background; if not, a call ends when its trace is stored |
| `MLFLOW_ASYNC_TRACE_LOGGING_...` | how MLflow stores traces in the background, where the native engine serves |
| `MLFLOW_TRACE_EXTRACT_ATTACHMENTS` | whether images and other binary data become attachments |
"""


def page() -> str:
    """Return the page's text."""
    return TEXT.format(options="\n".join(map(_row, OPTIONS)))


def _row(name: str) -> str:
    option = OPTIONS[name]
    unit = option.metadata["unit"]
    allowed = f"{option.metadata['allowed']} ({unit})" if unit else option.metadata["allowed"]
    default = default_text(option)
    cells = (f"`{name}`", f"`{variable_of(name)}`", f"`{default}`", allowed, option.metadata["doc"])
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
