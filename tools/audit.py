"""Asks whether any version in constraints.txt has a vulnerability that is known. Exit status 1 if so.

`pip-audit` asks PyPI, and if that knows nothing OSV. Where neither answers, as without a network, nothing is
known: a line says so and the exit status is 0, because that is no fault of the versions.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
_SERVICES = ("pypi", "osv")
_TIMEOUT_S = "10"


def main(arguments: list[str] | None = None) -> int:
    """Ask and report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description=__doc__)
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS, help="the file with the versions")
    parser.add_argument("--osv-url", help="another address of OSV's query interface")
    asked = parser.parse_args(arguments)
    for service in ["osv"] if asked.osv_url else _SERVICES:
        options = ["--osv-url", asked.osv_url] if asked.osv_url else []
        found = _ask(asked.constraints, service, *options)
        if any("skip_reason" not in package for package in found):
            return _report(found, service)
    print(
        "NOT AUDITED: no service that knows vulnerabilities answered, so nothing is known about "
        f"the versions in {asked.constraints.name}. Run make audit where the internet can be reached."
    )
    return 0


def _ask(constraints: Path, service: str, *options: str) -> list[dict[str, Any]]:
    """What is said of each package; nothing if the service cannot be reached."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", _TIMEOUT_S]
    command += ["--vulnerability-service", service, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(f"{service} does not answer: {done.stderr.strip().rpartition(chr(10))[2]}")
        return []
    if all("skip_reason" in package for package in packages):
        print(f"{service} knows none of these packages")
    return packages


def _report(packages: list[dict[str, Any]], service: str) -> int:
    faults = [
        f"{package['name']} {package['version']}: {fault['id']}"
        f" (corrected in {', '.join(fault['fix_versions']) or 'no version yet'})"
        for package in packages
        for fault in package.get("vulns", [])
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    print(
        f"{len(packages) - len(unknown)} versions audited by {service}, {len(faults)} vulnerabilities known"
    )
    if unknown:
        print(f"not known there: {', '.join(unknown)}")
    print("\n".join(faults), end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
