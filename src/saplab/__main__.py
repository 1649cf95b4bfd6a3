"""``python -m saplab``: the command line."""

from saplab.cli import main

if __name__ == "__main__":  # worker processes import it again, under another name
    main()
