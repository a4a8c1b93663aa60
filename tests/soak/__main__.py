"""Run load, faults and attacks against real installations for a while: `make soak MINUTES=30`.

The parts share the minutes equally; `--parts fairness` runs one alone, and with `--only slowly` only its attacks with
this word in their names. At the end a table lists each action, how often it was done, and the result;
the exit status is 1 if a promise was broken.
"""

import argparse
import sys

from tabulate import tabulate

from tests.soak import fairness, load, strangers

PARTS = {"load": load.run, "fairness": fairness.run, "strangers": strangers.run}


def main() -> None:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("minutes", type=float, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all by default")
    parser.add_argument("--only", default="", help="run only the attacks or the clients with this text in their names")
    given = parser.parse_args()
    seconds = given.minutes * 60 / len(given.parts)
    found = [row for part in given.parts for row in PARTS[part](seconds, given.only)]
    print(tabulate(found, ["action", "count", "result"], tablefmt="github", disable_numparse=True))
    sys.exit(any("BROKEN" in result for _, _, result in found))


if __name__ == "__main__":
    main()
