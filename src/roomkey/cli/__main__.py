"""`python -m roomkey.cli`: the command without its script."""

from roomkey.cli import main

main()
