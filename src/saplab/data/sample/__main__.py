"""Make the packaged sample again: ``python -m saplab.data.sample ROOT``."""

import sys
from pathlib import Path

from saplab.data.sample import FILE, write_sample

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m saplab.data.sample ROOT   (the folder that holds CIFAR-10)")
    write_sample(sys.argv[1], Path(__file__).with_name(FILE))
