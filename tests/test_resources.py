"""
Which resource does this URL belong to? The rules of `resources.py`.
"""

from __future__ import annotations

import pickle
import string
import subprocess
import sys
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from resource_tokens import (
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    EgressBlockedError,
    Resource,
    ResourceMap,
)
from resource_tokens._destinations import is_secure_url

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda m: m.__name__)

API = "https://api.example.com/"
GATEWAY = {
    "https://gw.example.com/billing/": "urn:example:billing",
    "https://gw.example.com/orders": "urn:example:orders",
    "https://gw.example.com/orders/archive/": "urn:example:archive",
}


def identifier(resources: Any, url: Any) -> str | None:
    found = ResourceMap(resources).resource_for(url)
    return None if found is None else found.identifier


@LIBRARIES
@pytest.mark.parametrize(
    ("destination", "url"),
    [
        (API, "https://api.example.com"),
        (API, "https://api.example.com/"),
        (API, "https://api.example.com/v1?x=1#f"),
        (API, "https://api.example.com:443/v1"),
        (API, "HTTPS://API.EXAMPLE.COM/v1"),
        (API, "https://api.example.com/%2e%2e//;x"),
        ("https://api.example.com:443", "https://api.example.com/v1"),
        ("HTTPS://API.Example.COM/", "https://api.example.com/v1"),
        ("https://api.example.com:8443/", "https://api.example.com:8443/"),
        ("https://api.example.com./", "https://api.example.com./"),
        ("https://my_service.example.com/", "https://my_service.example.com/"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/x"),
        ("https://xn--bcher-kva.example/", "https://bücher.example/x"),
        ("https://straße.example/", "https://xn--strae-oqa.example/"),
        ("https://[2001:db8::1]/", "https://[2001:DB8:0:0::1]/x"),
        ("https://[2001:DB8:0:0::1]:8443/", "https://[2001:db8::1]:8443/x"),
        ("https://192.0.2.7/", "https://192.0.2.7/x"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/x"),
        ("http://127.9.9.9/", "http://127.9.9.9:80/x"),
        ("http://[::1]/", "http://[0:0::1]:80/x"),
    ],
)
def test_a_destination_covers_its_host(library: Any, destination: str, url: str) -> None:
    """
    P1, R9110-1: origins are equal by scheme, host in its ASCII form, and effective port.
    """
    assert "urn:x:api" == identifier({destination: "urn:x:api"}, library.URL(url))


@LIBRARIES
@pytest.mark.parametrize(
    ("destination", "url"),
    [
        (API, "http://api.example.com/"),
        (API, "https://api.example.com:444/"),
        (API, "https://api.example.com./"),
        (API, "https://example.com/"),
        (API, "https://evilapi.example.com/"),
        (API, "https://evil.api.example.com/"),
        (API, "https://api.example.com.evil.test/"),
        (API, "https://api.example.com@evil.test/"),
        (API, "https://evil.test/https://api.example.com/"),
        (API, "https://evil.test?@api.example.com/"),
        (API, "https://evil.test#@api.example.com/"),
        (API, "https:/api.example.com/"),
        (API, "//api.example.com/"),
        (API, "/v1"),
        (API, "ftp://api.example.com/"),
        (API, "wss://api.example.com/"),
        ("https://straße.example/", "https://strasse.example/"),
        ("https://xn--80ak6aa92e.com/", "https://apple.com/"),
        ("http://127.0.0.1/", "http://127.1/"),
        ("http://127.0.0.1/", "http://2130706433/"),
        ("http://127.0.0.1/", "http://0x7f.0.0.1/"),
        ("http://127.0.0.1/", "http://[::ffff:127.0.0.1]/"),
        ("http://127.0.0.1/", "http://127.0.0.1./"),
        ("http://[::1]/", "http://[::2]/"),
    ],
)
def test_everything_else_is_not_covered(library: Any, destination: str, url: str) -> None:
    """
    P1, U1 to U10: another scheme, host, port or spelling is another destination.
    """
    assert identifier({destination: "urn:x:api"}, library.URL(url)) is None


def test_a_zone_never_matches() -> None:
    """
    U6: an address with a zone means something else on each machine.
    """
    assert (
        ResourceMap({"http://[::1]/": "urn:x:a"}).resource_at("http", b"::1%1", None, b"/") is None
    )
    assert ResourceMap({API: "urn:x:a"}).resource_at("https", b"not:an:address", None, b"/") is None


@LIBRARIES
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/billing", "urn:example:billing"),
        ("/billing/", "urn:example:billing"),
        ("/billing/invoices/7?x=//%2e", "urn:example:billing"),
        ("/orders", "urn:example:orders"),
        ("/orders/", "urn:example:orders"),
        ("/orders/archive", "urn:example:archive"),
        ("/orders/archive/2020", "urn:example:archive"),
        ("/orders/archived", "urn:example:orders"),
        ("/billings", None),
        ("/billing2/x", None),
        ("/bill", None),
        ("/", None),
        ("", None),
        ("/other", None),
        ("/x/billing", None),
        ("/orders/../other", None),
        ("/caf%C3%A9/x", None),
        ("/orders/caf%C3%A9/100%25", "urn:example:orders"),
    ],
)
def test_the_longest_path_prefix_wins_on_segments(
    library: Any, path: str, expected: str | None
) -> None:
    """
    M4, M6, R8707-14: prefixes end at segments, and a host with path rules has no fallback.
    """
    assert expected == identifier(GATEWAY, library.URL(f"https://gw.example.com{path}"))


def six_times_over(text: str) -> str:
    """
    A text whose every character was percent-encoded, again and again.
    """
    for _ in range(6):
        text = "".join(f"%{ord(character):02x}" for character in text)
    return text


@LIBRARIES
@pytest.mark.parametrize(
    "path",
    [
        "/orders/%2e%2e/billing",
        "/orders/%2E%2E/billing",
        "/orders/..%2fbilling",
        "/orders/..%5cbilling",
        "/orders/..;/billing",
        "/orders;v=1",
        "//billing",
        "/orders//billing",
        "/orders/%252e%252e/billing",
        "/orders/%25252fbilling",
        "/orders/%00",
        "/orders/.%09./billing",
        "/orders/%3b/billing",
        "/orders/\\billing",
        "/orders/%5Cbilling",
        "/%62illing/x",
        "/%2562illing/x",
        "/Billing/x",
        "/BILLING",
        "/billing%3fx",
        "/billing%23/x",
        "/orders/archive./x",
        "/orders/archive%20/x",
        "/%c0%afbilling",
        "/x/%c0%ae%c0%ae/billing/",
        "/orders/" + six_times_over("x"),
        "/orders/%61rchive",
        "/orders/ARCHIVE/x",
        "/%7f",
    ],
)
def test_a_path_with_two_readings_is_refused(library: Any, path: str) -> None:
    """
    M5: what a gateway could route elsewhere is refused, never normalised.
    """
    with pytest.raises(EgressBlockedError, match=r"gw\.example\.com") as caught:
        ResourceMap(GATEWAY).resource_for(library.URL(f"https://gw.example.com{path}"))

    assert caught.value.destination.startswith("https://gw.example.com/")


@pytest.mark.parametrize(
    "target",
    [
        b"/orders/../billing",
        b"/orders;/../billing",
        b"/orders/.",
        b"/..",
        b"/orders/%zz",
        b"/billing#x",
        b"/orders\t",
    ],
)
def test_dot_segments_on_the_wire_are_refused(target: bytes) -> None:
    """
    M5, M7: httpx resolves `..` in URLs, but a target set by hand is what goes out.
    """
    with pytest.raises(EgressBlockedError):
        ResourceMap(GATEWAY).resource_at("https", b"gw.example.com", None, target)


def test_a_whole_host_and_a_path_on_it() -> None:
    """
    An explicit rule for the whole host is the fallback of its path rules.
    """
    resources = {API: "urn:x:all", "https://api.example.com/admin": "urn:x:admin"}

    assert "urn:x:all" == identifier(resources, "https://api.example.com/v1")
    assert "urn:x:all" == identifier(resources, "https://api.example.com/administrator")
    assert "urn:x:admin" == identifier(resources, "https://api.example.com/admin/users")
    for path in ("/admin%23/x", "/admin%3fx", "/admin./x", "/%61dmin", "/%2561dmin"):
        with pytest.raises(EgressBlockedError):
            identifier(resources, f"https://api.example.com{path}")
    with pytest.raises(EgressBlockedError, match="letter case"):
        identifier(resources, "https://api.example.com/Admin/users")


def test_a_wildcard_covers_exactly_one_label() -> None:
    """
    M1, M2: `*.` is one label, as in certificates; never the parent, never two.
    """
    tenants = {"https://*.tenants.example.com/": "https://tenants.example.com/"}

    assert identifier(tenants, "https://blue.tenants.example.com/x") is not None
    for host in (
        "tenants.example.com",
        "a.b.tenants.example.com",
        "eviltenants.example.com",
        "blue.tenants.example.com.",
        "blue.tenants.example.com.evil.test",
        "-.tenants.example.com",
        "*.tenants.example.com",
        "a%2fb.tenants.example.com",
        "a;b.tenants.example.com",
    ):
        assert identifier(tenants, f"https://{host}/") is None


@pytest.mark.parametrize("suffix", ["co.uk", "github.io"])
def test_a_wildcard_is_taken_where_strangers_register(suffix: str) -> None:
    """
    No list of public suffixes is asked, which the documentation says: it would age.
    """
    rules = {f"https://*.{suffix}/": "https://example.com/"}

    assert "https://example.com/" == identifier(rules, f"https://anybody.{suffix}/")


def test_an_exact_host_goes_before_a_wildcard() -> None:
    """
    The more specific destination wins, and brings its own path rules.
    """
    resources = {
        "https://*.tenants.example.com/": "https://tenants.example.com/",
        "https://red.tenants.example.com/api": "https://red.tenants.example.com/",
    }

    assert "https://red.tenants.example.com/" == identifier(
        resources, "https://red.tenants.example.com/api/x"
    )
    assert identifier(resources, "https://red.tenants.example.com/x") is None


LABEL = st.text(string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=20)


@given(LABEL)
@example("a.b")
@example("")
def test_wildcards_match_one_label_and_nothing_else(prefix: str) -> None:
    """
    M1, CVE-2026-18206, CVE-2013-1944: whatever stands before the parent.
    """
    tenants = ResourceMap({"https://*.tenants.example.com/": "https://tenants.example.com/"})
    host = f"{prefix}.tenants.example.com".encode()
    found = tenants.resource_at("https", host, None, b"/")

    one_label = "." not in prefix and prefix.strip("-") == prefix != ""
    assert one_label == (found is not None)


@given(st.text(max_size=60))
@example("https://api.example.com\\@evil.test/")
@example("https://api.example.com:443@evil.test/")
@example("https://api.example.com%2f.evil.test/")
@example("https://api。example.com/")
def test_no_string_matches_across_an_origin(text: str) -> None:
    """
    Section 3 of the style guide: no input makes a match cross an origin. What is compared is
    what httpx itself would connect to.
    """
    resources = ResourceMap({API: "urn:x:api"})
    for candidate in (text, f"https://{text}", f"https://api.example.com{text}"):
        try:
            url = httpx.URL(candidate)
        except (httpx.InvalidURL, ValueError):
            continue
        try:
            found = resources.resource_for(url)
        except EgressBlockedError:
            continue
        expected = (url.scheme, url.raw_host, url.port) == ("https", b"api.example.com", None)
        assert expected == (found is not None)


@given(
    st.lists(st.sampled_from(["orders", "billing", "archive", "x", "..", ".", ""]), max_size=5),
    st.sampled_from(["", "/"]),
)
def test_a_path_maps_like_its_normalised_form_or_not_at_all(parts: list[str], end: str) -> None:
    """
    M5: for any mix of segments, the rule found is that of the path which a server would serve
    after removing dots and empty segments; if the two could differ, it is refused.
    """
    resources = ResourceMap(GATEWAY)
    target = "/" + "/".join(parts) + end
    try:
        found = resources.resource_at("https", b"gw.example.com", None, target.encode())
    except EgressBlockedError:
        return
    resolved: list[str] = []
    for part in parts:
        if part == "..":
            del resolved[-1:]
        elif part not in ("", "."):
            resolved.append(part)
    again = resources.resource_at(
        "https", b"gw.example.com", None, ("/" + "/".join(resolved)).encode()
    )
    assert again == found


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ("api.example.com", "no http"),
        ("/path", "no http"),
        ("", "no http"),
        ("https://", "no http"),
        ("ftp://api.example.com/", "no http"),
        ("https://u:p@api.example.com/", "userinfo"),
        ("https://api.example.com/?q=1", "query"),
        ("https://api.example.com/#f", "fragment"),
        ("https://api.example.com/\\x", "backslash"),
        ("https://api.example.com/a b", "white space"),
        ("https://api.example.com:0/", "port"),
        ("https://api.example.com:99999/", "port"),
        ("https://api.example.com:0443/", "port"),
        ("https://api.example.com:+443/", "port"),
        ("https://api.example.com:٤٤٣/", "port"),
        ("https://api.example.com:x/", "no URL"),
        ("https://api%2eexample.com/", "characters"),
        ("https://api..example.com/", "no URL|characters"),
        ("https://-api.example.com/", "no URL|characters"),
        ("https://127.1/", "number"),
        ("https://2130706433/", "number"),
        ("https://0x7f.0.0.1/", "number"),
        ("https://api.0x7f/", "number"),
        ("https://[fe80::1%25eth0]/", "no URL|zone"),
        ("https://a.*.example.com/", "wildcard|no URL"),
        ("https://a*.example.com/", "wildcard|no URL"),
        ("https://*/", "wildcard"),
        ("https://*.com/", "too broad"),
        ("https://*.com./", "too broad"),
        ("https://*.127.0.0.1/", "too broad"),
        ("https://*.[::1]/", "no URL|too broad|number"),
        ("https://*.tenants.example.com/", "abstract identifier"),
        ("http://api.example.com/", "plain http"),
        ("http://localhost:8000/", "plain http"),
        ("http://127.1/", "number"),
        ("http://[::ffff:127.0.0.1]/", "plain http"),
        ("https://gw.example.com/a/%2e%2e/b", "different ways"),
        ("https://gw.example.com//a", "different ways"),
        ("https://gw.example.com/a;x/../b", "different ways"),
        ("https://gw.example.com/a/../b", "different ways"),
        ("https://@api.example.com/", "userinfo"),
    ],
)
def test_a_destination_that_is_no_plain_prefix_is_refused(destination: str, words: str) -> None:
    """
    M3, U2, U5, U7, U11, R8707-15: wrong at construction, with the destination and what to do.
    """
    with pytest.raises(ConfigurationError, match=words) as caught:
        ResourceMap({destination: "urn:x:api"})

    assert repr(destination) in str(caught.value)


def test_plain_http_needs_leave() -> None:
    """
    R6750-9: only loopback addresses are exempt; `allow_http=True` is the explicit word.
    """
    allowed = Resource("urn:x:stock", allow_http=True)

    assert "urn:x:stock" == identifier(
        {"http://stock.mesh.internal:8080/": allowed}, "http://stock.mesh.internal:8080/x"
    )


def test_one_destination_is_mapped_once() -> None:
    """
    M6: two rules of the same reach are an error, whatever their spelling.
    """
    with pytest.raises(ConfigurationError, match="mapped twice"):
        ResourceMap({API: "urn:x:a", "https://API.example.com:443": "urn:x:b"})
    with pytest.raises(ConfigurationError, match="mapped twice"):
        ResourceMap({"https://gw.example.com/a": "urn:x:a", "https://gw.example.com/a/": "urn:x:b"})


def test_paths_that_some_servers_do_not_tell_apart_are_mapped_once() -> None:
    """
    M6: such a request could only ever be refused.
    """
    for twin in ("https://gw.example.com/API", "https://gw.example.com/%61pi"):
        with pytest.raises(ConfigurationError, match="letter case or encoding"):
            ResourceMap({"https://gw.example.com/api": "urn:x:a", twin: "urn:x:b"})


def test_a_destination_may_be_percent_encoded() -> None:
    """
    M5: a path that needs encoding is compared in the form it is sent in.
    """
    resources = {
        "https://gw.example.com/bücher/": "urn:x:books",
        "https://gw.example.com/my%20api/": "urn:x:spaced",
    }

    assert "urn:x:books" == identifier(resources, "https://gw.example.com/b%C3%BCcher/1")
    assert "urn:x:books" == identifier(resources, httpx.URL("https://gw.example.com/bücher/1"))
    assert "urn:x:spaced" == identifier(resources, "https://gw.example.com/my%20api/1")


def test_refusing_a_hostile_path_is_quick() -> None:
    """
    P10: percent signs encoded thousands of times over are not decoded one layer after the other.
    """
    target = b"/orders/" + b"%25" * 20_000
    with pytest.raises(EgressBlockedError):
        ResourceMap(GATEWAY).resource_at("https", b"gw.example.com", None, target + b"%2e")


def test_a_resource_is_the_same_in_another_process() -> None:
    """
    Hashes of strings differ from process to process; a pickled resource brings none along.
    """
    code = (
        "import pickle, sys; from resource_tokens import Resource;"
        "one = pickle.loads(sys.stdin.buffer.read());"
        "print(len({one, Resource('urn:x:a', scopes='b a', extra={'k': 'v'})}))"
    )
    pickled = pickle.dumps(Resource("urn:x:a", scopes="a b", extra={"k": "v"}))
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickled, capture_output=True, check=True
    )

    assert b"1" == done.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"allow_http": "false"}, "True or False"),
        ({"allow_http_proxy": 1}, "True or False"),
        ({"audience": ["a"]}, "no text"),
        ({"audience": "\ud800"}, "no text"),
        ({"scopes": None}, "neither"),
        ({"scopes": [1]}, "no scope"),
        ({"extra": {"a": "b", 1: "c"}}, "extra="),
        ({"extra": {"a": "\ud800"}}, "extra="),
    ],
)
def test_values_of_another_type_are_refused(arguments: dict[str, Any], words: str) -> None:
    """
    Bad input is a ConfigurationError at construction, not a TypeError later.
    """
    with pytest.raises(ConfigurationError, match=words):
        Resource("urn:x:a", **arguments)


def test_a_list_maps_each_url_to_itself() -> None:
    """
    R8707-5: the simplest form: what is listed is both destination and resource, byte for byte.
    """
    listed = ResourceMap(["https://Api.Example.com:443/v1/", Resource("https://b.example.com/")])

    assert ["https://Api.Example.com:443/v1/", "https://b.example.com/"] == [
        resource.identifier for _, resource in listed
    ]
    assert listed.resource_for("https://api.example.com/v1/x") is not None
    assert 2 == len(listed)
    assert list(listed) == list(ResourceMap(listed))
    assert "'https://b.example.com/': 'https://b.example.com/'" in repr(listed)


def test_what_is_no_mapping_is_refused() -> None:
    """
    One string is not a list of strings; an abstract name does not say where it is served.
    """
    with pytest.raises(ConfigurationError, match="Give a list"):
        ResourceMap("https://api.example.com/")
    with pytest.raises(ConfigurationError, match="does not say where it is served"):
        ResourceMap(["urn:example:billing"])
    with pytest.raises(ConfigurationError, match="not int"):
        ResourceMap([1])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="no string"):
        ResourceMap({1: "urn:x:a"})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "identifier_",
    ["https://api.example.com", "urn:invoices", "api://reports", "https://h?tenant=1", "x:y"],
)
@pytest.mark.filterwarnings("ignore:The resource identifier:UserWarning")
def test_an_identifier_is_kept_to_the_letter(identifier_: str) -> None:
    """
    P5, R8707-1, R8707-16, RMCP-2, RMCP-11: any absolute URI, never normalised.
    """
    assert identifier_ == Resource(identifier_).identifier
    assert identifier_ == Resource(identifier_).expected_audience


@pytest.mark.parametrize(
    "identifier_",
    [
        "",
        "api.example.com",
        "/x",
        "//h/x",
        "https:",
        "https://",
        "HTTPS:///",
        "urn:",
        "https://h/#",
        "https://h/#f",
        "https://h/a b",
        "https://h/\n",
        "https://bücher.example/",
        5,
    ],
)
def test_what_is_no_absolute_uri_without_fragment_is_refused(identifier_: Any) -> None:
    """
    R8707-1, R8707-2: a scheme is required, and even an empty fragment is one.
    """
    with pytest.raises(ConfigurationError):
        Resource(identifier_)


def test_a_query_in_an_identifier_warns() -> None:
    """
    R8707-3: allowed, advised against, sent unchanged.
    """
    with pytest.warns(UserWarning, match="advises against"):
        resource = Resource("https://h.example/?tenant=1")

    assert "https://h.example/?tenant=1" == resource.identifier


def test_scopes_are_a_set() -> None:
    """
    R6749-9, C12: order and repetition mean nothing, case does.
    """
    assert Resource("urn:x:a", scopes=["b", "a", "a"]) == Resource("urn:x:a", scopes="a b")
    assert Resource("urn:x:a", scopes="A") != Resource("urn:x:a", scopes="a")
    for wrong in ("é", 'a"b', "a\\b", "a\nb"):
        with pytest.raises(ConfigurationError, match="no scope"):
            Resource("urn:x:a", scopes=[wrong])


def test_extra_parameters_are_plain_and_do_not_replace_others() -> None:
    """
    R6749-5: no parameter is sent twice.
    """
    assert (("a", "1"), ("b", "2")) == Resource("urn:x:a", extra={"b": "2", "a": "1"}).extra
    for name, value in (("resource", "x"), ("scope", "x"), ("client_id", "x"), ("a", 1), (1, "a")):
        with pytest.raises(ConfigurationError, match="extra="):
            Resource("urn:x:a", extra={name: value})  # type: ignore[dict-item]


def test_a_resource_is_a_value() -> None:
    """
    Equal resources are one dictionary key; a resource pickles.
    """
    left, right = (Resource("urn:x:a", scopes="b a", extra={"k": "v"}) for _ in range(2))

    assert {left: 1} == {right: 1}
    assert left == pickle.loads(pickle.dumps(left))
    assert left != Resource("urn:x:a", verify_audience="off")
    with pytest.raises(ConfigurationError, match="verify_audience"):
        Resource("urn:x:a", verify_audience="never")  # type: ignore[arg-type]


def test_a_credential_belongs_to_its_server() -> None:
    """
    X1, R9700-7, RMCP-7: a resource names a server and a credential together, or neither.
    """
    server = AuthorizationServer(issuer="https://login.example.com")
    client_auth = ClientSecretBasic("id", "secret")

    assert server == Resource("urn:x:a", server=server, client_auth=client_auth).server
    for one in ({"server": server}, {"client_auth": client_auth}):
        with pytest.raises(ConfigurationError, match="give both"):
            Resource("urn:x:a", **one)


@given(st.ip_addresses())
def test_only_loopback_addresses_are_safe_without_tls(address: Any) -> None:
    """
    U7: an address literal, and none that merely embeds one.
    """
    host = f"[{address}]" if address.version == 6 else str(address)
    mapped = address.version == 6 and address.ipv4_mapped
    assume(not mapped)

    assert address.is_loopback == is_secure_url(httpx.URL(f"http://{host}/"))
    assert is_secure_url(httpx.URL(f"https://{host}/"))
