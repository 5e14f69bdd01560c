"""``python -m tests.mutants``: see whether the tests find each of the mistakes listed.

Survivors are printed, with the reason why one may; the exit status is 1 if another did, or if a
mutant fits its file no more.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run mutants and print what becomes of each; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="mutants of files whose name holds this")
    parser.add_argument("--part", default="1/1", help="I/N: the I-th of N parts of the list")
    parser.add_argument("--list", action="store_true", help="print the mutants and check them")
    parser.add_argument(
        "--no_baseline", action="store_true", help="trust that tests pass without a mutant"
    )
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # a process of several threads cannot be copied
    from tests.mutants import campaign
    from tests.mutants.catalogue import MUTANTS

    root = Path(__file__).resolve().parents[2]
    try:
        campaign.check(root, MUTANTS)
    except campaign.StaleMutant as error:
        print(error)
        return 1
    part, parts = map(int, args.part.split("/"))
    chosen = [m for m in MUTANTS if args.only in m.file][part - 1 :: parts]
    if args.list:
        print("\n".join(map(str, chosen)))
        print(f"{len(chosen)} mutants")
        return 0
    start = time.monotonic()
    found: dict[str, list[campaign.Mutant]] = {}
    with campaign.copied(root) as copy:
        if not args.no_baseline:
            for tests in dict.fromkeys(m.tests for m in chosen):
                verdict, printed = campaign.run_tests(copy, tests)
                if verdict != campaign.SURVIVED:
                    print(f"{tests}: fails without a mutant\n{printed}")
                    return 1
        for number, mutant in enumerate(chosen, 1):
            verdict, printed = campaign.run(copy, mutant)
            found.setdefault(verdict, []).append(mutant)
            why = f" ({mutant.reason})" if mutant.reason and verdict == campaign.SURVIVED else ""
            print(f"{number}/{len(chosen)} {verdict}{why}: {mutant}", flush=True)
            if verdict == campaign.BROKEN:
                print(printed, flush=True)
    minutes = (time.monotonic() - start) / 60
    counts = ", ".join(f"{len(mutants)} {verdict}" for verdict, mutants in sorted(found.items()))
    print(f"{len(chosen)} mutants in {minutes:.1f} min: {counts}")
    bad = [m for m in found.get(campaign.SURVIVED, []) if not m.reason]
    return 1 if bad or campaign.BROKEN in found else 0


if __name__ == "__main__":
    sys.exit(main())
