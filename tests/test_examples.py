"""The demo shop as its visitors meet it: a real server process, spoken to over HTTP."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from shop_process import ShopProcess

from tests.loop_clock import HANGS

pytest.importorskip("ravyn")
pytest.importorskip("aiosqlite")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopProcess]:
    process = ShopProcess(tmp_path_factory.mktemp("shop") / "data")
    process.start()
    yield process
    process.close()


@pytest.fixture
def client(shop: ShopProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shop.address, follow_redirects=True, timeout=HANGS) as client:
        yield client


def log_in(client: httpx.Client, name: str = "guest", password: str = "key") -> httpx.Response:
    return client.post("/login", data={"name": name, "password": password})


def cart_count(page: str) -> int:
    found = re.search(r'id="cart-count">(\d+)<', page)
    assert found is not None
    return int(found[1])


def test_looking_around_sets_no_cookie(client: httpx.Client) -> None:
    """A visitor who only looks gets no cookie, and no session is made for them."""
    page = client.get("/")
    assert page.status_code == 200
    assert "set-cookie" not in page.headers
    assert "No cookie" in page.text
    assert "No session" in page.text


def test_anonymous_cart_survives_log_in(client: httpx.Client) -> None:
    """What a visitor put in the cart before logging in is still there afterwards, under a new session ID."""
    client.post("/cart/add", data={"item": "bell"})
    page = client.post("/cart/add", data={"item": "bell"})
    assert cart_count(page.text) == 2
    before = client.cookies["session"]

    page = log_in(client)
    assert "Welcome, Greta Guest" in page.text
    assert cart_count(page.text) == 2
    assert client.cookies["session"] != before


def test_cookie_of_before_log_in_is_dead(client: httpx.Client, shop: ShopProcess) -> None:
    """The cookie a visitor had before logging in does not open their session afterwards."""
    client.post("/cart/add", data={"item": "lamp"})
    before = client.cookies["session"]
    log_in(client)
    old = httpx.get(f"{shop.address}/profile", headers={"cookie": f"session={before}"}, timeout=HANGS)
    assert old.status_code == 401
    assert cart_count(old.text) == 0


def test_copied_cookie_is_refused_after_log_out(client: httpx.Client, shop: ShopProcess) -> None:
    """After logging out, a copy of the old cookie opens nothing."""
    log_in(client)
    copied = {"cookie": f"session={client.cookies['session']}"}
    assert httpx.get(f"{shop.address}/profile", headers=copied, timeout=HANGS).status_code == 200
    page = client.post("/logout")
    assert page.url.path == "/goodbye"
    assert "session" not in client.cookies
    assert httpx.get(f"{shop.address}/profile", headers=copied, timeout=HANGS).status_code == 401


def test_profile_wants_a_guest(client: httpx.Client) -> None:
    """The profile page answers an anonymous visitor with 401 and a page that leads to the log-in."""
    page = client.get("/profile")
    assert page.status_code == 401
    assert "Please stop at reception" in page.text
    assert 'href="/login"' in page.text


def test_a_guest_ends_the_session_of_another_device(client: httpx.Client, shop: ShopProcess) -> None:
    """The devices' page shows both, and ends the other one, with the log-in that has just been."""
    with httpx.Client(base_url=shop.address, follow_redirects=True, timeout=HANGS) as phone:
        log_in(phone)
        assert 'href="/account/devices/"' in log_in(client).text
        page = client.get("/account/devices/")
        assert "This device" in page.text
        token = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert token is not None
        page = client.post("/account/devices/", data={"csrf": token[1], "all": "1"})
        assert "Sessions ended: " in page.text
        assert phone.get("/profile").status_code == 401
    assert client.get("/profile").status_code == 200


def test_the_manager_sees_everybodys_sessions(client: httpx.Client) -> None:
    """The manager's page is theirs alone: a visitor and a guest do not find it."""
    assert client.get("/manager/").status_code == 404
    log_in(client)
    assert client.get("/manager/").status_code == 404
    assert 'href="/manager/"' in log_in(client, "manager", "master").text
    page = client.get("/manager/")
    assert page.status_code == 200
    assert "Users logged in" in page.text


@pytest.mark.parametrize(("name", "password"), [("guest", "wrong"), ("nobody", "key"), ("", "")])
def test_wrong_password_is_refused(client: httpx.Client, name: str, password: str) -> None:
    """A wrong name or password logs nobody in and sets no cookie."""
    page = log_in(client, name, password)
    assert page.status_code in (400, 422)
    assert "set-cookie" not in page.headers


def test_what_a_visitor_types_is_escaped(client: httpx.Client) -> None:
    """A name with markup in it comes back as text."""
    page = log_in(client, '"><b id=x>', "key")
    assert "<b id=x>" not in page.text
    assert "&lt;b id=x&gt;" in page.text


def test_next_guest_does_not_get_the_cart_of_the_last(client: httpx.Client) -> None:
    """Logging in over somebody else's session starts with an empty cart."""
    log_in(client)
    client.post("/cart/add", data={"item": "robe"})
    page = log_in(client, "manager", "master")
    assert "Welcome, Marcel Manager" in page.text
    assert cart_count(page.text) == 0


def test_one_less_down_to_an_empty_cart(client: httpx.Client) -> None:
    """Taking away the last of an item leaves an empty cart."""
    client.post("/cart/add", data={"item": "sign"})
    page = client.post("/cart/remove", data={"item": "sign"})
    assert cart_count(page.text) == 0
    assert "There is nothing in it yet." in page.text


@pytest.mark.parametrize("path", ["/", "/cart", "/login", "/profile", "/goodbye", "/account/devices/", "/nowhere"])
def test_every_page_has_a_strict_policy(client: httpx.Client, path: str) -> None:
    """Every page, an error too, forbids everything but the shop's own styles and pictures."""
    policy = client.get(path).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_data_directory_keeps_to_itself(shop: ShopProcess) -> None:
    """The secret key is readable by its owner only, and git ignores the whole directory."""
    assert (shop.data / "secret-key").stat().st_mode & 0o777 == 0o600
    assert (shop.data / ".gitignore").read_text() == "*\n"
    assert (shop.data / "sessions.sqlite3").exists()


def test_taken_port_falls_forward(shop: ShopProcess, tmp_path: Path) -> None:
    """A second shop that wants a taken port takes another and says which; Ctrl-C ends it without a traceback."""
    second = ShopProcess(tmp_path / "data", port=shop.port)
    second.start()
    assert second.port != shop.port
    assert httpx.get(second.address, timeout=HANGS).status_code == 200
    assert "Traceback" not in second.stop()
