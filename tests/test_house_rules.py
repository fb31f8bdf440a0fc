"""
The rules of the house, held by the suite.
"""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2
import pytest

import resource_tokens
from resource_tokens import OAuthError, ResourceTokenAuth, TokenRequestError
from resource_tokens.guards import _BEFORE_HEADERS
from tests.conftest import CLIENT_SECRET, ORDERS, Caller, World
from tests.held import Held

PACKAGE = Path(resource_tokens.__file__).parent

# From the inside out; a module may import from its own ring and from those before it.
RINGS = [
    {"_httpx", "_locks", "exceptions", "tokens", "_addresses", "_destinations", "resources"},
    {"oauth"},
    {"_single_flight", "_turns", "_recently_used", "stores", "_private_folder", "_sealing"}
    | {"egress", "events", "_proofs", "_refusals", "ledger", "refresh_tokens"},
    {"_io", "_ask", "_discovery", "_sharing", "_acquire", "_subjects", "_together"},
    {"cache", "logs"},
    {"auth", "certificates", "guards", "inbound", "files", "keyring", "redis", "testing", "cli"}
    | {"conformance", "pytest_plugin", "settings", "telemetry"}
    | {"_local_http", "_local_proofs", ""},
]


def ring_of(module: str) -> int:
    name = module.removeprefix("resource_tokens").lstrip(".").partition(".")[0]
    return next(number for number, ring in enumerate(RINGS) if name in ring)


def runtime_imports(tree: ast.Module) -> list[str]:
    """
    The modules a file imports when it runs: not those for annotations only.
    """
    found: list[str] = []

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.orelse:
                walk(statement)
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(str(node.module))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(tree)
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_inwards(path: Path) -> None:
    """
    Section 6: values, then oauth, then stores and egress, then the decision, then the edges.
    """
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    module = ".".join(("resource_tokens", *parts)).removesuffix(".__init__")
    imported = runtime_imports(ast.parse(path.read_text("utf-8")))
    own = [name for name in imported if name.partition(".")[0] == "resource_tokens"]

    assert [] == [name for name in own if ring_of(name) > ring_of(module)]


def test_the_public_names() -> None:
    """
    A snapshot: adding or removing a public name is a decision, and a line in the CHANGELOG.
    """
    assert [
        "AccessToken",
        "AsyncCertificateTransport",
        "AsyncEgressGuard",
        "AudienceMismatchError",
        "AuthorizationServer",
        "CertificateTransport",
        "ClientAssertionFile",
        "ClientCredentials",
        "ClientSecretBasic",
        "ClientSecretJwt",
        "ClientSecretPost",
        "ConfigurationError",
        "Dialect",
        "EgressBlockedError",
        "EgressGuard",
        "JwtBearer",
        "OAuthError",
        "PrivateKeyJwt",
        "ProofKey",
        "PublicClient",
        "RefreshToken",
        "Resource",
        "ResourceMap",
        "ResourceTokenAuth",
        "ResourceTokensError",
        "SharedRefreshToken",
        "SubjectToken",
        "TlsClientAuth",
        "TokenCache",
        "TokenEvent",
        "TokenExchange",
        "TokenRequestError",
        "UnmappedDestinationError",
    ] == resource_tokens.__all__
    for name in resource_tokens.__all__:
        assert getattr(resource_tokens, name).__doc__


def test_every_public_method_is_documented() -> None:
    """
    What can be called says what it does.
    """
    undocumented = [
        f"{name}.{attribute}"
        for name in resource_tokens.__all__
        for attribute, value in vars(getattr(resource_tokens, name)).items()
        if not attribute.startswith("_") and callable(value) and not value.__doc__
    ]

    assert [] == undocumented


LOCAL_IMPORTS = {
    ("_io.py", "anyio"),
    ("_io.py", "anyio.lowlevel"),
    ("_io.py", "anyio.to_thread"),
    ("_io.py", "asyncio"),
    ("_private_folder.py", "filelock"),
    ("_sealing.py", "cryptography.fernet"),
    ("auth.py", "resource_tokens.settings"),
    ("files.py", "platformdirs"),
    ("_together.py", "anyio"),
    ("stores.py", "cryptography.fernet"),
    ("inbound/_asgi.py", "fastapi.security"),
    ("inbound/_asgi.py", "starlette.exceptions"),
    ("inbound/_asgi.py", "starlette.requests"),
    ("oauth/dpop.py", "resource_tokens.oauth.proof_keys"),
    ("oauth/jwt.py", "jwt"),
    ("oauth/jwt_client_auth.py", "resource_tokens.oauth.keys"),
    ("oauth/jwt_client_auth.py", "resource_tokens.oauth.signing"),
    ("oauth/tls_client_auth.py", "resource_tokens.oauth.keys"),
    ("settings/environment.py", "resource_tokens.settings"),
    ("settings/references.py", "resource_tokens.keyring"),
    ("settings/stores.py", "resource_tokens.files"),
    ("settings/stores.py", "resource_tokens.redis"),
    ("stores.py", "cryptography.fernet"),
    ("testing.py", "jwt"),
    ("pytest_plugin.py", "resource_tokens.testing"),
}


def test_only_what_is_slow_is_imported_late() -> None:
    """
    A late import has a reason, and stands in this list.
    """
    late: set[tuple[str, str]] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Import):
                        late |= {
                            (str(path.relative_to(PACKAGE)), alias.name) for alias in inner.names
                        }
                    elif isinstance(inner, ast.ImportFrom):
                        late.add((str(path.relative_to(PACKAGE)), str(inner.module)))

    assert set() == {entry for entry in late if not entry[0].startswith("cli/")} - LOCAL_IMPORTS


def test_importing_the_library_is_light() -> None:
    """
    Section 5: no extra, no JWT library, no test server comes with `import resource_tokens`.
    """
    heavy = {"jwt", "cryptography", "authlib", "redis", "rich", "opentelemetry", "http.server"}
    heavy |= {"filelock", "keyring", "platformdirs", "pydantic", "typer"}
    heavy |= {"resource_tokens.settings"}
    # httpx itself imports rich where it finds its own command line installed.
    code = (
        "import sys, httpx, httpx2; before = set(sys.modules); import resource_tokens; "
        f"print(sorted({heavy} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize(
    ("here", "absent"), [("httpx", ("httpx2", "httpcore2")), ("httpx2", ("httpx", "httpcore"))]
)
def test_either_library_may_be_absent(here: str, absent: tuple[str, ...]) -> None:
    """
    Section 5: whichever of the two is installed is served.
    """
    code = BLOCKED.format(blocked=absent) + (
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, *a: None if n in {absent!r} else found(n, *a)\n"
        f"import {here}, resource_tokens\n"
        f"assert issubclass(resource_tokens.ResourceTokenAuth, {here}.Auth)\n"
        f"print(sorted({set(absent)!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


def test_without_either_library_the_remedy_is_said() -> None:
    """
    An ImportError that names the package to install.
    """
    code = (
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n[:5] == 'httpx' else found(n, *a)\n"
        "import resource_tokens\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "pip install httpx" in done.stderr


def test_one_library_under_two_names() -> None:
    """
    Section 5: after `httpx2.alias_httpx()` both names are one module, and one base class.
    """
    code = (
        "import httpx2\n"
        "httpx2.alias_httpx()\n"
        "import httpx, resource_tokens\n"
        "assert httpx is httpx2\n"
        "assert issubclass(resource_tokens.ResourceTokenAuth, httpx.Auth)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda m: m.__name__)
def test_what_we_rely_on_in_the_clients_is_there(library: Any) -> None:
    """
    No private attribute of a dependency is used; these public ones are.
    """
    request = library.Request("GET", "https://a.test/", content=b"x", extensions={"trace": None})

    assert isinstance(request.stream, library.ByteStream)
    assert {"trace": None} == request.extensions
    assert b"a.test" == request.url.raw_host
    assert issubclass(ResourceTokenAuth, library.Auth)


@pytest.mark.parametrize("core", [httpcore, httpcore2], ids=lambda m: m.__name__)
def test_httpcore_still_names_its_trace_events_so(core: Any) -> None:
    """
    The guard listens for these two names. Both must be heard of from the real client, or a token
    would go out unchecked.
    """
    heard: list[str] = []
    with core.ConnectionPool(
        network_backend=core.MockBackend([b"HTTP/1.1 200 OK\r\n\r\n"])
    ) as pool:
        pool.request(
            "GET", "http://a.test/", extensions={"trace": lambda name, _: heard.append(name)}
        )

    assert 1 == len(_BEFORE_HEADERS & set(heard))
    source = Path(core.__file__).parent / "_sync"
    names = {
        f"{module}.{name}.started"
        for module in ("http11", "http2")
        for name in ("send_request_headers",)
        if f'"{name}"' in (source / f"{module}.py").read_text("utf-8")
    }
    assert _BEFORE_HEADERS == names


def everything_printable(world: World, auth: ResourceTokenAuth) -> str:
    """
    `repr` and `str` of every object of this library that is alive.
    """
    alive = [
        value
        for value in gc.get_objects()
        # A class may have a descriptor there.
        if str(type(value).__module__).startswith("resource_tokens.")
        and not str(type(value).__module__).startswith("resource_tokens.testing")
    ]
    assert any(value is auth for value in alive)
    events = [repr(event) for event in world.events]
    return "\n".join([*events, *(f"{value!r} {value}" for value in alive)])


def test_no_secret_in_any_repr(caller: Caller, world: World) -> None:
    """
    P9, R6750-10: whatever object of ours is printed, it shows neither token nor client secret.
    """
    auth = world.auth()
    with caller.client(auth=auth) as client:
        client.get(world.orders.url)
        client.get(world.billing.url, auth=auth.scoped("a"))
        shown = everything_printable(world, auth)

    assert 2 == len(world.server.issued)
    assert [] == [s for s in (*world.server.issued, CLIENT_SECRET) if s in shown]


LEAKING = """
class Printing:
    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text

class Pickling:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return str, (self.text,)

def failing(text):
    try:
        raise ValueError
    except ValueError as error:
        return LookupError().with_traceback(error.__traceback__)
"""


@pytest.mark.parametrize("how", ["Printing", "Pickling", "failing"])
def test_the_search_after_each_test_finds_what_leaks(world: World, how: str) -> None:
    """
    P9: the suite-wide check (`no_secret_shows`) would notice, and finds nothing in what is right.
    """
    names: dict[str, Any] = {"__name__": "resource_tokens.leaking"}
    # Beside the package, as there is no such file whose lines could be counted.
    exec(compile(LEAKING, f"{PACKAGE}.leaking.py", "exec"), names)
    token = world.auth().token_for(world.orders.url).reveal()
    right, wrong = Held([world]), Held([world, {"by": [(names[how](token),)]}])

    assert {token, CLIENT_SECRET} == right.secrets == wrong.secrets
    assert token not in "".join(right.shown())
    assert token in "".join(wrong.shown())


@pytest.mark.parametrize("fault", ["refused", "garbage", "down"])
def test_no_secret_in_any_traceback(caller: Caller, world: World, fault: str) -> None:
    """
    P9, L4: rendered with the local variables of our own frames, at every stage that can fail.
    """
    auth = world.auth()
    if fault == "refused":
        world.server.fail_next(1, status=401, error="invalid_client")
    elif fault == "garbage":
        world.server.answer_next(200, b'{"access_token": "")')
    else:
        world.server.stop()
    with pytest.raises(TokenRequestError) as caught:
        caller.token(auth.cache, ORDERS)

    error: BaseException | None = caught.value
    rendered = []
    while error is not None:
        frames = traceback.TracebackException.from_exception(error, capture_locals=True)
        for frame in frames.stack:
            if "resource_tokens" not in frame.filename:
                frame.locals = None
        rendered.append("".join(frames.format(chain=False)))
        error = error.__cause__ or error.__context__
    assert isinstance(caught.value, OAuthError) == (fault == "refused")
    assert CLIENT_SECRET not in "".join(rendered)
