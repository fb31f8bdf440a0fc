"""
A Django site: an authorization server on one port, and APIs that check its tokens on another.

    python -m tests.servers.django_provider.site

The first line on stdin is the configuration, as JSON (see `Config` in __init__.py). The one line on
stdout says where both listen. It ends when stdin does.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse

Answering = Callable[[HttpRequest], HttpResponse]

urlpatterns: list[Any] = []
_ledger: list[dict[str, Any]] = []  # guarded by _lock
_lock = threading.Lock()


def ledger(answering: Answering) -> Answering:
    """
    Middleware: every request and the status it got, on both ports.
    """

    def record(request: HttpRequest) -> HttpResponse:
        if request.path.startswith("/_"):
            return answering(request)
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        entry = {
            "origin": f"http://{request.get_host()}",
            "method": request.method,
            "path": request.get_full_path(),
            "token": credentials if scheme == "Bearer" else None,
            "basic": scheme == "Basic",
            "form": {k: v for k, v in request.POST.lists() if k != "client_secret"},
            "status": None,
        }
        # Entered on arrival, so that the order is that of the requests and not of the answers.
        with _lock:
            _ledger.append(entry)
        response = answering(request)
        entry["status"] = response.status_code
        return response

    return record


def _show_ledger(request: HttpRequest) -> HttpResponse:
    with _lock:
        if request.method == "DELETE":
            _ledger.clear()
        return JsonResponse(_ledger, safe=False)


def _make_grant(request: HttpRequest) -> HttpResponse:
    """
    What a user's consent in a browser would have led to.
    """
    from django.contrib.auth.models import User
    from django.utils import timezone
    from oauth2_provider.models import AccessToken, Application, RefreshToken

    wanted = json.loads(request.body)
    common = {
        "user": User.objects.get_or_create(username="alice")[0],
        "application": Application.objects.get(client_id=wanted["client_id"]),
        "resource": wanted["resources"],
        "token": token_urlsafe(),
    }
    access_token = AccessToken.objects.create(
        **common, scope=wanted["scope"], expires=timezone.now() + timedelta(hours=1)
    )
    refresh_token = RefreshToken.objects.create(
        **{**common, "token": token_urlsafe()}, access_token=access_token
    )
    return JsonResponse({"refresh_token": refresh_token.token})


def _routes() -> list[Any]:
    from django.urls import include, path
    from django.views.decorators.csrf import csrf_exempt
    from oauth2_provider.views import ReadWriteScopedProtectedResourceMetadataView

    class Api(ReadWriteScopedProtectedResourceMetadataView):  # type: ignore[misc]  # Django has no types
        """
        The API is what the first segment of the path says. GET needs `read`, POST `write`.
        """

        def get_resource_metadata_url(self, request: HttpRequest) -> str:
            name = request.path.split("/")[1]
            metadata = f"/.well-known/oauth-protected-resource/{name}"
            return str(request.build_absolute_uri(metadata))

        def get(self, request: HttpRequest, **_: str) -> HttpResponse:
            return JsonResponse({"path": request.path})

        post = get

    return [
        path("_ledger", csrf_exempt(_show_ledger)),
        path("_grants", csrf_exempt(_make_grant)),
        path("", include("oauth2_provider.urls")),
        path("<path:path>", csrf_exempt(Api.as_view())),
    ]


def _configure(issuer: str, database: Path) -> None:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(database),
                "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "oauth2_provider"],
        MIDDLEWARE=[f"{__name__}.ledger"],
        # The tables as they are now, not the history that led there.
        MIGRATION_MODULES=dict.fromkeys(("contenttypes", "auth", "oauth2_provider")),
        OAUTH2_PROVIDER={
            "ACCESS_TOKEN_EXPIRE_SECONDS": 600,
            "DEFAULT_SCOPES": ["read"],
            "OAUTH2_PROTECTED_RESOURCE_AUTHORIZATION_SERVERS": [issuer],
            "REFRESH_TOKEN_REUSE_PROTECTION": True,
            "SCOPES": {"read": "Look", "write": "Touch"},
        },
        ROOT_URLCONF=__name__,
        SECRET_KEY="not a secret",
        USE_TZ=True,
    )
    django.setup()
    urlpatterns.extend(_routes())
    call_command("migrate", run_syncdb=True, verbosity=0)


def _register(clients: list[dict[str, str]]) -> None:
    from oauth2_provider.models import Application

    for client in clients:
        Application.objects.create(
            client_type="confidential",
            # Hashing with a million rounds would be most of the time of a token request.
            hash_client_secret=False,
            redirect_uris="https://client.example.com/",
            **client,
        )


def main() -> None:
    """
    Serve until stdin ends.
    """
    config = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        servers = [ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler) for _ in range(2)]
        issuer, apis = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
        _configure(issuer, Path(folder) / "db.sqlite3")
        _register(config["clients"])
        for server in servers:
            server.set_app(get_wsgi_application())
            threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(json.dumps({"issuer": issuer, "apis": apis}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
