"""Somebody who uses the console without JavaScript: follows links and sends the forms of pages."""

import html
import re
from types import TracebackType
from typing import Self

import httpx

from helpers.support import HANG_S

_INPUT = re.compile(r"<(?:input|button)\b[^>]*>")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')


class Visitor:
    """A browser of a door's console that keeps cookies.

    Args:
        url: of the door.
    """

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=HANG_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def log_in(self, key: str, following: str = "/console") -> httpx.Response:
        """Log in with a key; the answer to the form."""
        page = self.http.get("/console/login", params={"next": following})
        return self.http.post("/console/login", data={**hidden_fields(page.text), "key": key})

    def page(self, path: str, status: int = 200) -> str:
        """A page, as it is sent."""
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def send(self, page: str, path: str, /, **fields: str) -> httpx.Response:
        """Send the form of a page, with these fields besides its hidden ones."""
        return self.http.post(path, data={**hidden_fields(form_of(page, path)), **fields})


def form_of(page: str, action: str) -> str:
    """The form of a page that is sent there."""
    forms = re.findall(r"<form\b.*?</form>", page, re.DOTALL)
    (found,) = [form for form in forms if f'action="{action}"' in html.unescape(form)]
    return str(found)


def hidden_fields(form: str) -> dict[str, str]:
    """The hidden fields of a form, by their names."""
    tags = [dict(_ATTRIBUTE.findall(tag)) for tag in _INPUT.findall(form)]
    return {
        tag["name"]: html.unescape(tag.get("value", ""))
        for tag in tags
        if tag.get("type") == "hidden" and "name" in tag
    }


def links_of(page: str) -> list[str]:
    """Where the links of a page lead."""
    return [html.unescape(link) for link in re.findall(r'<a\b[^>]*href="([^"]*)"', page)]


def text_of(page: str) -> str:
    """What a page says, in one line, without its tags."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
