from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import resource_tokens

project = "resource-tokens"
author = "The resource-tokens authors"
release = version = resource_tokens.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"resource-tokens {release}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["narrow.css"]

myst_enable_extensions = ["deflist", "tasklist"]
myst_heading_anchors = 3

# Only what is typed is copied: not the prompt, not the output.
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_preprocess_types = False

# Nothing is fetched from the network to build this, so the names of other projects are not links.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|concurrent|contextlib|datetime|os|pathlib|ssl|types|typing)\..*"),
    (r"py:.*", r"(httpx2?|jwt|opentelemetry|redis)\..*"),
    (r"py:.*", r"(Any|Callable|Collection|Iterable|Literal|Mapping|Self|datetime|timedelta)"),
    (r"py:.*", r"(bool|bytes|dict|float|frozenset|int|str|tuple|object|None|ValueError)"),
    # Unions and internal values in signatures.
    (
        r"py:.*",
        r".*(AnyURL|Headers|Secret|TokenKey|CachedToken|Decision|EventName|TokenRequest|_LocalServer)",
    ),
    (r"py:.*", r".*PrivateKeyObject"),
]

_MODULES = (
    "resource_tokens",
    "resource_tokens.conformance",
    "resource_tokens.inbound",
    "resource_tokens.ledger",
    "resource_tokens.redis",
    "resource_tokens.stores",
    "resource_tokens.telemetry",
    "resource_tokens.testing",
)
_HOMES = {name: module for module in _MODULES for name in import_module(module).__all__}
_HOMES["ClientAuth"] = "resource_tokens.oauth.client_auth"


def _markdown_spans(_app: Any, what: str, *event: Any) -> None:
    lines: list[str] = event[-1]
    # The docstrings mark code with single backticks, which reST reads as something else.
    text = re.sub(r"(?<![`:])`([^`]+)`(?!`)(?=(\w?))", _span, "\n".join(lines))
    lines[:] = text.split("\n")
    if what in {"attribute", "data", "property"}:
        # Napoleon takes what stands before a colon in the first line of these for a type.
        lines[:0] = ["..", ""]


def _span(found: re.Match[str]) -> str:
    code = " ".join(found[1].split())
    span = f":py:obj:`{code}`" if code in _HOMES else f"``{code}``"
    return span + "\\ " if found[2] else span


def _where_it_is_imported_from(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    # Annotations name the module that defines a class, the pages the one to import it from.
    name = node["reftarget"].rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in _HOMES:
        return None
    target = f"{_HOMES[name]}.{name}"
    python = env.domains.python_domain
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def setup(app: Any) -> None:
    # Before napoleon, whose own listener is at 500 and would read `name` in a section as reST.
    app.connect("autodoc-process-docstring", _markdown_spans, priority=400)
    app.connect("missing-reference", _where_it_is_imported_from)
