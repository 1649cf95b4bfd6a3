"""The long form: generate many inputs, run them, and print what went wrong."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

from fuzz.harness import load_generators, run_many


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m fuzz")
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", default="", help="generators whose name contains this")
    asked = options.parse_args()
    import saplab.cli.verbs.evaluate
    import saplab.evaluation.report  # noqa: F401 - what the forked processes share

    load_generators()
    begin, ran, kinds = time.monotonic(), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="saplab-fuzz-") as folder:
        for name, faults in run_many(asked.count, asked.seed, Path(folder), asked.only):
            ran[name] += 1
            if ran.total() % 100 == 0:
                print(f"{ran.total()} inputs, {time.monotonic() - begin:.0f} s", flush=True)
            for fault in faults:
                kinds[fault.kind] += 1
                print(f"\n{fault.kind}: {fault.name} --seed {fault.seed}\n  {fault.text}\n{fault.told}", flush=True)
    print("\n".join(f"{count:6} {name}" for name, count in sorted(ran.items())))
    print(f"{sum(ran.values())} inputs, {sum(kinds.values())} faults {dict(kinds)}, {time.monotonic() - begin:.0f} s")
    sys.exit(bool(kinds))


if __name__ == "__main__":
    main()
