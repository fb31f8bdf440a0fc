"""
The model check of `benchmarks/scale.py`, with few workers and many seeds. For thousands of them it
is a command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import scale, virtual
from benchmarks.scale import Outcome, calm, rough
from resource_tokens.stores import StoredToken
from resource_tokens.tokens import TokenKey

SECONDS = 900.0


def broken(outcomes: list[Outcome]) -> set[str]:
    return {bound for outcome in outcomes for bound, kept in outcome.bounds.items() if not kept}


def test_a_calm_fleet_asks_once_for_each_lifetime() -> None:
    """
    However many there are, and one token is in use at a time.
    """
    outcomes = [calm(workers, SECONDS) for workers in (1, 10, 100)]

    assert set() == broken(outcomes)
    assert {outcomes[0].lifetimes} >= {outcome.token_requests for outcome in outcomes}


@pytest.mark.parametrize(("workers", "seeds"), [(3, 40), (8, 20), (100, 2)])
def test_what_goes_wrong_costs_what_is_promised(workers: int, seeds: int) -> None:
    """
    Clocks that drift, lost answers, workers that are killed or stand still while they have the
    lease: one more token request for each lease that ran out and each exchange that was lost, no
    expired token, and never two at a time outside their soft windows.
    """
    outcomes = [rough(workers, SECONDS, seed) for seed in range(seeds)]

    assert set() == broken(outcomes)
    assert 0 < sum(outcome.ran_out for outcome in outcomes)
    assert 0 < min(sum(outcome.killed for outcome in outcomes), sum(o.held for o in outcomes))


def test_the_check_finds_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Without leases there are more token requests; without the fence, two tokens are in use.
    """
    save = virtual.SharedStore.save

    def unfenced(store: virtual.SharedStore, key: TokenKey, stored: StoredToken) -> bool:
        return save(store, key, replace(stored, instead_of=None, age=-1e6))

    def for_everybody(*_: object) -> Callable[[], object]:
        return lambda: None

    with monkeypatch.context() as patched:
        patched.setattr(virtual.SharedStore, "lease", for_everybody)
        found = broken([calm(30, SECONDS)])
    assert {"one token request per lifetime, lease that ran out and lost exchange"} == found
    monkeypatch.setattr(virtual.SharedStore, "save", unfenced)
    bound = "one token at a time outside its soft window"
    assert any(bound in broken([rough(3, SECONDS, seed)]) for seed in range(40))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    It prints, writes the numbers and the picture, and says by its status whether all is well.
    """
    monkeypatch.setattr(scale, "PAGE", tmp_path / "scale.svg")
    file = tmp_path / "numbers.json"
    with pytest.raises(SystemExit) as ended:
        scale.main(["--workers", "12", "--seconds", "300", "--page", "--json", str(file)])

    assert not ended.value.code
    numbers = json.loads(file.read_text(encoding="utf-8"))
    assert [1, 10, 12] == [outcome["workers"] for outcome in numbers["calm"]]
    drawing = ElementTree.fromstring(scale.PAGE.read_text(encoding="utf-8"))
    assert 4 == sum(element.tag.endswith("polyline") for element in drawing.iter())
