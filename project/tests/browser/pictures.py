"""Takes the pictures of docs/images: every page, at three widths, in both schemes.

python -m project.tests.browser.pictures

They are of a database of their own with believable data, which is thrown away.
"""

import io
from itertools import product
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from project import seeds
from project.tests.base import empty_tables, shared_app
from project.tests.browser.browsing import SCHEMES, WIDTHS, launch, serve

FOLDER = Path(__file__).parents[3] / "docs" / "images"
SCORES = 200_000
HEIGHT = 900
# Each page, what is there once it is complete, and whether all of it is shown.
PAGES = {
    "home": ("/", "h1", False),
    "dashboard": ("/dashboard?window=week", "#seen:not(:empty)", True),
    "docs": ("/docs", ".opblock", False),
}


def take(page: Page, whole: bool) -> bytes:
    """Return a picture of the page as a small PNG."""
    taken = Image.open(io.BytesIO(page.screenshot(full_page=whole, animations="disabled")))
    small = io.BytesIO()
    # What a cut by the median makes grey, small spots above all, k-means brings nearer again.
    few = taken.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> None:
    """Take all pictures."""
    with shared_app().app_context():
        empty_tables()
        seeds.sow(SCORES)
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for scheme, width in product(SCHEMES, WIDTHS):
            page = browser.new_page(
                base_url=serve(),
                color_scheme=scheme,
                viewport={"width": width, "height": HEIGHT},
            )
            for name, (path, complete, whole) in PAGES.items():
                page.goto(path)
                page.locator(complete).first.wait_for()
                picture = FOLDER / f"{name}-{width}-{scheme}.png"
                picture.write_bytes(take(page, whole))
                print(f"{picture.name}: {picture.stat().st_size // 1024} KiB")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
