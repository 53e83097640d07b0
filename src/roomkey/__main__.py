"""`python -m roomkey`: the command without its script."""

from roomkey.cli import main

main()
