"""A small shop on Ravyn: log in, fill a cart, log out. Every page shows what the browser and the server hold.

`roomkey serve-demo` runs it. Its data (guests, sessions, secret key) is kept in the directory `$ROOMKEY_DEMO_DATA`, or
else `./demo-data`.
"""

import os
import pprint
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from lilya.middleware import DefineMiddleware
from lilya.responses import StreamingResponse
from ravyn import Form, Gateway, Include, Ravyn, Request, get, post
from ravyn.core.config import StaticFilesConfig
from ravyn.exceptions import HTTPException
from ravyn.responses import Response

from roomkey import session_of
from roomkey.csrf import CSRFMiddleware
from roomkey.demo.goods import ITEMS
from roomkey.demo.strip import Strip, watch
from roomkey.demo.users import User, Users
from roomkey.errors import LoginTooOld
from roomkey.events import Event
from roomkey.pages import Activity, DevicesPage, OperatorsPage
from roomkey.ravyn import SessionConfig

HERE = Path(__file__).parent
MOST_OF_ONE_ITEM = 20
RECENT = 600  # seconds since the log-in, for what asks for a recent one
REMEMBERED = timedelta(days=14)
# A page may load nothing but the shop's own styles, pictures and script, which hears of a log-out elsewhere. Set on the
# response, not in a middleware: Ravyn makes the pages of an `HTTPException` outside of the app's own middleware.
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


# ---- pages ---------------------------------------------------------------------------------------------------------


@get("/")
async def shop(request: Request) -> Response:
    return render(request, "shop.html", items=ITEMS.values(), cart=cart_of(request))


@get("/cart")
async def cart(request: Request) -> Response:
    lines = [(ITEMS[sku], count) for sku, count in cart_of(request).items()]
    return render(request, "cart.html", lines=lines, total=sum(item.cents * count for item, count in lines))


@post("/cart/add")
async def add_to_cart(request: Request, data: dict[str, Any] = Form()) -> Response:  # noqa: B008  # how Ravyn spells it
    sku = known_sku(data)

    def one_more(cart: dict[str, int] | None) -> dict[str, int]:
        cart = cart or {}
        return {**cart, sku: min(cart.get(sku, 0) + 1, MOST_OF_ONE_ITEM)}

    # Two tabs that add at the same moment both count: `change` runs again on the fresh cart where another saved first.
    request.session.change("cart", one_more)
    request.session.flash(f"In your cart: {ITEMS[sku].name}")  # the next page shows it, once
    return see_other("/cart" if data.get("back") == "cart" else f"/#{sku}")


@post("/cart/remove")
async def remove_from_cart(request: Request, data: dict[str, Any] = Form()) -> Response:  # noqa: B008  # how Ravyn spells it
    sku = known_sku(data)

    def one_less(cart: dict[str, int] | None) -> dict[str, int]:
        cart = cart or {}
        return {key: left for key, count in cart.items() if (left := count - (key == sku)) > 0}

    request.session.change("cart", one_less)
    return see_other("/cart")


@get("/login")
async def login_form(request: Request) -> Response:
    return render(request, "login.html", name="", failed=False)


@post("/login")
async def login(request: Request, data: dict[str, Any] = Form()) -> Response:  # noqa: B008  # how Ravyn spells it
    name = str(data.get("name", "")).strip()
    user = await users_of(request).check(name, str(data.get("password", "")))
    if user is None:
        return render(request, "login.html", status_code=422, name=name, failed=True)
    if request.session.get("user_id") not in (None, user.id):
        request.session.clear()  # somebody else was logged in here: their cart is theirs
    if request.session.get("user_id") == user.id:
        request.session.reauthenticated()  # the same guest again, for a step that asks for a recent log-in
    request.session["user_id"] = user.id  # a new value of `user_key`: Roomkey gives the session a new ID
    request.session["name"] = user.name
    request.session["logged_in_at"] = datetime.now(UTC)
    if data.get("remember"):
        request.session.remember(REMEMBERED)  # instead of max_age
    request.session.flash("You are logged in.")
    return see_other("/profile")


@get("/profile")
async def profile(request: Request) -> Response:
    user = await current_user(request)
    logged_in_at = request.session["logged_in_at"]
    return render(request, "profile.html", user=user, address=str(request.url), logged_in_at=logged_in_at)


@get("/bill")
async def bill(request: Request) -> Response:
    user = await current_user(request)
    try:
        request.session.require_recent(RECENT)
    except LoginTooOld:
        raise HTTPException(status_code=403, detail="The bill asks for a recent log-in. Please log in again.") from None
    return render(request, "bill.html", user=user)


@post("/logout")
async def logout(request: Request) -> Response:
    request.session.clear()  # empty at the end of the request: the store's entry goes, and so does the cookie
    return see_other("/goodbye")


@get("/live")
async def live(request: Request) -> StreamingResponse:
    """Tell a page that is open in another window of the end of its session (`static/live.js`)."""
    if request.session.get("user_id") is None:
        raise HTTPException(status_code=401, detail="There is no log-in.")  # the browser does not ask again

    async def events() -> AsyncIterator[bytes]:
        yield b": welcome\n\n"
        yield f"event: ended\ndata: {await request.session.ended()}\n\n".encode()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


@get("/goodbye")
async def goodbye(request: Request) -> Response:
    return render(request, "goodbye.html")


# ---- helpers -------------------------------------------------------------------------------------------------------


def users_of(request: Request) -> Users:
    users: Users = request.app.state.users
    return users


async def current_user(request: Request) -> User:
    """The user of this session. Anonymous, or a user who has been deleted since: 401."""
    user_id = request.session.get("user_id")
    user = await users_of(request).get(user_id) if user_id is not None else None
    if user is None:
        raise HTTPException(status_code=401, detail="This page is for guests who have logged in.")
    return user


def cart_of(request: Request) -> dict[str, int]:
    """Item to count, in the order they were added; without items that the shop no longer sells."""
    return {sku: count for sku, count in request.session.get("cart", {}).items() if sku in ITEMS}


def known_sku(form: Mapping[str, Any]) -> str:
    sku = str(form.get("item", ""))
    if sku not in ITEMS:
        raise HTTPException(status_code=404, detail="The shop does not sell this.")
    return sku


def see_other(path: str) -> Response[Any]:
    return Response(status_code=303, headers={"location": path}, content=b"")


# ---- rendering -----------------------------------------------------------------------------------------------------


def price(cents: int) -> str:
    return f"€ {cents // 100}.{cents % 100:02}"


def moment(value: datetime) -> str:
    return f"{value:%d %b %Y, %H:%M:%S} UTC"


templates: Environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters.update(price=price, moment=moment)


def render(request: Request, template: str, *, status_code: int = 200, **values: Any) -> Response[Any]:
    session, config = request.session, request.app.session_config
    messages = session.show_flashes()
    page = templates.get_template(template).render(
        path=request.url.path,
        messages=messages,
        user_name=session.get("name"),
        cart_count=sum(cart_of(request).values()),
        # For the part "Behind the desk". Only a demo shows a cookie: its page is as secret as the cookie is.
        cookie_name=config.session_cookie,
        cookie=request.cookies.get(config.session_cookie),
        cookie_attributes=cookie_attributes(config),
        session=session,
        session_data=pprint.pformat(
            {key: value for key, value in session.items() if key != "_flashes"}, width=48, sort_dicts=False
        ),
        **values,
    )
    return Response(content=page, status_code=status_code, media_type="text/html", headers=dict(PAGE_HEADERS))


def cookie_attributes(config: SessionConfig) -> list[str]:
    attributes = [f"Path={config.path}", f"SameSite={config.same_site}", "HttpOnly"]
    if config.https_only is True:
        attributes.append("Secure")
    return attributes


async def error_page(request: Request, error: HTTPException) -> Response[Any]:
    detail = "There is no such page in this house." if error.detail == "Not Found" else error.detail
    return render(request, "error.html", status_code=error.status_code, status=error.status_code, detail=detail)


# ---- the app -------------------------------------------------------------------------------------------------------


def secret_key(directory: Path) -> str:
    """The key in `directory`, made on the first start: it must outlive a restart, or every restart logs all out."""
    path = directory / "secret-key"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
    except FileExistsError:
        pass
    return path.read_text()


def data_directory() -> Path:
    """`$ROOMKEY_DEMO_DATA`, or else `./demo-data`. It is made where it is missing."""
    directory = Path(os.environ.get("ROOMKEY_DEMO_DATA") or "demo-data").resolve()
    if not directory.exists():
        directory.mkdir(mode=0o700, parents=True)
        (directory / ".gitignore").write_text("*\n")
    return directory


def create_app(directory: Path, *, key: str | None = None, store: str | None = None) -> Strip:
    """The shop, with its guests in `directory`; by default its key and its sessions are there too."""
    users = Users(directory / "users.sqlite3")

    @asynccontextmanager
    async def lifespan(app: Ravyn) -> AsyncIterator[None]:
        await users.open()
        yield
        await users.close()

    async def is_manager(scope: Any) -> bool:
        user_id = session_of(scope).get("user_id")
        user = None if user_id is None else await users.get(user_id)
        return user is not None and user.name == "manager"

    activity = Activity()  # for the manager's page

    def tell(event: Event) -> None:
        activity(event)
        Strip.on_event(event)

    config = SessionConfig(
        secret_key=key or secret_key(directory),
        store=store or f"sqlite:///{directory}/sessions.sqlite3",
        record_client=True,  # so that guests can tell their devices apart
        on_event=tell,
        live=True,  # so that a page in another window hears of a log-out
    )
    watch(config.store)
    look = HERE / "templates" / "pages"
    devices = DevicesPage(config, recent=RECENT, log_in_url="/login", home_url="/profile", templates=look)
    manager = OperatorsPage(config, activity=activity, allow=is_manager, home_url="/profile", templates=look)
    handlers = (shop, cart, add_to_cart, remove_from_cart, login_form, login, profile, bill, logout, live, goodbye)
    app = Ravyn(
        routes=[
            *(Gateway(handler=handler) for handler in handlers),
            Include("/account/devices", app=devices),
            Include("/manager", app=manager),
        ],
        session_config=config,
        middleware=[DefineMiddleware(CSRFMiddleware)],
        static_files_config=StaticFilesConfig(path="/static", directory=HERE / "static"),
        # The numbers: for unknown addresses and methods, Ravyn looks its handlers up by status code only.
        exception_handlers={HTTPException: error_page, 404: error_page, 405: error_page},
        lifespan=lifespan,
        enable_openapi=False,
    )
    app.state.users = users
    return Strip(app, config)
