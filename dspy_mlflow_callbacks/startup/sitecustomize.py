"""What `dspy-mlflow run` starts a program with where our `.pth` file is in no site folder, as with `pip --target`.

Python imports the first `sitecustomize` of its path; the one that would have been first comes right after.
"""

import os
import sys

_here = os.path.dirname(__file__)  # noqa: PTH120  (pathlib takes its time)
sys.path[:] = [each for each in sys.path if each != _here]
_this = sys.modules.pop(__name__)
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401  (another one)
except ModuleNotFoundError as error:
    if error.name != __name__:
        raise
finally:
    sys.modules.setdefault(__name__, _this)
    from dspy_mlflow_callbacks import autostart

    autostart.begin()
