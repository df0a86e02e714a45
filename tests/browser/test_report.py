"""The report's page in Chromium: drawn, filtered, read by a screen reader, and alone."""

from __future__ import annotations

import io
import json
import os
import random

import pytest
from axe_playwright_python.sync_playwright import Axe
from docs_blocks import ROOT
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from PIL import Image
from playwright.sync_api import expect
from stored import tracking_to

from dspy_mlflow_callbacks import trace_report
from dspy_mlflow_callbacks.report.gathering import Gathered
from dspy_mlflow_callbacks.report.page import page as page_of
from dspy_mlflow_callbacks.report.plain_spans import PlainSpan

PICTURE = ROOT / "docs" / "images" / "report.png"
PICTURE_SIZE = (1280, 900)
SCHEMES = ["light", "dark"]


@pytest.fixture(scope="module")
def html(cli_traces):
    """Return the page of the shared traces."""
    with tracking_to(cli_traces.uri):
        return trace_report(experiments=[cli_traces.experiment], by="model", ui_url="http://127.0.0.1:9").to_html()


@pytest.fixture
def opened(browser, html, tmp_path):
    """Return what opens the page; at the end it has said nothing to the console and asked for nothing else."""
    file = tmp_path / "report.html"
    file.write_text(html)
    page, said, asked = browser.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))

    def opened(scheme="light", width=1280):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(file.as_uri())
        return page

    yield opened
    page.close()
    assert said == []
    assert set(asked) == {file.as_uri()}


def test_charts_are_drawn(opened):
    """Each chart is a drawing with marks, has a name, and its numbers beside it."""
    page = opened()
    figures = page.locator("figure.chart")
    expect(figures).to_have_count(2)
    for number in range(2):
        figure = figures.nth(number)
        assert figure.locator("svg .mark-rect path").count() > 0
        assert figure.locator("svg").bounding_box()["height"] > 100
        figure.locator("summary").click()
        expect(figure.locator("table")).to_be_visible()


def test_rows_are_filtered(opened):
    """A text and the box for errors leave only the rows that fit, and say how many."""
    page = opened()
    rows = page.locator("table[data-filtered] tbody tr:visible")
    every = rows.count()
    page.get_by_label("Filter rows").fill("Recovers.second")
    assert 0 < rows.count() < every
    expect(page.locator("#shown")).to_have_text(f"{rows.count()} of {every} rows")
    page.get_by_label("Filter rows").fill("")
    page.get_by_label("only with errors").check()
    assert 0 < rows.count() < every


def test_the_flame_graph_can_be_read(opened):
    """A box says what it stands for when it is chosen, and the width can be cost."""
    page = opened()
    page.get_by_role("button", name="Program.generate.predict").first.click()
    expect(page.locator("#said")).to_contain_text("Program.generate.predict: ")
    page.get_by_label("cost", exact=True).check()
    expect(page.locator("[data-flame=cost]")).to_be_visible()
    expect(page.locator("[data-flame=milliseconds]")).to_be_hidden()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [375, 1280])
def test_it_is_accessible(opened, scheme, width):
    """axe finds nothing serious, in light and dark, on a phone and on a desk; nothing is wider than a phone."""
    page = opened(scheme, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []


def calls():
    """Yield two weeks of calls as a store has them."""
    chance = random.Random(1)
    for number in range(2_000):
        has_failed = chance.random() < 0.04
        took = chance.lognormvariate(7, 0.6)
        began_ms = int(1_790_000_000_000 + number / 2_000 * 14 * 86_400_000)
        state = TraceState.ERROR if has_failed else TraceState.OK
        place, tags = TraceLocation.from_experiment_id("1"), {"mlflow.traceName": "Program"}
        info = TraceInfo(f"tr-{number:032x}", place, began_ms, state, execution_duration=int(took), tags=tags)
        tokens = {"input_tokens": chance.randint(300, 900), "output_tokens": chance.randint(50, 250)}
        tokens["total_tokens"] = sum(tokens.values())
        cost = {"total_cost": tokens["input_tokens"] * 1e-6 + tokens["output_tokens"] * 4e-6}
        lm = {"mlflow.llm.model": "openai/gpt-4o-mini", "mlflow.chat.tokenUsage": tokens, "mlflow.llm.cost": cost}
        yield (
            info,
            [
                span_of("Program", None, took, "CHAIN", has_failed=has_failed),
                span_of("lm", "Program", took * 0.9, "CHAT_MODEL", **lm),
            ],
        )


def span_of(name, above, took, span_type, *, has_failed=False, **attributes):
    return PlainSpan(
        {
            "name": name,
            "span_id": name,
            "parent_span_id": above,
            "start_time_unix_nano": 0 if above is None else 1,
            "end_time_unix_nano": int(took * 1e6),
            "status": {"code": "STATUS_CODE_ERROR" if has_failed else "STATUS_CODE_OK"},
            "events": [],
            "attributes": {"mlflow.spanType": json.dumps(span_type)}
            | {key: json.dumps(value) for key, value in attributes.items()},
        }
    )


def test_the_picture_of_the_page(opened, tmp_path):
    """docs/report.md shows the top of a page of two weeks; REFRESH_IMAGES=1 takes it again."""
    gathered = Gathered()
    for info, spans in calls():
        gathered.add(info, spans)
    about = {"store": "sqlite:///mlflow.db", "experiments": "questions", "since": "2w"}
    (tmp_path / "report.html").write_text(page_of(gathered, about, None, None))
    page = opened()
    expect(page.locator("figure.chart")).to_have_count(4)
    taken = page.screenshot(animations="disabled")
    if os.environ.get("REFRESH_IMAGES"):
        PICTURE.write_bytes(taken)
    assert [Image.open(io.BytesIO(each)).size for each in (taken, PICTURE.read_bytes())] == [PICTURE_SIZE] * 2
