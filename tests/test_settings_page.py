"""
The reference page of the settings file, made from the model.

    python -m tests.test_settings_page > docs/reference/settings.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resource_tokens.settings.environment import PREFIX, VARIABLES
from resource_tokens.settings.model import json_schema

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"

HEAD = """\
# Settings

The keys of a settings file, for `ResourceTokenAuth.from_toml(path)`.
How to write one is told in [Put the settings in a file](../howto/settings-file.md).

Unknown keys are refused.
What is left out has the default of the constructor, which the [API](api.md) tells.
"""

SECTIONS = [
    ("SettingsFile", "The file", "At the top, before the first table."),
    ("ServerTable", "`[servers.NAME]`", ""),
    ("ClientSecretTable", "`[clients.NAME]` with a secret", ""),
    ("ClientSecretJwtTable", "`[clients.NAME]` that signs with its secret", ""),
    ("PrivateKeyJwtTable", "`[clients.NAME]` that signs with a private key", ""),
    ("ClientAssertionFileTable", "`[clients.NAME]` of a platform that signs for it", ""),
    ("TlsClientTable", "`[clients.NAME]` with a certificate", ""),
    ("PublicClientTable", "`[clients.NAME]` without a credential", ""),
    ("ResourceTable", '`[resources."DESTINATION"]`', ""),
    ("Audit", '`[resources."DESTINATION".audit]`', ""),
    ("RefreshTokenTable", "`[grant]`", ""),
    ("TokenExchangeTable", "`exchange` by token exchange", ""),
    ("JwtBearerTable", "`exchange` by a JWT", ""),
    ("ProofKeyTable", "`[proof_key]`", ""),
    ("MemoryStoreTable", "`[store]` in memory", ""),
    ("RedisStoreTable", "`[store]` in Redis", ""),
    ("FileStoreTable", "`[store]` in a file", ""),
    ("DialectTable", "`[dialects.NAME]`", ""),
    ("EnvironmentVariable", "A reference to a variable", ""),
    ("SecretFile", "A reference to a file", ""),
    ("KeyringEntry", "A reference to the keyring", ""),
]

REFERENCES = {"EnvironmentVariable", "SecretFile", "KeyringEntry"}
TYPES = {"string": "string", "boolean": "true or false", "number": "number", "integer": "number"}


def page() -> str:
    """
    The whole page.
    """
    schema = json_schema()
    parts = [HEAD]
    for name, title, more in SECTIONS:
        table = schema if name == "SettingsFile" else schema["$defs"][name]
        text = "" if name == "SettingsFile" else table["description"]
        parts.append(f"## {title}\n\n{text or more}\n\n{''.join(rows(table))}")
    variables = "".join(f"| `{PREFIX}{name}` | {text} |\n" for name, text in VARIABLES.items())
    parts.append(
        "## Environment variables\n\nFor `ResourceTokenAuth.from_env()`.\n\n"
        f"| variable | |\n| --- | --- |\n{variables}"
    )
    return "\n".join(parts)


def rows(table: dict[str, Any]) -> Iterator[str]:
    """
    A line for each key.
    """
    yield "| key | value | |\n| --- | --- | --- |\n"
    for key, value in table["properties"].items():
        needed = " Needed." if key in table.get("required", ()) else ""
        yield f"| `{key}` | {kind(value)} | {value['description']}{needed} |\n"


def kind(value: dict[str, Any]) -> str:
    """
    What may stand there.
    """
    if "enum" in value:
        return " or ".join(f'`"{one}"`' for one in value["enum"])
    if "const" in value:
        return f'`"{value["const"]}"`'
    if "oneOf" in value:
        return " or ".join(dict.fromkeys(kind(one) for one in value["oneOf"]))
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return "reference" if name in REFERENCES else "table"
    if value["type"] == "array":
        return f"array of {kind(value['items'])}s"
    if value["type"] == "object":
        return f"table of {kind(value['additionalProperties'])}s"
    return TYPES[value["type"]]


def test_the_page_is_up_to_date() -> None:
    """
    Each key of the model is on it, in the words of the model.
    """
    assert page() == PAGE.read_text("utf-8")


if __name__ == "__main__":
    sys.stdout.write(page())
