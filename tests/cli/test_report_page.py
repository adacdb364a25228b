"""The report in a real browser, Debian's Chromium: no errors, sorting, light and dark."""

import json
import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import result_files as files
from cli_command import run_main
from PIL import Image
from pypdf import PageObject, PdfReader, mult
from test_report import ALL, hostile

Browse = Callable[..., str]

# Runs after the page's own script, and leaves what it found in the page for --dump-dom.
PROBE = """
<script>
const columns = (table, cell) => [...table.tBodies[0].rows].map((row) => row.cells[cell].textContent);
const tables = [...document.querySelectorAll("table")];
const table = tables.find((one) => one.caption.textContent.startsWith("Table 4"));
const [network, , , , , pixel1] = table.querySelectorAll("th button");
const found = { before: columns(table, 0), hacked: typeof hacked };
pixel1.click();
found.ascending = columns(table, 5);
found.aria = pixel1.closest("th").getAttribute("aria-sort");
pixel1.click();
found.descending = columns(table, 5);
network.click();
found.names = columns(table, 0);
found.arias = [...table.querySelectorAll("th")].map((th) => th.getAttribute("aria-sort"));
found.tags = document.querySelectorAll("body button").length === document.querySelectorAll("th").length;
found.wide = document.documentElement.scrollWidth > window.innerWidth;
const result = document.createElement("pre");
result.id = "probe";
result.textContent = JSON.stringify(found);
document.body.append(result);
</script>
"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Browse:
    """Run Chromium on a page; returns its output and what the page wrote to the console."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian: apt install chromium)")
    profile = tmp_path_factory.mktemp("chromium")

    def run(page: Path, *options: str) -> str:
        command = [
            chromium,
            "--headless",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--enable-logging=stderr",
        ]
        # Chromium's sandbox does not work as root.
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        command += [f"--user-data-dir={profile}", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        assert console == [], console
        return done.stdout

    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report page")
    given = [files.write(folder / f"{name}.json", value) for name, value in ALL.items()]
    assert run_main("report", *given, "--out", folder / "r.html") == 0
    return folder / "r.html"


def probe(browse: Browse, page: Path, *options: str) -> dict[str, object]:
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    found = re.search(r'<pre id="probe">(.*?)</pre>', browse(probed, "--dump-dom", *options), re.DOTALL)
    assert found is not None
    value: dict[str, object] = json.loads(unescape(found[1]))
    return value


def test_tables_sort(browse: Browse, page: Path) -> None:
    found = probe(browse, page)
    paper = ["V3-Large 1.0", "V2 1.0", "V3-Small", "V2 0.35"]
    assert found["before"] == [*paper, "int8.tflite", "runs/small", "RUN"]
    # Table 4 has 57, 62, 21 and 20.6 ms; the prediction sorts by its estimate, unknown ones stay last.
    ascending = ["20.6", "21.0", "21.4 [18.2, 25.1]", "57.0", "62.0"]
    assert found["ascending"] == [*ascending, "–", "–"]
    assert found["descending"] == [*reversed(ascending), "–", "–"]
    assert found["aria"] == "ascending"
    assert found["names"] == [
        "int8.tflite",
        "RUN",
        "runs/small",
        "V2 0.35",
        "V2 1.0",
        "V3-Large 1.0",
        "V3-Small",
    ]
    assert found["arias"] == ["ascending", *[None] * 7]
    assert found["tags"] is True


def test_an_error_would_be_noticed(browse: Browse, page: Path) -> None:
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text().replace("</body>", "<script>missing()</script></body>"))
    with pytest.raises(AssertionError, match="missing is not defined"):
        browse(broken, "--dump-dom")


def test_text_from_files_does_nothing(browse: Browse, page: Path, tmp_path: Path) -> None:
    given = [files.write(tmp_path / f"{name}.json", hostile(value)) for name, value in ALL.items()]
    assert run_main("report", *given, "--out", tmp_path / "r.html") == 0
    assert probe(browse, tmp_path / "r.html")["hacked"] == "undefined"


def test_narrow_windows_scroll_inside_the_page_only(browse: Browse, page: Path) -> None:
    assert probe(browse, page, "--window-size=500,900")["wide"] is False


@pytest.mark.parametrize(
    ("mode", "background"), [((), (255, 255, 255)), (("--force-dark-mode",), (20, 24, 31))]
)
def test_light_and_dark(
    browse: Browse, page: Path, tmp_path: Path, mode: tuple[str, ...], background: tuple[int, int, int]
) -> None:
    browse(page, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1000,1400", *mode)
    with Image.open(tmp_path / "page.png") as opened:
        picture = opened.convert("RGB")
    assert picture.getpixel((0, 0)) == background
    colours = picture.getcolors(1 << 24)
    assert colours is not None
    # Mostly background, but text, badges and figures on it.
    assert max(colours)[1] == background and len(colours) > 200


def test_printed_whole_and_in_full_size(browse: Browse, tmp_path: Path) -> None:
    # On a screen a table this long scrolls.
    lint = files.lint()
    findings = lint["models"][0]["findings"]
    findings += [dict(findings[0], what=f"finding {number:03}") for number in range(100)]
    given = [files.write(tmp_path / f"{name}.json", value) for name, value in (ALL | {"lint": lint}).items()]
    assert run_main("report", *given, "--out", tmp_path / "r.html") == 0
    browse(tmp_path / "r.html", "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'r.pdf'}")
    pages = PdfReader(tmp_path / "r.pdf").pages
    text = unicodedata.normalize("NFKC", "\n".join(page.extract_text() for page in pages))
    assert [number for number in range(100) if f"finding {number:03}" not in text] == []
    # What is folded on a screen is not on paper, and nobody clicks there.
    assert "level: 2" in text and "Click" not in text
    # Chromium shrinks pages until the widest table fits; h1 has 1.75 rem, 21 points.
    assert max(size for printed in pages for size in font_sizes(printed)) == pytest.approx(21)


def font_sizes(printed: PageObject) -> list[float]:
    """Of all texts of a page, in points."""
    sizes = []

    def visit(text: str, user: list[float], matrix: list[float], _font: object, size: float) -> None:
        if text.strip():
            sizes.append(size * mult(matrix, user)[0])

    printed.extract_text(visitor_text=visit)
    return sizes
