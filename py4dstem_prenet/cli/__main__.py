"""`python -m py4dstem_prenet.cli`."""

from . import main

if __name__ == "__main__":
    main()
