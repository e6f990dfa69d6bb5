"""`python -m signedwire.cli`, where the script is not on the path."""

from signedwire.cli import main

if __name__ == "__main__":
    main()
