"""`python -m streamgan.cli`, the same as `streamgan`."""

from .main import main

if __name__ == "__main__":
    main()
