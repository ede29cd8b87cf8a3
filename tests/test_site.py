"""The built book in a browser that can reach no other host: loads, equations, search, phone width, dark mode."""

import time
from pathlib import Path

import pytest
import yaml
from browser import CHROMIUM, Browser

from l3d_core.publish import toc_pages

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PAGES = toc_pages(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text()))

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(not (HTML / "book" / "index.html").exists(), reason="the book is not built; run l3d book"),
]

RAW_MATHS = r"""[...document.querySelectorAll('.bd-article p, .bd-article li, .bd-article td')]
  .map(e => e.innerText).filter(t => /\$\$|\\\(|\\\[|\\(frac|nabla|mathbb)/.test(t))"""
UNDRAWN = "[...document.querySelectorAll('.bd-article .math')].filter(e => !e.querySelector('mjx-container')).length"
MATHS_ERRORS = "document.querySelectorAll('mjx-merror, [data-mjx-error]').length"
SEARCHES = """[...document.querySelectorAll(
    '.search-button, .search-button-field, .search-button__button, input[type=search]')]
  .filter(e => { const r = e.getBoundingClientRect(), s = getComputedStyle(e);
    return r.width > 0 && r.height > 0 && r.left >= 0 && r.right <= innerWidth && r.top >= 0 &&
      s.visibility != 'hidden' && s.display != 'none' && !e.closest('dialog:not([open])') }).length"""
OVERFLOW = """Math.max(...['html', '.bd-article-container', '.bd-article'].map(name =>
  document.querySelector(name)).map(e => e.scrollWidth - e.clientWidth))"""
FAINT = """(() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const l = numbers(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * l[0] + .7152 * l[1] + .0722 * l[2] };
  const solid = c => { const n = numbers(c); return n.length < 4 || n[3] > .5 };
  const ground = e => { while (e) { const c = getComputedStyle(e).backgroundColor;
    if (solid(c)) return c; e = e.parentElement } return 'rgb(255, 255, 255)' };
  return [...document.querySelectorAll(['td', 'th', 'p', '.verdict', '.l3d-card h4', '.l3d-card li',
    '.l3d-card figcaption', '.l3d-card .o'].map(name => `.bd-article ${name}`).join())]
    .filter(e => e.innerText.trim()).map(e => { const a = light(getComputedStyle(e).color), b = light(ground(e));
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.innerText.slice(0, 40)] })
    .filter(([ratio]) => ratio < 4.5) })()"""
FIGURE_GROUNDS = """[...document.querySelectorAll('.bd-article .cell_output img')]
  .map(e => getComputedStyle(e).backgroundColor)"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_from_its_own_files_alone(browser, page):
    browser.open(HTML / f"{page}.html")
    assert browser.failures() == []
    assert [address for address in browser.requests() if not address.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_equations_are_drawn(browser, page):
    browser.open(HTML / f"{page}.html")
    assert browser.run(RAW_MATHS) == []
    assert browser.run(UNDRAWN) == 0 and browser.run(MATHS_ERRORS) == 0


def test_the_method_page_has_the_papers_eleven_equations(browser):
    browser.open(HTML / "book" / "method.html")
    numbers = browser.run("[...document.querySelectorAll('.eqno')].map(e => e.innerText.match(/\\d+/)[0])")
    assert numbers == [str(n) for n in range(1, 12)]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", PAGES)
def test_one_way_to_search_is_in_sight(browser, page, width):
    browser.open(HTML / f"{page}.html", width=width)
    assert browser.run(SEARCHES) == 1


def test_search_stays_in_sight_where_the_sidebar_is_scrolled(browser):
    browser.open(HTML / "book" / "references.html", height=500)
    scroll = "((bar) => { bar.scrollTop = 1e4; return bar.scrollTop })(document.querySelector('.bd-sidebar-primary'))"
    assert browser.run(scroll) > 100
    assert browser.run(SEARCHES) == 1


@pytest.mark.parametrize("page", PAGES)
def test_a_phone_scrolls_down_only(browser, page):
    browser.open(HTML / f"{page}.html", width=390, height=844)
    assert browser.run("innerWidth") == 390 and browser.run(OVERFLOW) <= 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_text_stands_out(browser, page, dark):
    browser.open(HTML / f"{page}.html", dark=dark)
    assert browser.run("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert browser.run(FAINT) == []


@pytest.mark.parametrize("page", [page for page in PAGES if "/results/" in page])
def test_figures_are_on_white_in_dark_mode(browser, page):
    browser.open(HTML / f"{page}.html", dark=True)
    grounds = browser.run(FIGURE_GROUNDS)
    assert grounds and set(grounds) == {"rgb(255, 255, 255)"}


def test_the_first_address_leads_to_the_book(browser):
    browser.open(HTML / "index.html")
    deadline = time.monotonic() + 10
    while not browser.run("location.pathname").endswith("/book/index.html"):
        assert time.monotonic() < deadline, "the page at the top does not lead on"


def test_a_question_cut_off_by_a_new_page_is_asked_again_there(browser):
    browser.open(HTML / "search.html")
    lead_on = "(location.href = 'book/index.html', new Promise(() => {}))"
    assert browser.run(f"location.pathname.endsWith('/book/index.html') ? 'there' : {lead_on}") == "there"


def test_search_finds_a_word(browser):
    browser.open(HTML / "search.html")
    browser.run("Search.performSearch('impact')")
    deadline = time.monotonic() + 10
    while browser.run("document.querySelectorAll('#search-results li').length") < 3:
        assert time.monotonic() < deadline, "hardly a result for a word of the book"


def test_the_checks_above_notice_what_they_are_for(browser):
    browser.open(HTML / "book" / "index.html", width=390, dark=True)
    add = "document.querySelector('.bd-article').insertAdjacentHTML('beforeend', `{}`)"
    browser.run(add.format('<p style="color: #444">faint</p>'))
    assert [text for _, text in browser.run(FAINT)] == ["faint"]
    browser.run(add.format('<p>$$ x $$</p><span class="math">x</span>'))
    assert browser.run(RAW_MATHS) == ["$$ x $$"] and browser.run(UNDRAWN) == 1
    browser.run(add.format('<p style="width: 900px">wide</p><p><input type="search"></p>'))
    assert browser.run(OVERFLOW) > 100
    browser.run("document.querySelector('input[type=search]:last-of-type').scrollIntoView()")
    assert browser.run(SEARCHES) == 2
    browser.run("fetch('https://example.org/a.json').catch(() => 0)")
    assert browser.failures() and "https://example.org/a.json" in browser.requests()
