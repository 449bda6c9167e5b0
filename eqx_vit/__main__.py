import sys


def main() -> int:
    """The command line, if what it needs is installed."""
    try:
        from .cli import main
    except ImportError as error:
        print(
            f"eqx-vit needs the package {error.name}; install it with "
            "`pip install 'eqx_vit[train]'`.",
            file=sys.stderr,
        )
        return 2
    return main()


if __name__ == "__main__":
    sys.exit(main())
