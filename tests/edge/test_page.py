from __future__ import annotations

from html.parser import HTMLParser

from insula.edge.page import PAGE_HEADERS, page, table


def test_a_page_is_whole_and_loads_nothing() -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            named = dict(attrs)
            assert "src" not in named
            assert named.get("href") in (None, "data:,")
            if tag not in ("meta", "link", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    text = page("A &amp; B", f"<h1>A</h1>{table([('1', '<code>2</code>'), ('3', '4')])}").decode()
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert "<title>A &amp; B</title>" in text
    assert "<tr><td>1</td><td><code>2</code></td></tr><tr><td>3</td><td>4</td></tr>" in text


def test_its_policy_lets_nothing_in() -> None:
    policy = dict(PAGE_HEADERS)[b"content-security-policy"]
    assert policy.startswith(b"default-src 'none'")
    assert b"frame-ancestors 'none'" in policy
    assert b"script" not in policy
