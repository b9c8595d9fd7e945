"""Exit codes of the command line that are not click's own."""

INTERRUPTED = 128 + 2
"""The exit code that shells give for SIGINT."""
