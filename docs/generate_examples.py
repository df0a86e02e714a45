"""Writes docs/examples.md from what the examples print: `make docs`."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent / "examples.md"
EXAMPLES = Path(__file__).parent.parent / "examples"

# In the order of the page; a file, its title, and from which text on its output is shown.
SHOWN = {
    "first_trace.py": ("First trace", ""),
    "advanced_configuration.py": ("Advanced configuration", ""),
    "custom_metadata.py": ("Custom metadata", ""),
    "one_program.py": ("One program", ""),
    "rag.py": ("Retrieval and answer", ""),
    "agent.py": ("Agent with tools", ""),
    "evaluate_program.py": ("Evaluation", ""),
    "optimize_program.py": ("Optimizer", "BootstrapFewShotWithRandomSearch:"),
    "replay.py": ("Replay", ""),
    "compare_versions.py": ("Comparing versions", ""),
    "saved_program.py": ("Saved program", ""),
    "run_many.py": ("Many inputs", ""),
    "two_services.py": ("Two services", ""),
    "test_answers.py": ("Tests", ""),
    "demo.py": ("The demo", ""),
}

HEAD = """\
<!-- Written by docs/generate_examples.py from what the examples print: change them, then run `make docs`. -->

# Examples

Each is a program of a screenful that shows one idea. None needs a key or a network: a model that answers from its prompt (`offline.py`), or one that says what it is told to, stands in. Beside them, `examples/dashboard/` has a
[monitoring dashboard](dashboard.md).

"""
SECTION = """\
## {title}

{idea}

```console
$ {command}
```

```text
{output}
```
"""


def command_of(name: str) -> list[str]:
    """Return what runs an example: a test with pytest, anything else with Python."""
    if name.startswith("test_"):
        return ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--disable-warnings", str(EXAMPLES / name)]
    return [str(EXAMPLES / name)]


def printed(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an example in *folder* with nothing of this process's environment but what Python needs."""
    kept = {each: os.environ[each] for each in ("PATH", "PYTHONPATH") if each in os.environ}
    return subprocess.run(  # noqa: S603  (an example of this project)
        [sys.executable, *command_of(name)],
        cwd=folder,
        env={**kept, "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=140,
        check=False,
    )


def idea_of(name: str) -> str:
    """Return what an example says that it shows: its docstring's first paragraph."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def section(name: str) -> str:
    """Return an example's section."""
    title, begins = SHOWN[name]
    with tempfile.TemporaryDirectory() as folder:
        output = printed(name, Path(folder)).stdout
    output = output[output.index(begins) :]
    output = re.sub(r"(?m)^  \S+(?=/mlflow ui )", "  .venv/bin", output).strip()
    run = "make demo" if name == "demo.py" else f"python examples/{name}"
    run = f"pytest -q examples/{name}" if name.startswith("test_") else run
    return SECTION.format(title=title, idea=idea_of(name), command=run, output=output)


if __name__ == "__main__":
    PAGE.write_text(HEAD + "\n".join(map(section, SHOWN)), encoding="utf-8")
