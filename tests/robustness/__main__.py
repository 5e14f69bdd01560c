"""``python -m tests.robustness --cases N --seed S``: run the campaign; or one case of it."""

import argparse
import os
import resource
import sys
import time
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run cases, print those that fail, then the table; return 1 for failures not known."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the campaign")
    parser.add_argument("--cases", type=int, default=400, help="how many")
    parser.add_argument("--case", type=int, nargs="+", help="these only, with all that they say")
    parser.add_argument("--driver", nargs="+", default=[""], help="drivers whose name begins so")
    parser.add_argument("--torch", choices=("with", "without"), help="drivers that load it or not")
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # a process of several threads cannot be copied
    from tests.robustness import campaign
    from tests.robustness.known import KNOWN

    numbers = args.case if args.case is not None else range(args.cases)
    outcomes, unexpected = [], False
    start = time.monotonic()
    for case in campaign.drawn(args.seed, numbers):
        if not case.driver.startswith(tuple(args.driver)):
            continue
        if args.torch and (args.torch == "with") != (case.driver in campaign.WITH_TORCH):
            continue
        number = case.number
        outcome = campaign.run(case)
        outcomes.append(outcome)
        known = KNOWN.get(number, None) if args.seed == 1 else None
        good = outcome.verdict in campaign.GOOD
        unexpected |= (case.label, outcome.verdict) != known if known else not good
        if args.case is not None:
            print(f"{case.label} ({outcome.note})\n{outcome.verdict}\n{outcome.detail}")
        elif known or not good:
            expected = f" (known as {': '.join(known)})" if known else ""
            print(
                f"{outcome.verdict}{expected}: {case.label} ({outcome.note})\n"
                f"  python -m tests.robustness --seed {args.seed} --case {number}\n"
                f"  {_last(outcome.detail)}",
                flush=True,
            )
    if args.case is None:
        print("\n".join(campaign.table(outcomes)))
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        print(
            f"{len(outcomes)} cases in {time.monotonic() - start:.0f} s, "
            f"{sum(u.ru_utime + u.ru_stime for u in used):.0f} s of them of a processor"
        )
    return int(unexpected)


def _last(detail: str) -> str:
    lines = [line for line in detail.strip().splitlines() if line.strip()]
    return " ".join(lines[-1:])[:300]


if __name__ == "__main__":
    sys.exit(main())
