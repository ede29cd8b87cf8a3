"""A headless Chromium for the explorer's page, driven as a reader would; every other host is unreachable."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
STILL = {"color-scheme": "light", "reduced-motion": "reduce"}
WIDE, PHONE = (1280, 900), (390, 844)
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
           "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "--lang=en")  # fmt: skip

# Text on its background: contrast of every element with text of its own that is on the page, the lowest first.
CONTRAST = r"""
const numbers = c => { const n = c.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n };
const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
const light = c => { const l = c.slice(0, 3).map(v => v / 255)
  .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * l[0] + .7152 * l[1] + .0722 * l[2] };
const ground = e => { const layers = [];
  for (; e; e = e.parentElement) layers.push(numbers(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]) };
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const box = e.getBoundingClientRect();
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || e.matches('select, input');
  if (!own || !box.width || !box.height || e.closest('.unseen, noscript, script, [hidden]')) continue;
  const chart = e.closest('svg'), style = getComputedStyle(e), under = ground(chart ? chart.parentElement : e);
  if (e.tagName === 'title') continue;
  const text = over(numbers(chart ? style.fill : style.color), under);
  const [a, b] = [light(text), light(under)].sort((x, y) => y - x);
  found.push([Math.round(100 * (a + .05) / (b + .05)) / 100,
    e.tagName + '.' + (e.getAttribute('class') ?? ''), e.textContent.slice(0, 30)]);
}
const box = document.getElementById('search');
if (box.getClientRects().length) {
  const [a, b] = [numbers(getComputedStyle(box, '::placeholder').color), ground(box)].map(light).sort((x, y) => y - x);
  found.push([(a + .05) / (b + .05), 'placeholder', box.placeholder]);
}
return found.sort((x, y) => x[0] - y[0]);
"""
ROWS = "return [...document.querySelectorAll('#rows .row')].map(row => Number(row.dataset.id))"


class Reader:
    """Someone who reads a page in a browser.

    Args:
        folder: Where pages and downloads lie.
    """

    def __init__(self, folder: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in OPTIONS:
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.folder, self.saved = folder, folder / "saved"
        self.saved.mkdir()
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.saved))
        self.size(WIDE)

    def cdp(self, method: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(method, values)

    def js(self, code: str, *values: Any) -> Any:
        return self.driver.execute_script(code, *values)

    def size(self, size: tuple[int, int]) -> None:
        width, height = size
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 500)  # fmt: skip

    def prefer(self, **features: str) -> None:
        named = [{"name": f"prefers-{key}", "value": value} for key, value in (STILL | features).items()]
        self.cdp("Emulation.setEmulatedMedia", features=named)

    def open(self, name: str, address: str = "") -> None:
        """A page anew, and waits until it is ready."""
        self.driver.get("about:blank")
        self.driver.get((self.folder / f"{name}.html").as_uri() + address)
        self.wait("return performance.getEntriesByName('ready').length > 0")

    def wait(self, code: str, seconds: float = 20.0) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.js(code):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never came true: {code}")

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).innerText", selector)

    def texts(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def count(self, selector: str) -> int:
        return self.js("return document.querySelectorAll(arguments[0]).length", selector)

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def type(self, text: str) -> None:
        """Into the search, after what is there is deleted."""
        box = self.one("#search")
        box.clear()
        box.send_keys(text)

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def choose(self, selector: str, value: str) -> None:
        """An option of a select, as a reader who opens it does."""
        from selenium.webdriver.support.ui import Select

        Select(self.one(selector)).select_by_value(value)

    def rows(self) -> list[int]:
        """Ids in the list, after going to its end so that all are there."""
        self.js("""const list = document.getElementById('rows'); for (let n = -1; n !== list.children.length;) {
            n = list.children.length;
            list.lastElementChild?.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', bubbles: true})) }""")
        return self.js(ROWS)

    def address(self) -> str:
        """The part after # once the page has written it."""
        seen = None
        while seen != (seen := self.js("return location.hash")):
            time.sleep(0.2)
        return seen

    def download(self, name: str) -> bytes:
        """A file that is being saved, taken away."""
        end = time.monotonic() + 10
        path = self.saved / name
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.02)
        data = path.read_bytes()
        path.unlink()
        return data

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def interactive(self) -> list[tuple[str, str]]:
        """Role and name of everything that can be worked, as a screen reader gets them."""
        roles = {"button", "link", "combobox", "searchbox", "slider", "option", "listbox", "textbox", "checkbox",
                 "radio", "DisclosureTriangle", "group", "image", "img", "article", "table", "heading"}  # fmt: skip
        nodes = self.cdp("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node.get("ignored") and node.get("role", {}).get("value") in roles]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in shown]

    def close(self) -> None:
        self.driver.quit()
