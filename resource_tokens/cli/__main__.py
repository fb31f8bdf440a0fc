"""
`python -m resource_tokens.cli` is `resource-tokens`.
"""

from __future__ import annotations

import sys

from resource_tokens.cli import main

sys.exit(main())
