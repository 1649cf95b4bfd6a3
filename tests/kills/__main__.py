"""Kill the verbs that go on, restart them until they finish, and compare their results with undisturbed runs."""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

from kills import chains
from kills.chains import COMMANDS, bits, killed, prepare, undisturbed


def main() -> int:
    """Run chains of kills over the commands in turn until there were so many kills, or the time is over."""
    parser = argparse.ArgumentParser(prog="python -m kills", description=main.__doc__)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=f"of {', '.join(COMMANDS)}; by default all")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--chain", type=int, default=4, help="kills of one run at most, before it may finish")
    parser.add_argument("--minutes", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="a new interpreter for each start, not a copy of this one")
    asked = parser.parse_args()
    names = asked.commands or list(COMMANDS)
    if unknown := set(names) - COMMANDS.keys():
        parser.error(f"there is no {sorted(unknown)[0]!r}")
    rng, end = random.Random(asked.seed), time.monotonic() + 60 * asked.minutes
    where = Path(tempfile.mkdtemp(prefix="saplab-kills-"))
    prepare(where)
    chains.forking = not asked.fresh
    if chains.forking:
        chains.warm_up()
    found, tally, wrong, chain = {}, dict.fromkeys(names, (0, 0)), 0, 0
    while sum(kills for _, kills in tally.values()) < asked.kills and time.monotonic() < end:
        name = names[chain % len(names)]
        folder = where / name
        if name not in found:
            folder.mkdir()
            for path in where.iterdir():
                if path.is_file():
                    (folder / path.name).write_bytes(path.read_bytes())
            found[name] = undisturbed(COMMANDS[name], folder)
        reference, seconds = found[name]
        kills = killed(COMMANDS[name], f"{chain}", folder, seconds, asked.chain, rng)
        same = bits(folder / f"{chain}", COMMANDS[name]) == reference
        wrong += not same
        tally[name] = tally[name][0] + 1, tally[name][1] + kills
        print(f"{name}: {kills} kills, {'the same bits' if same else 'OTHER BITS'}", flush=True)
        chain += 1
    for name, (runs, kills) in tally.items():
        print(f"{name}: {runs} runs, {kills} kills")
    print(f"{sum(kills for _, kills in tally.values())} kills, {wrong} runs with other bits, in {where}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
