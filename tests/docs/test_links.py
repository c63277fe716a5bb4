"""Links lead somewhere. Inside the site `mkdocs build --strict` sees to it; here the rest, without a network."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from page_blocks import ROOT, pages

LINK = re.compile(r"(?<!`)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
IMAGE = re.compile(r"!\[(?P<says>[^\]]*)\]\((?P<path>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/stamps/README.md")  # not on the site


def text_of(page: str) -> str:
    """Without blocks of code, whose brackets and comments are neither links nor headings."""
    return re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub and MkDocs make them."""
    titles = [match["title"] for match in HEADING.finditer(path.read_text())]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", OUTSIDE)
def test_links_of_pages_outside_the_site_lead_to_files_and_headings(page: str) -> None:
    for match in LINK.finditer(text_of(page)):
        target = urlsplit(match["target"])
        if target.scheme:
            continue
        path = (ROOT / page).parent / target.path if target.path else ROOT / page
        assert path.exists(), f"{page}: {match[0]}"
        assert not target.fragment or target.fragment in anchors(path), f"{page}: {match[0]} has no such heading"


@pytest.mark.parametrize("page", [*pages(), *OUTSIDE[1:]])
def test_images_are_there_and_say_what_they_show(page: str) -> None:
    for match in IMAGE.finditer(text_of(page)):
        assert ((ROOT / page).parent / match["path"]).is_file(), f"{page}: {match['path']}"
        assert len(match["says"].split()) >= 3, f"{page}: {match['path']} has no words for those who do not see it"


@pytest.mark.parametrize("page", [*pages(), *OUTSIDE[1:]])
def test_links_to_other_hosts_are_well_formed(page: str) -> None:
    for match in LINK.finditer(text_of(page)):
        target = urlsplit(match["target"])
        if target.scheme or target.netloc:
            assert target.scheme == "https" and "." in target.netloc, f"{page}: {match[0]}"


def test_all_pages_are_in_the_navigation() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert {Path(page).name for page in pages() if page.startswith("docs/")} <= set(listed)
    assert len(listed) == len(set(listed))


def test_headings_become_anchors(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Stage numbers, and the paper's count\n\n## `explain` & more\n")
    assert anchors(page) == {"stage-numbers-and-the-papers-count", "explain--more"}


@pytest.mark.parametrize("page", [*pages(), *OUTSIDE[1:]])
def test_no_page_has_the_marks_of_a_merge(page: str) -> None:
    assert not re.search(r"^(<<<<<<<|=======$|>>>>>>>)", (ROOT / page).read_text(), flags=re.MULTILINE)
