"""From frozen values to an HTML answer: the templates, their words, the headers every page carries."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from relaunch.dashboard import words
from relaunch.dashboard.ports import DashboardPorts
from relaunch.dashboard.sessions import Session, csrf_token

_HERE = Path(__file__).parent
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

STATIC: dict[str, tuple[bytes, str]] = {
    file.name: (file.read_bytes(), _KINDS[file.suffix])
    for file in sorted((_HERE / "static").iterdir())
    if file.suffix in _KINDS
}
_STAMP = hashlib.sha256(b"".join(data for data, _ in STATIC.values())).hexdigest()[:12]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def ports(request: Request) -> DashboardPorts:
    found = request.app.state.dashboard
    assert isinstance(found, DashboardPorts)
    return found


def page(
    request: Request, template: str, *, session: Session | None = None, status: int = 200, **values: Any
) -> HTMLResponse:
    """The template filled with `values`; every page knows who looks, the time and its own path."""
    here = ports(request)
    now = here.clock.now()
    text = _TEMPLATES.get_template(template).render(
        who=session.who if session else None,
        csrf=csrf_token(session, here.session_key) if session else "",
        now=now,
        ago=lambda at: _ago(at, now),
        path=request.url.path,
        version=here.version,
        **values,
    )
    return HTMLResponse(text, status_code=status, headers=HEADERS)


def static_file(name: str) -> Response:
    """One of the few files that came with the program; 404 for any other name."""
    if name not in STATIC:
        return Response(status_code=404, headers=HEADERS)
    data, kind = STATIC[name]
    kept = {"Cache-Control": "public, max-age=31536000, immutable"}  # their address carries their hash
    return Response(data, media_type=kind, headers=HEADERS | kept)


def _ago(at: str | None, now: datetime) -> str:
    then = words.moment(at)
    return words.span((now - then).total_seconds()) if then else ""


def _clock_time(at: str | None) -> str:
    then = words.moment(at)
    return f"{then:%Y-%m-%d %H:%M:%S}" if then else ""


def _between(start: str, end: str) -> str:
    first, last = words.moment(start), words.moment(end)
    return words.exact_span((last - first).total_seconds()) if first and last else ""


def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "between": _between,
        "clock_time": _clock_time,
        "exact_span": words.exact_span,
        "path_part": lambda text: quote(text, safe=""),
        "said": words.said,
        "size": words.size,
    }
    environment.globals |= {"stamp": _STAMP, "subject_path": words.subject_path}
    for name in environment.list_templates():
        environment.get_template(name)  # compiled now, not while the first visitor waits
    return environment


_TEMPLATES = _templates()
