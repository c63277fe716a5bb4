"""MkDocs hook: turns the equations of a page into MathML while the site is built.

Browsers draw MathML themselves, so the pages need no script and no font from another host.
"""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex leaves of $...$ and $$...$$ when `generic` is on.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    html = _INLINE.sub(lambda match: convert(unescape(match[1])), html)
    return _BLOCK.sub(lambda match: convert(unescape(match[1]), display="block"), html)
