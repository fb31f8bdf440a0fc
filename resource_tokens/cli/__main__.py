"""
`python -m resource_tokens.cli` is `resource-tokens`.
"""

from __future__ import annotations

from resource_tokens.cli import main

main()
