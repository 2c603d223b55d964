"""Who may look and who may act: the route class that turns errors into pages, login, log out, CSRF."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from relaunch.dashboard import sessions
from relaunch.dashboard.reading import session_stands
from relaunch.dashboard.rendering import HEADERS, page, ports
from relaunch.dashboard.sessions import COOKIE, LIFETIME, Session
from relaunch.errors import BadInput, NotAllowed, RelaunchError

_FORM_BYTES = 16384


class NotLoggedIn(NotAllowed):
    """Nobody's session: shown the way to the login page instead of an error."""


class PageRoute(APIRoute):
    """A route whose errors are pages too, whatever the application does with errors of its API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except NotLoggedIn as error:
                if request.headers.get("x-live"):
                    return Response(error.message, status_code=401, headers=HEADERS)
                return _to(f"/login?next={quote(_wanted_path(request))}")
            except RelaunchError as error:
                session = await run_in_threadpool(_session, request)
                return page(request, "problem.html", session=session, status=error.http_status, error=error)
            except RequestValidationError:
                session = await run_in_threadpool(_session, request)
                problem = BadInput("this address cannot be understood", hint="follow a link instead of writing it")
                return page(request, "problem.html", session=session, status=400, error=problem)

        return handled


def _session(request: Request) -> Session | None:
    here = ports(request)
    session = sessions.unsealed(request.cookies.get(COOKIE, ""), here.session_key, here.clock.now())
    if session is None or here.ended.has(session):
        return None
    with here.engine.connect() as db:
        return session if session_stands(db, session.who, session.opened) else None


def logged_in(request: Request) -> Session:
    """Whose session this is; on the way to /login when it is nobody's."""
    session = _session(request)
    if session is None:
        raise NotLoggedIn("you are not logged in, or no longer", hint="log in with an API token")
    return session


LoggedIn = Annotated[Session, Depends(logged_in)]


async def form(request: Request) -> dict[str, str]:
    """The fields of a posted form, the last of each name; refused when another site's page sent it."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise NotAllowed("this form was sent from another site's page", hint="nothing was done")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _FORM_BYTES:
            raise BadInput("the form is too long")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    return {name: values[-1] for name, values in fields.items()}


async def signed_form(request: Request, session: Session) -> dict[str, str]:
    """As `form`, from a page we made for this session."""
    fields = await form(request)
    wanted = sessions.csrf_token(session, ports(request).session_key)
    if not sessions.same(fields.get("csrf", ""), wanted):
        raise NotAllowed(
            "this form is not of your session", hint="nothing was done; go back, reload the page, try again"
        )
    return fields


router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/login", response_class=HTMLResponse)
def login_page(request: Request, next: str = "/") -> Response:
    if _session(request) is not None:
        return _to(_own_path(next))
    return _login_form(request, next=_own_path(next))


@router.post("/login", response_class=HTMLResponse)
async def log_in(request: Request) -> Response:
    here, fields = ports(request), await form(request)
    now, address = here.clock.now(), request.client.host if request.client else ""
    wanted = _own_path(fields.get("next", "/"))
    seconds = int(here.tries.wait(address, now).total_seconds()) + 1
    if seconds > 1:
        message = f"Too many failed tries. Try again in {seconds} s."
        refusal = _login_form(request, status=429, next=wanted, message=message)
        refusal.headers["Retry-After"] = str(seconds)
        return refusal
    token = fields.get("token", "").strip()
    who = await run_in_threadpool(here.check_token, token) if token else None
    if who is None:
        here.tries.note_failure(address, now)
        message = "This token is unknown or revoked." if token else "Paste an API token first."
        return _login_form(request, status=401, next=wanted, message=message)
    answer = _to(wanted)
    answer.set_cookie(
        COOKIE,
        sessions.sealed(sessions.opened(who, now), here.session_key),
        max_age=int(LIFETIME.total_seconds()),
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/logout")
async def log_out(request: Request, session: LoggedIn) -> Response:
    await signed_form(request, session)
    here = ports(request)
    here.ended.end(session, here.clock.now())
    answer = _to("/login")
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return answer


def _login_form(request: Request, *, next: str, status: int = 200, message: str = "") -> HTMLResponse:
    token_file = ports(request).token_file
    return page(request, "login.html", status=status, next=next, message=message, token_file=token_file)


def _to(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=303, headers=HEADERS)


def _wanted_path(request: Request) -> str:
    if request.method != "GET":
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _own_path(path: str) -> str:
    """`path` when it leads to a page of ours, else the board: no way out to another site."""
    plain = path.startswith("/") and not path.startswith("//") and path.isascii() and path.isprintable()
    return path if plain and "\\" not in path else "/"
