"""Ask pip-audit whether what is installed has known vulnerabilities.

Where its service cannot be asked it says so and passes. Exit status: 1 if there is one that is not listed in
`ACCEPTED`.
"""

from __future__ import annotations

import json
import subprocess
import sys

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities by id that do not concern this package, each with the reason."""

LIMIT_S = 240


def main() -> int:
    """Run pip-audit and say what it found."""
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--timeout", "10"]
    try:
        done = subprocess.run(
            [*command, "--format", "json"], capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        print("pip-audit: the advisory service cannot be reached; nothing was audited.")
        return 0
    return verdict(packages)


def verdict(packages: list[dict]) -> int:
    """Say what was found in *packages*, as pip-audit names them, and return the exit status."""
    audited = [package for package in packages if "skip_reason" not in package]
    found = [(package["name"], package["version"], each) for package in audited for each in package["vulns"]]
    open_ones = [entry for entry in found if not {entry[2]["id"], *entry[2].get("aliases", ())} & ACCEPTED.keys()]
    for name, version, each in open_ones:
        mends = ", ".join(each["fix_versions"]) or "no release yet"
        print(f"pip-audit: {name} {version}: {each['id']}; mended in {mends}.")
    if not audited:
        print("pip-audit: the advisory service knows none of the packages here; nothing was audited.")
    else:
        rest = len(packages) - len(audited)
        print(f"pip-audit: {len(audited)} packages audited, {rest} not; {len(open_ones)} vulnerabilities.")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
