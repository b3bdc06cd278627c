"""`python -m neuroglot.cli`."""

from neuroglot.cli.app import main

main()
