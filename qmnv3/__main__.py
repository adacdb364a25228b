"""`python -m qmnv3` is the `qmnv3` command."""

from qmnv3.cli import main

if __name__ == "__main__":
    main()
