"""``python -m amc``: the command line."""

from amc.cli.app import main

main()
