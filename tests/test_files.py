"""
Tokens in a file: whose it is, what becomes of it, and many processes with one of it.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import keyring.backends.null
import pytest

from resource_tokens import ConfigurationError, Resource
from resource_tokens._private_folder import PrivateFolder
from resource_tokens.files import FileTokenStore
from resource_tokens.keyring import key_in_keyring
from resource_tokens.stores import Generation, StoredToken, UnreadableEntryError, new_key
from resource_tokens.testing import LocalAuthorizationServer
from resource_tokens.tokens import AccessToken, Secret, TokenKey
from tests.conftest import BILLING, CLIENT_SECRET, ORDERS, Clock, World
from tests.servers.keyrings import InMemory, Locked, keyring_is
from tests.test_house_rules import BLOCKED

KEY = new_key()
HERE, THERE = TokenKey.of(["here"]), TokenKey.of(["there"])


def store(folder: Path, **options: Any) -> FileTokenStore:
    return FileTokenStore(folder / "state", keys=options.pop("keys", KEY), **options)


def token(text: str = "a-token", lives: float = 3600.0) -> StoredToken:
    now = time.time()
    expires_at = datetime.fromtimestamp(now + lives, UTC)
    issued = AccessToken(Secret(text), ORDERS, "Bearer", frozenset(), expires_at)
    return StoredToken(issued, now, Generation())


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """
    A Python process that is told things over its stdin, and ends with this block.
    """
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], line: str = "") -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


class Away:
    """
    A store that can be away, or does what it is told and then breaks off.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.away: set[str] = set()
        self.breaks: set[str] = set()
        # By name, for the calls to come: whether it is there.
        self.away_after: dict[str, Iterator[bool]] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if name in self.away or next(self.away_after.get(name, iter(())), None) is False:
                raise ConnectionError("redis://user:password@host")
            answer = getattr(self.store, name)(*arguments)
            if name in self.breaks:
                raise ConnectionError("reset by peer")
            return answer

        return call

    swap_grant: Any = property(lambda self: self.__getattr__("swap_grant"))


# Whose it is.


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    """
    The folder, the file and the lock, whatever the umask.
    """
    before = os.umask(0)
    try:
        store(tmp_path).save(HERE, token())
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {"state": 0o700, "tokens": 0o600, "lock": 0o600} == modes


def linked(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "state").symlink_to("real")


def writable(folder: Path) -> None:
    (folder / "state").mkdir()
    (folder / "state").chmod(0o770)


def on_an_open_way(folder: Path) -> None:
    folder.chmod(0o777)


def a_file(folder: Path) -> None:
    (folder / "state").touch()


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (linked, "symbolic link"),
        (writable, "written by other users"),
        (on_an_open_way, "on the way"),
        (a_file, "no folder"),
    ],
)
def test_a_folder_that_others_could_change_is_refused(
    tmp_path: Path, prepare: Callable[[Path], None], why: str
) -> None:
    """
    At construction, with what to do; and later as well, without costing a token.
    """
    early = store(tmp_path)
    prepare(tmp_path)

    with pytest.raises(ConfigurationError, match=rf"{why}.*mode 0700"):
        store(tmp_path)
    with pytest.raises(ConfigurationError, match=why):
        early.save(HERE, token())


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """
    Of root, or of another user for root.
    """
    folder = Path("/usr")
    if os.geteuid() == 0:
        folder = tmp_path / "theirs"
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)

    with pytest.raises(ConfigurationError, match="belongs to another user"):
        FileTokenStore(folder, keys=KEY)


def test_links_and_sticky_folders_on_the_way_are_common(tmp_path: Path) -> None:
    """
    `/tmp` can be written by everybody, and nobody moves in it what is not theirs.
    """
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "open" / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "open" / "mine")
    here, there = store(tmp_path / "link"), store(tmp_path / "open" / "mine")
    here.save(HERE, token())

    assert there.load(HERE, ORDERS).stored is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes links in the name of others")
def test_a_link_that_somebody_else_made_is_no_way(tmp_path: Path) -> None:
    """
    It could lead elsewhere tomorrow.
    """
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.chown(tmp_path / "link", 12345, 12345, follow_symlinks=False)

    with pytest.raises(ConfigurationError, match="on the way"):
        store(tmp_path / "link")


def make_a_link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def make_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (make_a_link, "symbolic link"),
        (make_a_pipe, "no regular file"),
        (lambda file: file.chmod(0o666), "written by other users"),
    ],
)
def test_a_file_that_others_could_have_written_is_not_used(
    tmp_path: Path, world: World, change: Callable[[Path], None], why: str
) -> None:
    """
    It is said once, in words, and every token is had all the same.
    """
    world.auth(store=store(tmp_path)).cache.get(ORDERS)
    change(tmp_path / "state" / "tokens")
    cache = world.auth(store=store(tmp_path)).cache
    cache.get(ORDERS)
    cache.get(BILLING)

    failures = [event.detail for event in world.events if event.name == "store_failed"]
    assert 3 == len(world.server.issued)
    assert 1 == len(failures)
    assert why in failures[0]


# What becomes of it.


def recovers(world: World, cache: Any, clock: Clock) -> None:
    """
    All is well again after a while.
    """
    clock.advance(60)
    cache.get(Resource("urn:x:another"))
    names = [name for name in world.event_names() if name.startswith("store")]
    assert ["store_failed", "store_recovered"] == names


def test_a_lock_of_a_process_that_hangs_costs_a_moment(
    tmp_path: Path, world: World, clock: Clock
) -> None:
    """
    Reading needs no lock; what wants to write gives up, says so once, and tries again later.
    """
    shared = store(tmp_path)
    world.auth(store=shared).cache.get(ORDERS)
    cache = world.auth(store=store(tmp_path), clock=clock).cache
    with child(HOLDS, tmp_path / "state") as process:
        assert "locked" == line_of(process)
        assert cache.get(ORDERS).same_as(world.auth(store=shared).cache.get(ORDERS))
        cache.get(BILLING)
        assert 2 == len(world.server.issued)
        assert 1 == world.event_names().count("store_failed")
        process.kill()
    recovers(world, cache, clock)


HOLDS = """
import sys
from resource_tokens._private_folder import PrivateFolder
with PrivateFolder(sys.argv[1]).locked(10):
    print("locked", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    """
    The system takes it away, and a half-written file with it.
    """
    store(tmp_path).save(HERE, token())
    with child(HOLDS, tmp_path / "state") as process:
        assert "locked" == line_of(process)
        (tmp_path / "state" / "tokens.new").write_text("half of")
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert store(tmp_path).save(THERE, token())
    assert ["lock", "tokens"] == sorted(path.name for path in (tmp_path / "state").iterdir())


def test_a_process_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    """
    Wherever it was in writing it.
    """
    for _ in range(3):
        with child(WRITES, tmp_path / "state", KEY) as process:
            assert "written" == line_of(process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert store(tmp_path).load(HERE, ORDERS).stored is not None


WRITES = """
import sys, time
from datetime import UTC, datetime
from resource_tokens.files import FileTokenStore
from resource_tokens.stores import Generation, StoredToken
from resource_tokens.tokens import AccessToken, Secret, TokenKey
store = FileTokenStore(sys.argv[1], keys=sys.argv[2])
key = TokenKey.of(["here"])
while True:
    expires_at = datetime.fromtimestamp(time.time() + 3600, UTC)
    token = AccessToken(Secret("x" * 9000), "urn:x", "Bearer", frozenset(), expires_at)
    store.save(key, StoredToken(token, time.time(), Generation()))
    print("written", flush=True)
"""


def no_way_to_write(folder: Path) -> Callable[[], None]:
    (folder / "state" / "lock").unlink()
    (folder / "state" / "lock").mkdir()
    return (folder / "state" / "lock").rmdir


def no_way_to_replace(folder: Path) -> Callable[[], None]:
    (folder / "state" / "tokens.new").mkdir()
    return (folder / "state" / "tokens.new").rmdir


@pytest.mark.parametrize("prevent", [no_way_to_write, no_way_to_replace])
def test_what_cannot_be_written_can_be_read(
    tmp_path: Path, world: World, clock: Clock, prevent: Callable[[Path], Callable[[], None]]
) -> None:
    """
    A token that is there is used; the others are asked for, and it is said once.
    """
    first = world.auth(store=store(tmp_path)).cache.get(ORDERS)
    allow = prevent(tmp_path)
    cache = world.auth(store=store(tmp_path), clock=clock).cache

    assert first.same_as(cache.get(ORDERS))
    cache.get(BILLING)
    allow()
    recovers(world, cache, clock)


def test_a_place_where_nothing_can_be_made_costs_no_request(world: World) -> None:
    """
    Nothing can be read there either.
    """
    cache = world.auth(store=FileTokenStore("/proc/self/fd/nowhere", keys=KEY)).cache
    cache.get(ORDERS)
    cache.get(BILLING)

    assert 2 == len(world.server.issued)
    assert 1 == world.event_names().count("store_failed")


def test_a_full_disk_costs_no_request(tmp_path: Path, server: LocalAuthorizationServer) -> None:
    """
    What was there before is still there; no half of a new one is.
    """
    store(tmp_path).save(HERE, token())
    with child(FULL, tmp_path / "state", KEY, server.token_endpoint, CLIENT_SECRET) as process:
        events = json.loads(line_of(process))

    assert ["store_failed", "token_issued"] == events
    assert store(tmp_path).load(HERE, ORDERS).stored is not None
    assert ["lock", "tokens"] == sorted(path.name for path in (tmp_path / "state").iterdir())


FULL = """
import json, resource, sys
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache
from resource_tokens.files import FileTokenStore
happened = []
cache = TokenCache(
    AuthorizationServer(token_endpoint=sys.argv[3]),
    ClientSecretBasic("orders-worker", sys.argv[4]),
    store=FileTokenStore(sys.argv[1], keys=sys.argv[2]),
    on_event=lambda event: happened.append(event.name),
)
# Not one byte more in any file.
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
cache.get("urn:example:orders")
print(json.dumps(happened), flush=True)
"""


def test_a_file_that_is_taken_away_is_made_again(tmp_path: Path, world: World) -> None:
    """
    Alone or with its folder, between any two steps.
    """
    cache = world.auth(store=store(tmp_path)).cache
    cache.get(ORDERS)
    (tmp_path / "state" / "tokens").unlink()
    cache.get(BILLING)
    (tmp_path / "state").rename(tmp_path / "away")
    cache.get(Resource("urn:x:third"))

    assert 3 == len(world.server.issued)
    assert "store_failed" not in world.event_names()
    assert (tmp_path / "state" / "tokens").exists()


def test_another_version_is_replaced(tmp_path: Path) -> None:
    """
    It counts as absent.
    """
    store(tmp_path).save(HERE, token())
    file = tmp_path / "state" / "tokens"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 99}))

    with pytest.raises(UnreadableEntryError, match="another version"):
        store(tmp_path).load(HERE, ORDERS)
    store(tmp_path).save(HERE, token())
    assert store(tmp_path).load(HERE, ORDERS).stored is not None


def test_a_file_that_is_too_large_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    P10: it counts as damaged.
    """
    monkeypatch.setattr("resource_tokens.files._MAX_SIZE", 2000)
    store(tmp_path).save(HERE, token("x" * 3000))

    with pytest.raises(UnreadableEntryError):
        store(tmp_path).load(HERE, ORDERS)


def test_what_it_keeps_is_bounded(tmp_path: Path) -> None:
    """
    P10: expired tokens and leases go with the next change, and those that expire first go first.
    """
    clock = Clock()
    clock.now = time.time()
    shared = store(tmp_path, maxsize=3, wall_clock=clock)
    shared.save(TokenKey.of(["soon"]), token(lives=10))
    shared.lease(HERE, 10)
    clock.advance(11)
    for number in (5, 1, 4, 2, 3):
        shared.save(TokenKey.of([str(number)]), token(f"number-{number}", 1000.0 * number))

    kept = [shared.load(TokenKey.of([str(n)]), ORDERS).stored for n in range(1, 6)]
    assert [None, None] == kept[:2]
    assert None not in kept[2:]
    members = json.loads((tmp_path / "state" / "tokens").read_text())
    assert (3, 0) == (len(members["entries"]), len(members["leases"]))


@pytest.mark.parametrize("back", [0, 1000])
def test_the_age_of_a_token_is_by_two_clocks(tmp_path: Path, back: float) -> None:
    """
    P7: a wall clock that was set back makes no token younger.
    """
    steady, wall = Clock(), Clock()
    wall.now = time.time()
    shared = store(tmp_path, clock=steady, wall_clock=wall)
    shared.save(HERE, replace(token(), age=1500.0))
    steady.advance(100)
    wall.advance(100 - back)

    stored = shared.load(HERE, ORDERS).stored
    assert stored is not None
    assert 1600 == pytest.approx(stored.age)


def test_a_machine_that_was_started_anew_has_one_clock(tmp_path: Path) -> None:
    """
    The other one says nothing about a time before that.
    """
    shared = store(tmp_path, clock=lambda: 1e6)
    shared.save(HERE, token())
    file = tmp_path / "state" / "tokens"
    members = json.loads(file.read_text())
    (entry,) = members["entries"].values()
    entry[2], entry[3] = "another boot", 5.0
    file.write_text(json.dumps(members))

    stored = shared.load(HERE, ORDERS).stored
    assert stored is not None
    assert 0.0 == stored.age


def test_a_change_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """
    Neither half of a file nor a name; what is not there is no error, what cannot be read is one.
    """
    folder = PrivateFolder(tmp_path)
    (tmp_path / "in the way").mkdir()

    with pytest.raises(OSError, match="in the way"), folder.locked(1):
        folder.replace("in the way", b"content", durable=True)
    assert ["in the way", "lock"] == sorted(path.name for path in tmp_path.iterdir())
    assert folder.read("nothing", 10) is None
    with pytest.raises(OSError, match="too long"):
        folder.read("x" * 300, 10)


# Many processes.


JOB = """
import sys
from resource_tokens import AuthorizationServer, ClientSecretBasic, TokenCache
from resource_tokens.files import FileTokenStore
cache = TokenCache(
    AuthorizationServer(token_endpoint=sys.argv[3]),
    ClientSecretBasic("orders-worker", sys.argv[4]),
    store=FileTokenStore(sys.argv[1], keys=sys.argv[2]),
)
print("ready", flush=True)
for line in sys.stdin:
    print(cache.get("urn:example:orders").reveal(), flush=True)
"""


def test_ten_jobs_that_start_together_ask_once(
    tmp_path: Path, server: LocalAuthorizationServer
) -> None:
    """
    The first one asks, and the others wait for its token; the eleventh finds it.
    """
    server.delay = timedelta(milliseconds=200)
    arguments = (tmp_path / "state", KEY, server.token_endpoint, CLIENT_SECRET)
    with ExitStack() as stack:
        jobs = [stack.enter_context(child(JOB, *arguments)) for _ in range(10)]
        assert ["ready"] * 10 == [line_of(job) for job in jobs]
        for job in jobs:
            tell(job)
        tokens = {line_of(job) for job in jobs}
    with child(JOB, *arguments) as late:
        assert "ready" == line_of(late)
        tell(late)
        tokens.add(line_of(late))

    assert [*tokens] == [*server.issued]
    assert 1 == len(server.token_requests)


# Its keys.


def test_a_key_can_be_in_a_file(tmp_path: Path) -> None:
    """
    As an editor leaves it; a `str` is always the key itself.
    """
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    store(tmp_path, keys=[file]).save(HERE, token())

    assert store(tmp_path, keys=KEY).load(HERE, ORDERS).stored is not None
    assert store(tmp_path, keys=file).load(HERE, ORDERS).stored is not None
    with pytest.raises(ConfigurationError, match=r"new_key\(\)"):
        store(tmp_path, keys=str(file))


@pytest.mark.parametrize("content", [None, "", "short", b"\xff\xfe"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: Any) -> None:
    """
    At construction.
    """
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    with pytest.raises(ConfigurationError, match="key"):
        store(tmp_path, keys=[file])


def test_a_key_can_be_in_the_keyring_of_the_system(tmp_path: Path) -> None:
    """
    It is put there the first time, under the name that is given.
    """
    backend = InMemory()
    with keyring_is(backend):
        store(tmp_path, keys=key_in_keyring("nightly")).save(HERE, token())
        assert key_in_keyring("nightly") != key_in_keyring("hourly")
        assert store(tmp_path, keys=key_in_keyring("nightly")).load(HERE, ORDERS).stored

    assert ["nightly", "hourly"] == [service for service, _ in backend.kept]


@pytest.mark.parametrize(
    ("backend", "why"),
    [(Locked, "KeyringLocked"), (keyring.backends.null.Keyring, "does not keep")],
)
def test_a_keyring_that_gives_nothing_is_an_error(backend: type[Any], why: str) -> None:
    """
    With what to do instead.
    """
    with keyring_is(backend()), pytest.raises(ConfigurationError, match=rf"{why}.*in a file"):
        key_in_keyring()


# How it is made.


@pytest.mark.parametrize("maxsize", [0, -1, 1.5, "many"])
def test_a_size_is_a_positive_number(tmp_path: Path, maxsize: Any) -> None:
    """
    At construction.
    """
    with pytest.raises(ConfigurationError, match="maxsize"):
        store(tmp_path, maxsize=maxsize)


def test_by_default_it_is_where_programs_keep_their_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    By the package that knows where that is on each system. Its `repr` shows where, and no key.
    """
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    shared = FileTokenStore(keys=KEY)
    shared.save(HERE, token())

    assert (tmp_path / "resource_tokens" / "tokens").exists()
    assert f"FileTokenStore('{tmp_path}/resource_tokens')" == repr(shared)


def test_without_its_packages_the_remedy_is_said(tmp_path: Path) -> None:
    """
    At construction, and not as a store that fails.
    """
    code = (
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "from resource_tokens import files\n"
        "files.find_spec = lambda name: None if name == 'filelock' else found(name)\n"
        f"files.FileTokenStore({str(tmp_path)!r}, keys={KEY!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=("filelock",)) + code],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 'pip install "resource-tokens[files]"' in done.stderr
