import signal
import sys


def main() -> int:
    """The command line, if what it needs is installed."""
    # Extension modules that are being imported swallow a `KeyboardInterrupt`. (A shell
    # has a command in the background ignore the signal.)
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from .cli import main
    except ImportError as error:
        print(
            f"eqx-vit needs the package {error.name}; install it with "
            "`pip install 'eqx_vit[train]'`.",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGINT, before)
    return main()


if __name__ == "__main__":
    sys.exit(main())
