"""The page as text: what it shows, what it lets a browser do, and that no name in it is taken for markup."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from contents import AIM, HOSTILE, PLAIN, make_content

pytest.importorskip("jinja2")

from aimwrap.report.html import (
    PAGE,
    SCRIPTS,
    STYLES,
    by_group,
    by_score,
    embed,
    joined_scripts,
    pairs,
    percent,
    points,
    render,
)

VOID = {"meta", "link", "input", "br"}


class Read(HTMLParser):
    """A page taken apart: its elements with their attributes, the raw text of scripts and styles, the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            tag, attributes, text = self.raw[-1]
            self.raw[-1] = (tag, attributes, text + data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def embedded(self) -> Any:
        return json.loads(next(text for _, attributes, text in self.raw if attributes.get("id") == "content"))


@pytest.fixture(scope="module")
def compared() -> tuple[dict[str, Any], Read]:
    content = make_content(12, compare=True)
    return content, Read(render(content))


@pytest.fixture(scope="module")
def hostile() -> tuple[dict[str, Any], Read]:
    content = make_content(12, compare=True, hostile=True)
    return content, Read(render(content))


# ---- What a browser is allowed to do --------------------------------------------------------------------------------


def test_policy_allows_exactly_the_script_and_the_style_of_the_page(hostile: tuple[dict[str, Any], Read]) -> None:
    _, page = hostile
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in (policy or "").split("; "))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = [text for name, a, text in page.raw if name == tag and a.get("type") != "application/json"]
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    assert set(rules) == {"default-src", "img-src", "script-src", "style-src", "base-uri", "form-action"}


def test_nothing_outside_the_page_is_referred_to(compared: tuple[dict[str, Any], Read]) -> None:
    content, page = compared
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    addresses = re.findall(r"[a-z]+://[^\s\"')]+", render(content))
    assert set(addresses) == {"http://www.w3.org/2000/svg"}  # the name of SVG, which is no place


def test_no_attribute_that_the_policy_would_refuse(hostile: tuple[dict[str, Any], Read]) -> None:
    for tag, attributes in hostile[1].elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)


def test_scripts_put_no_text_where_it_could_be_markup() -> None:
    script = joined_scripts()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"):
        assert way not in script
    assert "</script" not in script.lower() and "<!--" not in script


def test_every_style_and_script_is_used() -> None:
    assert sorted(f"{name}.css" for name in STYLES) == sorted(path.name for path in PAGE.glob("*.css"))
    assert sorted(f"{name}.js" for name in SCRIPTS) == sorted(path.name for path in PAGE.glob("*.js"))


# ---- Names are text -------------------------------------------------------------------------------------------------


def test_hostile_names_add_no_element(hostile: tuple[dict[str, Any], Read]) -> None:
    content, page = hostile
    harmless = Read(render(_renamed(content)))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert "img" not in {tag for tag, _ in page.elements}


def _renamed(value: Any) -> Any:
    """The same content with every hostile name replaced by a tame one."""
    if isinstance(value, dict):
        return {key: _renamed(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_renamed(entry) for entry in value]
    return "tame" if isinstance(value, str) and any(name in value for name in HOSTILE) else value


def test_embedded_content_comes_back_as_it_was(hostile: tuple[dict[str, Any], Read]) -> None:
    content, page = hostile
    assert page.embedded() == content


def test_embedded_text_cannot_end_its_element() -> None:
    text = embed({"name": "".join(HOSTILE)})
    assert not set(text) & set("<>&\u2028\u2029") and text.isascii()
    assert json.loads(text) == {"name": "".join(HOSTILE)}


def test_names_that_are_no_unicode_can_be_written(hostile: tuple[dict[str, Any], Read]) -> None:
    content, _ = hostile
    assert any("\udc80" in image["id"] for image in content["images"])
    render(content).encode("utf-8")


# ---- What it shows --------------------------------------------------------------------------------------------------


def test_everything_said_of_the_models_is_shown(compared: tuple[dict[str, Any], Read]) -> None:
    content, page = compared
    text = page.text
    for value in _strings(content["data"]) | {content["title"], content["command"], content["created"]}:
        assert value in text
    for model in content["models"]:
        shown = {key: model[key] for key in ("name", "variant", "stages", "card", "groups", "health", "verification")}
        for value in _strings(shown):
            assert " ".join(value.split()) in text, value
        for score in model["scores"]:
            wanted = [score["name"], score["explained"]] if score["key"] != "chance" else [score["explained"]]
            wanted += [percent(score["value"])] if score["value"] is not None else []
            assert all(value in text for value in wanted), score
        for row in model["verification"]["survival"] if model["verification"] else []:
            assert percent(row["rate"]) in text and percent(row["low"]) in text and percent(row["high"]) in text
    for row in content["differences"]:
        assert points(row["value"]) in text and row["explained"] in text


def _strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*(_strings(entry) for entry in value.values()))
    if isinstance(value, list):
        return set().union(*(_strings(entry) for entry in value)) if value else set()
    return {value} if isinstance(value, str) and value else set()


def test_differences_say_whether_they_may_be_chance() -> None:
    content = make_content(4, compare=True)
    row = {"key": "average", "name": "Average", "value": 0.1, "n": 4, "explained": "paired"}
    for low, high, said in (
        (0.02, 0.2, "does not contain 0"),
        (-0.2, -0.02, "does not contain 0"),
        (-0.1, 0.3, "contains 0"),
    ):
        content["differences"] = [{**row, "low": low, "high": high}]
        assert f"The interval {said}" in Read(render(content)).text


def test_findings_and_failed_checks_are_shown() -> None:
    content = make_content(4)
    assert "Healthy" in Read(render(content)).text
    finding = {"stage": "3", "symptom": "all on", "message": "the mask of stage 3 is all on: anneal for longer"}
    content["models"][0]["health"] = [finding]
    content["models"][0]["verification"] |= {"passed": False}
    content["models"][0]["verification"]["checks"][0]["passed"] = False
    text = Read(render(content)).text
    assert "Healthy" not in text and finding["message"] in text
    assert "A guarantee does not hold" in text and "Failed: values are finite" in text


def test_undefined_numbers_are_called_so() -> None:
    content = make_content(6, objects=False, groups=False)
    for model in content["models"]:
        for entry in (*model["scores"], *model["groups"]):
            entry |= dict.fromkeys({"value", "accuracy", "low", "high"} & entry.keys())
    content["command"] = None
    text = Read(render(content)).text
    assert "undefined" in text and "unknown" in text
    assert not re.search(r"\b(None|nan|null)\b", text)


def test_not_a_number_is_refused() -> None:
    content = make_content(2)
    content["images"][0]["by_model"][0]["confidence"] = float("nan")
    with pytest.raises(ValueError, match="content must hold finite numbers, and None for what is undefined"):
        render(content)


@pytest.mark.parametrize(
    ("options", "there", "missing"),
    [
        ({"plain": False}, {"masks", "verification", "background"}, {"pointing"}),
        ({"objects": False}, {"masks", "verification"}, {"pointing"}),
        (
            {"alone": PLAIN._replace(role="model"), "plain": False},
            {"groups"},
            {"masks", "verification", "pointing", "background"},
        ),
        ({"compare": True}, {"masks", "verification", "pointing"}, set()),
    ],
)
def test_sections_are_there_where_there_is_something_to_say(
    options: dict[str, Any], there: set[str], missing: set[str]
) -> None:
    page = Read(render(make_content(4, **options)))
    sections = {attributes.get("id") for tag, attributes in page.elements if tag == "section"}
    links = {(a.get("href") or "")[1:] for tag, a in page.elements if tag == "a"}
    always = {"numbers", "groups", "reading", "gallery"}
    assert there | always <= sections and not missing & sections
    assert links == sections


def test_a_page_without_images_can_be_made() -> None:
    assert "0 measured, 0 shown" in Read(render(make_content(0))).text


def test_jinja_is_asked_for_by_the_name_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'aimwrap\[report\]'"):
        render(make_content(1))


# ---- Regrouping -----------------------------------------------------------------------------------------------------


def test_scores_stand_side_by_side_and_carry_the_chance_level() -> None:
    content = make_content(6, compare=True)
    entries = {entry["key"]: entry for entry in by_score(content)}
    assert "chance" not in entries
    chances = [score["value"] for model in content["models"] for score in model["scores"] if score["key"] == "chance"]
    assert [row["chance"] for row in entries["energy_pointing"]["models"]] == chances
    assert [row["model"]["name"] for row in entries["average"]["models"]] == [m["name"] for m in content["models"]]
    assert entries["average"]["difference"] in content["differences"] and entries["mask_recall"]["difference"] is None


def test_what_a_score_means_is_read_from_a_model_that_has_it() -> None:
    content = make_content(6, compare=True)
    first, second = ({score["key"]: score for score in model["scores"]} for model in content["models"][:2])
    first["area"] |= {"value": None, "low": None, "high": None, "n": 0, "explained": "A plain model has no masks."}
    (area,) = [entry for entry in by_score(content) if entry["key"] == "area"]
    assert (area["explained"], area["n"]) == (second["area"]["explained"], 6)


def test_what_most_differences_share_is_said_once() -> None:
    content = make_content(6, compare=True)
    content["differences"][1]["explained"] = "Drawn again within each group."
    text = Read(render(content)).text
    assert text.count(content["differences"][0]["explained"]) == text.count("Drawn again within each group.") == 1


def test_every_models_worst_group_is_marked_and_groups_without_images_are_not() -> None:
    content = make_content(6)
    for model in content["models"]:
        accuracies = [None, 0.5, 0.5, 0.9, 1.0, 0.7]
        for group, accuracy in zip(model["groups"], accuracies, strict=True):
            group["accuracy"] = accuracy
    marked = [[cell["worst"] for cell in row["models"]] for row in by_group(content)]
    assert marked == [[worst, worst] for worst in (False, True, True, False, False, False)]


def test_pairs_start_with_the_model_against_plain() -> None:
    content = make_content(2, compare=True)
    roles = [[content["models"][index]["role"] for index in pair] for pair in pairs(content)]
    assert roles == [["plain", "model"], ["other", "model"], ["plain", "other"]]
    unknown = copy.deepcopy(content)
    unknown["data"]["objects_known"] = False
    assert pairs(unknown) == [] and pairs(make_content(2, plain=False, alone=AIM)) == []
