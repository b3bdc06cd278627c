"""`python -m neuroglot`: the command line."""

from neuroglot.cli.app import main

if __name__ == "__main__":
    main()
