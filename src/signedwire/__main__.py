"""`python -m signedwire` is the command line."""

from signedwire.cli import main

if __name__ == "__main__":
    main()
