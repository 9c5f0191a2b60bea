"""As much of a browser as the checkout page needs: cookies, and forms with the fields they come with."""

from __future__ import annotations

from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from shop_example.demo.client import Answer, Message, request
from shop_example.demo.server import DemoFailure


class Browser:
    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}

    def sign_in(self, path: str, name: str, password: str) -> None:
        answer = self.keep(request(self.port, self.fill_in(path, username=name, password=password)))
        if "sessionid" not in self.cookies:
            raise DemoFailure(f"{name} could not sign in at {path}: {answer.status}")

    def fill_in(self, path: str, **fields: object) -> Message:
        """Fetch a page; what its last form would send with these fields."""
        page = self.keep(request(self.port, Message(path, self.headers, b""), method="GET"))
        if page.status != 200:
            raise DemoFailure(f"GET {path} was answered {page.status}.")
        form = LastForm(page.body.decode())
        headers = {**self.headers, "Content-Type": "application/x-www-form-urlencoded"}
        return Message(path, headers, urlencode(form.hidden | fields).encode())

    @property
    def headers(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}

    def keep(self, answer: Answer) -> Answer:
        for header in answer.headers.get_list("Set-Cookie"):
            self.cookies |= {name: cookie.value for name, cookie in SimpleCookie(header).items()}
        return answer


class LastForm(HTMLParser):
    """The hidden fields of a page's last form."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.hidden: dict[str, object] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        field = dict(attributes)
        if tag == "form":
            self.hidden = {}
        elif tag == "input" and field.get("type") == "hidden":
            self.hidden[field["name"] or ""] = field["value"]
