"""
Errors: a tree, each picklable and free of secrets.
"""

from __future__ import annotations

import copy
import pickle

import pytest

from resource_tokens import (
    AudienceMismatchError,
    ConfigurationError,
    EgressBlockedError,
    OAuthError,
    ResourceTokensError,
    TokenRequestError,
    UnmappedDestinationError,
    exceptions,
)
from resource_tokens.exceptions import TokenRefusedError

ERRORS = [
    ConfigurationError("message"),
    UnmappedDestinationError("message", "https://a.test/"),
    EgressBlockedError("message", "https://a.test/", "urn:x:a"),
    AudienceMismatchError("message", "urn:x:a", ("urn:x:b",)),
    TokenRequestError("message", "urn:x:a", 503),
    OAuthError("message", "urn:x:a", 400, "invalid_target", "words", "https://e.test/"),
    TokenRefusedError("message", 403, "insufficient_scope", {"WWW-Authenticate": "Bearer"}),
    ResourceTokensError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickle_and_copy(error: ResourceTokensError) -> None:
    """
    Section 4: a worker's error reaches its parent with all of its fields.
    """
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(error) is type(twin)
        assert error.args == twin.args
        assert vars(error) == vars(twin)
        assert str(error) == str(twin)


def test_the_text_of_an_error_is_its_message() -> None:
    """
    The fields are attributes, not part of the sentence.
    """
    assert {"message"} == {str(error) for error in ERRORS[:-1]}
    assert "" == str(ResourceTokensError())


def test_the_tree_is_the_one_in_the_docstring() -> None:
    """
    Seven classes under one base; a ConfigurationError is a ValueError, an OAuthError a
    TokenRequestError, and none is an error of httpx.
    """
    named = {getattr(exceptions, name) for name in exceptions.__all__}

    assert {type(error) for error in ERRORS} == named
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(OAuthError, TokenRequestError)
    for error in named:
        assert error.__name__ in (exceptions.__doc__ or "")
        assert [] == [base for base in error.__mro__ if base.__module__.startswith("http")]


def test_callers_branch_on_the_error_code() -> None:
    """
    Section 4: `exc.error == "invalid_target"`.
    """
    error = OAuthError("m", "urn:x:a", 400, "invalid_target")

    assert ("invalid_target", None, None, 400) == (
        error.error,
        error.error_description,
        error.error_uri,
        error.status,
    )
