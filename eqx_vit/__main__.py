import signal
import sys
import threading


def main() -> int:
    """The command line, if its extra is installed."""
    # Extension modules that are being imported swallow a `KeyboardInterrupt`. (A shell
    # has a command in the background ignore the signal; leave it so.)
    before = signal.getsignal(signal.SIGINT)
    is_python = before is signal.default_int_handler
    is_ours = is_python and threading.current_thread() is threading.main_thread()
    try:
        if is_ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        from .cli import import_command, main

        import_command(sys.argv[1:])
    except ImportError as error:
        print(
            f"eqx-vit needs the package {error.name}; install it with "
            "`pip install -e '.[train]'` in a clone of eqx_vit.",
            file=sys.stderr,
        )
        return 2
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, before)
    return main()


if __name__ == "__main__":
    sys.exit(main())
