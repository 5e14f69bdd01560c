"""Check that a Python environment of the user's own has what espnet_spike needs.

Runs on any Python 3.9 or newer, with the standard library alone, so that it can say what is
missing even where everything is.
"""

import re
import sys
from importlib import metadata

from espnet_spike.utils.install import requirements


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0]))


def _satisfies(version: str, clause: str) -> bool:
    match = re.fullmatch(r"(==|>=|<=|<|>|!=)\s*([\w.]+?)(\.\*)?", clause.strip())
    if match is None:
        raise ValueError(f"cannot read the version clause {clause!r}")
    operator, wanted, star = match.group(1), _release(match.group(2)), match.group(3)
    have = _release(version)
    if star:
        return (have[: len(wanted)] == wanted) == (operator == "==")
    length = max(len(have), len(wanted))
    have += (0,) * (length - len(have))
    wanted += (0,) * (length - len(wanted))
    return {
        "==": have == wanted,
        "!=": have != wanted,
        ">=": have >= wanted,
        "<=": have <= wanted,
        ">": have > wanted,
        "<": have < wanted,
    }[operator]


def missing(wanted: "list[str] | None" = None) -> list[str]:
    """Return one line for each requirement that this interpreter does not meet."""
    lines = []
    if not (3, 12) <= sys.version_info[:2] < (3, 14):
        lines.append(f"Python 3.12 or 3.13 (this is {sys.version.split()[0]})")
    for requirement in requirements() if wanted is None else wanted:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        clauses = [part for part in requirement[len(name) :].split(",") if part.strip()]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            lines.append(f"{requirement} (not installed)")
            continue
        if not all(_satisfies(version, clause) for clause in clauses):
            lines.append(f"{requirement} (installed: {version})")
    return lines


def main() -> None:
    """Print what is missing and exit with 1, or exit with 0."""
    lines = missing()
    if lines:
        print(f"error: {sys.executable} lacks:", file=sys.stderr)
        print("".join(f"  {line}\n" for line in lines), end="", file=sys.stderr)
        print("  hint: install these, or leave out --env to get .venv", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
