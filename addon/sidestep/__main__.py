"""`python -m sidestep` is the `sidestep` command, also where no folder of scripts is on PATH."""

from sidestep.cli import main

if __name__ == "__main__":
    main()
