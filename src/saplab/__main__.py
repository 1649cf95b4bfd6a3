"""``python -m saplab``: the command line."""

from saplab.cli import main

main()
