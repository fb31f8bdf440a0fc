"""
Tokens shared through a cluster, through servers that a sentinel watches, through servers that are
read-only or full, and through the distribution's Redis with TLS and users.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.exceptions

from resource_tokens import ResourceTokenAuth
from resource_tokens._sharing import _LONGEST_ABSENCE
from resource_tokens.redis import RedisTokenStore
from resource_tokens.stores import Generation, StoredGrant, new_key
from resource_tokens.tokens import Secret
from tests.conftest import BILLING, ORDERS, Clock, World
from tests.servers.tls import authority, certificate
from tests.servers.valkey import ValkeyCluster, ValkeyServer, WatchedValkey, until
from tests.test_store_contract import HERE, THERE, token

KEY = new_key()
GRANT = StoredGrant(Secret("a refresh token"))


def sharing(world: World, where: Any, **options: Any) -> ResourceTokenAuth:
    return world.auth(store=RedisTokenStore(where, keys=[KEY]), **options)


def steps_of_everything(store: RedisTokenStore) -> list[Callable[[], Any]]:
    """
    All that a store is asked to do.
    """
    release = store.lease(HERE, 30)
    assert release is not None
    return [
        partial(store.load, HERE, ORDERS),
        partial(store.save, HERE, token(instead_of=b"")),
        partial(store.news, [ORDERS, BILLING], 0),
        partial(store.forget, ORDERS, b"a subject"),
        partial(store.forget, None, b"a subject"),
        partial(store.load, HERE, ORDERS, b"a subject"),
        partial(store.forget, ORDERS),
        partial(store.forget, None),
        partial(store.swap_grant, HERE, None, GRANT),
        release,
    ]


def answered(store: RedisTokenStore) -> None:
    """
    All of it is done, and says what it should.
    """
    for step in steps_of_everything(store):
        step()
    loaded = store.load(HERE, ORDERS)

    assert GRANT == store.load_grant(HERE)
    assert token() == loaded.stored
    assert Generation(1, 1) == loaded.generation
    assert not store.save(HERE, token("late", instead_of=b""))
    assert store.load(THERE, BILLING).stored is None
    assert store.lease(HERE, 30) is not None


# A cluster.


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as running:
        yield running


def test_a_cluster_is_a_server(world: World, cluster: ValkeyCluster) -> None:
    """
    Every command and script is about one name, so it does not matter which of them has it.
    """
    with closing(cluster.client()) as client:
        answered(RedisTokenStore(client, keys=[KEY], prefix="a cluster"))

        resources = {f"{world.orders.url}{number}/": f"urn:x:{number}" for number in range(12)}
        auths = [sharing(world, client, resources=resources) for _ in range(2)]
        for auth in auths:
            auth.prefetch()
    assert 12 == len(world.server.issued)
    assert 12 == world.event_names().count("token_loaded")
    holding = []
    for server in cluster.servers:
        with closing(server.client()) as one:
            holding.append(one.dbsize())
    assert 0 < min(holding)


def test_a_node_of_a_cluster_that_is_gone_costs_no_request(world: World) -> None:
    """
    A third of the names cannot be reached then; all tokens are had.
    """
    with ValkeyCluster() as cluster, closing(cluster.client(socket_timeout=0.5)) as client:
        cluster.servers[2].stop()
        resources = {f"{world.orders.url}{number}/": f"urn:x:{number}" for number in range(12)}
        auth = sharing(world, client, resources=resources)
        auth.prefetch()

    assert 12 == len(world.server.issued)
    assert 1 == world.event_names().count("store_failed")


# Sentinels.


def test_a_failover_in_the_middle_costs_no_request(world: World, clock: Clock) -> None:
    """
    The client asks the sentinel where to go; until there is an answer, this process asks for its
    own tokens. Afterwards all share again.
    """
    with WatchedValkey() as watched, closing(watched.client(socket_timeout=0.5)) as client:
        answered(RedisTokenStore(client, keys=[KEY], prefix="sentinels"))
        one, two = sharing(world, client, clock=clock), sharing(world, client, clock=clock)
        one.token_for(world.orders.url)
        two.token_for(world.orders.url)
        assert 1 == len(world.server.issued)

        watched.primary.stop()
        one.token_for(world.billing.url)
        two.token_for(world.orders.url)
        assert 2 == len(world.server.issued)
        assert 1 == world.event_names().count("store_failed")

        watched.fail_over()
        until(partial(_answers, client))
        clock.advance(2 * _LONGEST_ABSENCE)
        one.cache._acquirer._drop(None)
        two.cache._acquirer._drop(None)
        one.token_for(world.billing.url)
        assert 1 == world.event_names().count("store_recovered")
        two.token_for(world.billing.url)
    assert 3 == len(world.server.issued)
    assert "token_loaded" == world.event_names()[-1]


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


# Servers that take no writes.


def test_a_replica_is_read(world: World, clock: Clock) -> None:
    """
    What the primary has is found there; what it has not is asked for, and cannot be shared.
    """
    with WatchedValkey() as watched:
        primary = sharing(world, watched.primary.url, clock=clock)
        primary.token_for(world.orders.url)
        with closing(watched.replica.client()) as client:
            until(lambda: client.dbsize() == 1)
        world.events.clear()
        auth = sharing(world, watched.replica.url, clock=clock)
        auth.token_for(world.orders.url)
        auth.token_for(world.billing.url)

        assert ["token_loaded", "store_failed"] == world.event_names()[:2]
        assert 1 == world.event_names().count("store_failed")
        assert "ReadOnlyError" == world.events[1].detail
        assert 2 == len(world.server.issued)


def test_a_full_server_costs_no_request(world: World, clock: Clock) -> None:
    """
    It answers, and keeps nothing. With room again, all share as before.
    """
    with (
        ValkeyServer("--maxmemory", "1", "--maxmemory-policy", "noeviction") as full,
        closing(full.client()) as client,
    ):
        one, two = sharing(world, full.url, clock=clock), sharing(world, full.url, clock=clock)
        for auth in (one, two):
            auth.token_for(world.orders.url)
            auth.token_for(world.billing.url)
        assert 4 == len(world.server.issued)
        assert 2 == world.event_names().count("store_failed")

        client.config_set("maxmemory", 0)
        clock.advance(60)
        for auth in (one, two):
            auth.cache._acquirer._drop(None)
            auth.token_for(world.orders.url)
        assert 5 == len(world.server.issued)
        # One of them has only read so far.
        assert 1 == world.event_names().count("store_recovered")
        two.token_for(world.billing.url)
        assert 2 == world.event_names().count("store_recovered")


def test_a_flushed_server_costs_one_request(world: World, clock: Clock) -> None:
    """
    Tokens in memory stay in use; whoever has none asks, and shares.
    """
    with ValkeyServer() as server, closing(server.client()) as client:
        one, two = sharing(world, server.url, clock=clock), sharing(world, server.url, clock=clock)
        one.token_for(world.orders.url)
        client.flushall()
        client.script_flush()
        one.token_for(world.orders.url)
        two.token_for(world.orders.url)
        sharing(world, server.url).token_for(world.orders.url)

    assert 2 == len(world.server.issued)
    assert {"metadata_discovered", "token_issued", "token_loaded"} == set(world.event_names())


# The distribution's Redis.

USER, PASSWORD = "orders-worker", "a password for nobody else"
# What the docstring of RedisTokenStore says.
COMMANDS = ["get", "set", "pttl", "hmget", "evalsha", "script|load"]
COMMANDS += ["zscore", "zrange", "zrangebyscore"]
IN_SCRIPTS = ["del", "time", "hincrby", "hlen", "hget", "hset", "zadd", "zcard", "zremrangebyscore"]


@pytest.fixture(scope="module")
def program() -> str:
    """
    The `redis-server` of the distribution; there must be one where CI says so.
    """
    found = shutil.which("redis-server")
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("there is no redis-server on this machine; apt-get install redis-server")
    assert found is not None, "CI has to install redis-server"
    return found


@pytest.fixture(scope="module")
def authority_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("redis-tls") / "ca.pem"
    authority().cert_pem.write_to_path(str(file))
    return file


@pytest.fixture(scope="module")
def secured(program: str, authority_file: Path) -> Iterator[ValkeyServer]:
    """
    A server that speaks TLS only, and has one user who may do what is needed.
    """
    leaf, folder = certificate(), authority_file.parent
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    server = ValkeyServer(
        *("--port", "0", "--tls-auth-clients", "no", "--tls-ca-cert-file", str(authority_file)),
        *("--tls-cert-file", str(folder / "certificate.pem")),
        *("--tls-key-file", str(folder / "key.pem")),
        program=program,
        connect={"ssl": True, "ssl_ca_certs": str(authority_file)},
    )
    server._options += ("--tls-port", str(server.port))
    with server, closing(server.client()) as client:
        client.acl_setuser(
            USER,
            enabled=True,
            passwords=[f"+{PASSWORD}"],
            keys=["resource_tokens:*"],
            commands=[f"+{command}" for command in COMMANDS + IN_SCRIPTS],
        )
        yield server


def secured_url(secured: ValkeyServer, authority_file: Path, password: str = PASSWORD) -> str:
    user = f"{USER}:{password.replace(' ', '%20')}"
    return f"rediss://{user}@127.0.0.1:{secured.port}/0?ssl_ca_certs={authority_file}"


def test_a_user_who_may_do_what_is_needed(
    world: World, secured: ValkeyServer, authority_file: Path
) -> None:
    """
    The commands that the docstring names are enough, below the prefix only, and over TLS.
    """
    documented = (RedisTokenStore.__doc__ or "").upper()
    assert [] == [
        name for name in COMMANDS + IN_SCRIPTS if name.upper().replace("|", " ") not in documented
    ]
    url = secured_url(secured, authority_file)
    answered(RedisTokenStore(url, keys=[KEY]))
    with closing(secured.client()) as client:
        client.flushall()
        client.execute_command("ACL LOG", "RESET")
        for _ in range(2):
            sharing(world, url).token_for(world.orders.url)
        assert [] == client.execute_command("ACL LOG")

        with pytest.raises(redis.exceptions.NoPermissionError):
            RedisTokenStore(url, keys=[KEY], prefix="another").load(HERE, ORDERS)
        assert {"key"} == {entry["reason"] for entry in client.execute_command("ACL LOG")}
    assert ["token_issued", "token_loaded"] == world.event_names()[1:]


@pytest.mark.parametrize("missing", COMMANDS + IN_SCRIPTS)
def test_no_command_is_named_that_is_not_needed(
    secured: ValkeyServer, authority_file: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Without any one of them something fails.
    """
    monkeypatch.setattr("resource_tokens.redis._MAX_GENERATIONS", 1)
    with closing(secured.client()) as client:
        client.flushall()
        client.script_flush()
        client.execute_command("ACL SETUSER", USER, f"-{missing}")
        try:
            store = RedisTokenStore(secured_url(secured, authority_file), keys=[KEY])
            with pytest.raises(redis.ResponseError):
                answered(store)
        finally:
            client.execute_command("ACL SETUSER", USER, f"+{missing}")


@pytest.mark.parametrize("wrong", ["password", "authority", "no TLS"])
def test_who_is_not_let_in_asks_alone(
    world: World, secured: ValkeyServer, authority_file: Path, wrong: str
) -> None:
    """
    No request fails, the event says why, and the password is in none of it.
    """
    url = secured_url(secured, authority_file, "wrong" if wrong == "password" else PASSWORD)
    if wrong == "authority":
        url = url.partition("?")[0]
    elif wrong == "no TLS":
        url = url.replace("rediss", "redis").partition("?")[0]
    sharing(world, url).token_for(world.orders.url)

    assert "store_failed" == world.event_names()[0]
    expected = {"password": "AuthenticationError"}.get(wrong, "ConnectionError")
    assert expected == world.events[0].detail
    assert 1 == len(world.server.issued)
