"""
What is wrong with the form of a settings file, in words: what was found, and what was expected.

No text of the file is repeated, since it can be a secret that stands where it should not; only
what stands for one of a few choices is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from resource_tokens.settings.model import json_schema
from resource_tokens.settings.problems import Key

__all__ = ["Wording", "refer_to", "suggestion"]


class Wording:
    """
    Puts the errors of pydantic into words.
    """

    def __init__(self) -> None:
        self._schema = json_schema()

    def of(self, detail: Any, key: Key) -> str:
        """
        What an error says.

        Args:
            detail: The error, as pydantic tells it.
            key: The key that it is about.
        """
        kind, found = detail["type"], detail["input"]
        expected = _WORDS.get(kind) or str(detail["msg"]).removeprefix("Input should be ")
        if kind == "extra_forbidden":
            known = self._keys_at(key[:-1])
            if key[-1] in known:
                return "does not go together with the other keys here."
            return f"unknown key.{suggestion(str(key[-1]), known)}"
        if kind == "missing":
            return f"is missing.{self._described(key)}"
        if kind == "reference" and isinstance(found, str):
            return (
                "the secret itself stands in the file, and files are copied, committed and backed "
                f"up. {refer_to(key)}"
            )
        if kind == "reference":
            return f"found {_kind(found)}; expected a reference to a secret. {refer_to(key)}"
        if kind in {"method", "type"} and isinstance(found, dict):
            given = found.get(kind)
            shown = f"`{kind} = {given!r}`" if isinstance(given, str) else f"no `{kind}`"
            close = suggestion(given, _quoted_in(expected)) if isinstance(given, str) else ""
            return f"found {shown}; expected {expected}.{close if 'mean' in close else ''}"
        if kind == "literal_error" and isinstance(found, str) and len(found) < 40:
            return f"found {found!r}; expected {expected}."
        return f"found {_kind(found)}; expected {expected}.{self._described(key)}"

    def _keys_at(self, key: Key) -> set[str]:
        """
        The keys that a table may have.
        """
        return {name for node in self._nodes(key) for name in node.get("properties", ())}

    def _described(self, key: Key) -> str:
        """
        What a key is for, as a sentence.
        """
        texts = (node["description"] for node in self._nodes(key) if "description" in node)
        return f" {' '.join(next(texts, '').split())}".rstrip()

    def _nodes(self, key: Key) -> list[dict[str, Any]]:
        """
        Where a key leads to in the schema. A table can have several forms.
        """
        nodes = self._forms(self._schema)
        for part in key:
            inner = [_member(node, part) for node in nodes]
            nodes = [form for node in inner for form in self._forms(node)]
        return nodes

    def _forms(self, node: Any) -> list[dict[str, Any]]:
        if not isinstance(node, dict):
            return []
        forms = [*node.get("oneOf", ())]
        if "$ref" in node:
            forms.append(self._schema["$defs"][node["$ref"].rpartition("/")[2]])
        return [node, *(form for one in forms for form in self._forms(one))]


def suggestion(name: str, known: Iterable[str]) -> str:
    """
    What somebody who wrote this may have meant, as a sentence.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" Did you mean `{close[0]}`?"
    return f" Known here: {', '.join(f'`{one}`' for one in names)}." if names else ""


def refer_to(key: Key) -> str:
    """
    How to refer to a secret, as a sentence.
    """
    words = "_".join(part for part in key[1:] if isinstance(part, str)) or str(key[-1])
    variable = re.sub(r"[^A-Z0-9]+", "_", words.upper()).strip("_")
    return (
        f'Put it elsewhere and refer to it: {{ env = "{variable}" }}, {{ file = "path" }} or '
        '{ keyring = "service", username = "name" }.'
    )


def _member(node: dict[str, Any], part: str | int) -> object:
    if isinstance(part, int):
        return node.get("items")
    return node.get("properties", {}).get(part, node.get("additionalProperties"))


def _quoted_in(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text)


def _kind(found: object) -> str:
    words = (words.format(found) for kind, words in _KINDS if isinstance(found, kind))
    return next(words, "a date")


# In this order, as True is an `int` too.
_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "{!r}"),
    ((int, float), "{!r}"),
    (str, "a string"),
    (dict, "a table"),
    (list, "an array"),
)
_WORDS = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "an array",
    "model_type": "a table",
    "string_pattern_mismatch": "the name of an environment variable",
    "string_too_short": "a text that is not empty",
    "string_type": "a string",
    "too_short": "one entry at least",
}
