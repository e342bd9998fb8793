"""The page at / in a real browser, before a real pair."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect
from playwright.async_api import Page as BrowserPage

from tests.integration.gateway.door import MODEL, Gateway

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    # One browser for all.
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(_CHROMIUM is None, reason="there is no Chromium on this machine"),
]

QUESTION = "Ann has 7 stones and buys 6 more. How many has she now?"
PATIENCE_MS = 60_000
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


class Page:
    """What a user does on the page."""

    def __init__(self, page: BrowserPage) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("requestfailed", lambda request: self.problems.append(f"{request.url}: {request.failure}"))
        self.hosts: set[str] = set()
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def expect_problem(self, part: str) -> None:
        assert [problem for problem in self.problems if part not in problem] == []
        self.problems.clear()

    async def ask(self, question: str) -> None:
        await self.page.fill("#question", question)
        await self.page.press("#question", "Enter")

    async def until_answered(self, number: int = 1) -> None:
        await expect(self.page.locator(".answer:not(.running)")).to_have_count(number, timeout=PATIENCE_MS)
        await expect(self.page.locator("#send")).to_be_enabled()

    async def figures(self, kind: str) -> str:
        return await self.page.locator(f'[data-kind="{kind}"] .figures').first.inner_text()

    async def num_tokens(self, author: str, kind: str = "routed") -> int:
        return await self.page.locator(f'[data-kind="{kind}"] .token.{author}').count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, door: Gateway) -> AsyncIterator[Page]:
    context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    shown = Page(await context.new_page())
    await shown.page.goto(door.url)
    await expect(shown.page.locator("#model")).to_have_text(MODEL)
    yield shown
    await context.close()
    assert shown.problems == []
    assert shown.hosts == {door.target}


async def test_answer_shows_who_wrote_each_token_and_with_which_probability(page: Page) -> None:
    await page.ask(QUESTION)
    await page.until_answered()
    num_slm, num_llm = await page.num_tokens("slm"), await page.num_tokens("llm")
    assert min(num_slm, num_llm) > 0
    figures = await page.figures("routed")
    assert figures.startswith(f"{num_slm + num_llm} tokens · {100 * num_llm / (num_slm + num_llm):.1f}% large model")
    assert "parameters a token" in figures
    await page.page.locator(".answer .token.llm").first.hover()
    await expect(page.page.locator("#tip")).to_have_text(re.compile(r"large model, \d+\.\d% to go astray"))


async def test_small_and_large_model_alone_are_shown_beside_the_routed_answer(page: Page) -> None:
    for number, kind in enumerate(("slm", "llm"), start=1):
        await page.page.select_option("#compare", kind)
        await page.ask(QUESTION)
        await page.until_answered(2 * number)
    assert (await page.num_tokens("llm", "slm"), await page.num_tokens("slm", "llm")) == (0, 0)
    assert await page.num_tokens("slm", "slm") > 0
    assert await page.num_tokens("llm", "llm") > 0


async def test_budget_moves_the_share_of_the_large_model(page: Page) -> None:
    await page.page.uncheck("#calibrated")
    shares = []
    for budget in ("0", "100"):
        await page.page.locator("#budget").fill(budget)
        await page.ask(QUESTION)
        await page.until_answered()
        shares.append(await page.figures("routed"))
        await page.page.click("#clear")
    assert " 0.0% large model" in shares[0]
    assert "100.0% large model" in shares[1]


async def test_stop_ends_the_stream_and_retry_asks_again(page: Page) -> None:
    # At such a temperature, with this seed, the answer is long.
    await page.page.click("summary")
    await page.page.fill("#temperature", "2")
    await page.page.fill("#seed", "8")
    await page.ask(QUESTION)
    await expect(page.page.locator(".answer .token").nth(3)).to_be_attached(timeout=PATIENCE_MS)
    await page.page.press("#question", "Escape")
    await page.until_answered()
    await expect(page.page.locator(".remark")).to_have_text(re.compile("stopped|cut"))
    await page.page.fill("#temperature", "0")
    await page.page.click("#retry")
    await page.until_answered()
    await expect(page.page.locator(".question")).to_have_text([QUESTION])
    assert await page.page.locator(".remark").count() == 0
    page.expect_problem("ERR_ABORTED")


async def test_second_question_carries_the_first_and_its_answer(page: Page) -> None:
    await page.ask(QUESTION)
    await page.until_answered()
    async with page.page.expect_request("**/v1/chat/completions") as sent:
        await page.ask("And now?")
    messages = json.loads((await sent.value).post_data or "")["messages"]
    await page.until_answered(2)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert (messages[0]["content"], messages[2]["content"]) == (QUESTION, "And now?")
    assert messages[1]["content"] in await page.page.locator(".answer .text").first.inner_text()


async def test_error_of_the_server_is_shown_in_its_words(page: Page) -> None:
    await page.ask("word " * 5000)
    await page.until_answered()
    await expect(page.page.locator(".error")).to_contain_text("context")
    page.expect_problem("400")


async def test_copied_commands_run_and_print_the_answer(page: Page, tmp_path: Path) -> None:
    async def run(*command: str) -> str:
        ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    await page.ask(QUESTION)
    await page.until_answered()
    shown = await page.page.locator(".answer .text").inner_text()
    await page.page.click("#copy-python")
    program = tmp_path / "program.py"
    program.write_text(await page.page.evaluate("() => navigator.clipboard.readText()"))
    written = await run(sys.executable, str(program))
    assert written
    assert written in shown
    await page.page.click("#copy-curl")
    streamed = await run("bash", "-c", await page.page.evaluate("() => navigator.clipboard.readText()"))
    assert streamed.endswith("data: [DONE]")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
async def test_page_fits_screens_and_schemes(
    browser: Browser, door: Gateway, scheme: Literal["light", "dark"], width: int, tmp_path: Path
) -> None:
    page = Page(await browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme))
    await page.page.goto(door.url)
    await page.ask(QUESTION)
    await page.until_answered()
    await page.page.screenshot(path=tmp_path / f"{scheme}-{width}.png")
    overflow = await page.page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    ground = await page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert brightness < 60 if scheme == "dark" else brightness > 200


async def test_page_is_used_by_keyboard_alone(page: Page) -> None:
    await expect(page.page.locator("#question")).to_be_focused()
    await page.page.keyboard.type(QUESTION)
    await page.page.keyboard.press("Enter")
    await page.until_answered()
    focused = []
    for _ in range(6):
        await page.page.keyboard.press("Tab")
        focused.append(await page.page.evaluate("() => document.activeElement.id"))
    assert {"send", "retry", "clear", "copy-curl", "copy-python"} <= set(focused)
