"""`python -m bayeslat` is the command line."""

from bayeslat.cli import main

main()
