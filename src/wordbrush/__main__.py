"""`python -m wordbrush` is the `wordbrush` command."""

from wordbrush.cli import main

if __name__ == "__main__":
    main()
