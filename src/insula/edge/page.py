"""The one look of the pages that Insula writes itself: no script, nothing loaded from elsewhere, light or dark as the
reader has it. The maker of a page escapes what it puts in.
"""

from __future__ import annotations

from collections.abc import Sequence

#: What a page lists at most: more is no page.
LISTED = 500

_CSP = (
    b"default-src 'none'; style-src 'unsafe-inline'; img-src data:; "  # data: is the empty icon, lest one be asked for
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", _CSP),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"vary", b"accept"),
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:3rem auto;padding:0 1rem;color:#1c1c1e;"
    "background:#fff}h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin:2rem 0 .4rem}"
    "table{border-collapse:collapse}td{padding:.2rem 1.2rem .2rem 0;vertical-align:top}ul{padding:0;list-style:none}"
    "code,pre{font:14px/1.6 ui-monospace,monospace;background:#f0f0f2;border-radius:4px;overflow-wrap:anywhere}"
    "code{padding:.1em .3em}pre{padding:.6rem .8rem;white-space:pre-wrap}"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#161618}"
    "code,pre{background:#2a2a2e}a{color:#8ab4f8}}"
)


def page(title: str, body: str) -> bytes:
    """A whole page of a title and a body in HTML, both escaped already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{_STYLE}</style>'
        f"</head><body>{body}</body></html>\n"
    ).encode()


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """A table of cells in HTML, escaped already."""
    return (
        "<table>" + "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows) + "</table>"
    )


def more(number: int, where: str) -> str:
    """A line that says how many more there are than the page lists, and what lists them all; "" where there are none."""
    return f"<p>… and {number:,} more: <code>{where}</code></p>" if number else ""
