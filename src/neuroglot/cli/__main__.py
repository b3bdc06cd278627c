"""`python -m neuroglot.cli`."""

from neuroglot.cli import main

main()
