"""
What runs from a command line: `resource-tokens`.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["main"]


def main() -> None:
    """
    Run the command line, and end the process with its exit status.
    """
    try:
        from resource_tokens.cli.app import app
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"The command line needs {error.name}: pip install 'resource-tokens[cli]'\n"
        )
        sys.exit(2)
    # What there is to say of events, the commands say themselves.
    logging.getLogger("resource_tokens").addHandler(logging.NullHandler())
    app()
