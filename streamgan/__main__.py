"""`python -m streamgan`, the same as `streamgan`."""

from streamgan.cli.main import main

if __name__ == "__main__":
    main()
