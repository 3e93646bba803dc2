"""``python -m ceconv_convert``."""

from ceconv_convert.cli.main import main

if __name__ == "__main__":
    main()
