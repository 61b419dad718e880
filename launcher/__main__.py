"""`python -m launcher` starts everything and serves until Ctrl-C."""

import sys

from launcher.prefork import Zygote


def main() -> int:
    """Run until told to stop. The exit status is `launcher.run`'s, and 2 after a wrong command line."""
    if len(sys.argv) > 1:
        print(
            "usage: python -m launcher (settings are environment variables, see README.md)", file=sys.stderr
        )
        return 2
    zygote = Zygote()
    # Not before, because it takes a second. What the services share is imported in the meantime.
    from launcher.run import run

    return run(zygote)


sys.exit(main())
