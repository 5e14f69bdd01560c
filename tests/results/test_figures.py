import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from espnet_spike.inference.ctc import Word
from espnet_spike.results.recording import Recording


def test_crowded_words_do_not_stand_on_each_other():
    from espnet_spike.results.figures import spike_raster

    words = [Word("NINETEEN", 0.1 * i, 0.1 * i + 0.05) for i in range(20)]
    svg = spike_raster(Recording("utt", 2.0, np.zeros((200, 80)), words=words))
    assert svg.count("NINETEEN") == 20


def test_no_two_of_sixteen_curves_look_alike():
    from espnet_spike.results.figures import curves

    names = [f"_asr_{letter}" for letter in "abcdefghijklmnop"]
    series = {name: [1.0, None, float(n)] for n, name in enumerate(names)}
    svg = curves("loss", "nats", [1, 2, 3], series)
    assert all(f">{name[1:]}<" in svg for name in names)
    lines = re.findall(r"<path d=\"[^\"]*\" clip-path=\"[^\"]*\" style=\"(fill: none[^\"]*)\"", svg)
    looks = [look for look in lines if "stroke-width: 1.5" in look]
    assert len(looks) == 16 == len(set(looks))


def test_no_curve_touches_the_end_of_its_axis():
    from espnet_spike.results.figures import top

    assert top([[1.0, None, 22.4], [float("nan"), 3.0]]) == pytest.approx(1.08 * 22.4)
    assert top([[None], []]) == top([[0.0]]) == 1.0


def test_a_figure_tells_how_tall_it_is_for_print(spiking):
    """So that the style sheet can keep each within a page, however many layers it shows."""
    svgs = re.findall(r"<svg [^>]*>", spiking)
    assert all(re.search(r"max-width: \d+px; --tall: \d+px", svg) for svg in svgs)
    assert "max-height: min(22cm, calc(.6 * var(--tall)))" in spiking


PROBE = """<script>addEventListener("load", () => {
const found = [];
const shown = [...document.querySelectorAll("svg")].filter(svg => svg.checkVisibility());
for (const svg of shown) {
  const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
  const boxes = texts.map(t => t.getBoundingClientRect());
  let overlaps = [];
  boxes.forEach((a, i) => boxes.forEach((b, j) => { if (i < j &&
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
    overlaps.push(texts[i].textContent + " / " + texts[j].textContent); }));
  const outside = texts.filter((t, i) => boxes[i].left < box.left - 2
    || boxes[i].right > box.right + 2).map(t => t.textContent);
  const images = [...svg.querySelectorAll("image")].filter(image => {
    const copy = document.querySelector(`img[src="${image.getAttribute("href")}"]`);
    return copy.naturalWidth && image.getBoundingClientRect().width; }).length;
  const shapes = [...svg.querySelectorAll("path,use,rect")].filter(
    s => { const r = s.getBoundingClientRect(); return r.width + r.height > 0; }).length;
  found.push({label: svg.getAttribute("aria-label"), width: box.width, height: box.height,
    shapes, images, wanted: svg.querySelectorAll("image").length, texts: texts.length,
    overlaps, outside}); }
const scrolled = [...document.querySelectorAll(".scroll")].filter(
  e => e.scrollWidth > e.clientWidth).map(e => getComputedStyle(e).backgroundImage);
const whole = document.documentElement, sideways = whole.scrollWidth - whole.clientWidth;
parent.postMessage(JSON.stringify({figures: found, scrolled, sideways}), "*"); });</script>"""
# a window of Chromium has at least 500 pixels, a frame in it has any width
FRAME = """<script>addEventListener("message", event => {
const result = document.createElement("pre"); result.id = "probe";
result.textContent = event.data; document.body.append(result); });</script>
<iframe src="probed.html" style="width: {}px; height: 900px; border: 0"></iframe>"""


def chromium(tmp_path, *options):
    """Run the browser headless; return what it writes, or skip where there is none."""
    found = [*filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))]
    if not found:
        pytest.skip("no Chromium: apt-get install chromium")
    command = [found[0], "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("width", [1100, 500, 390])
def test_a_browser_draws_every_figure(spiking, tmp_path, width):
    (tmp_path / "page.html").write_text(spiking)
    size = "--window-size=1200,900"
    _, log = chromium(tmp_path, size, "--dump-dom", f"file://{tmp_path}/page.html")
    assert "CONSOLE" not in log, log
    # measured by a script, which the page's own policy would not let run
    copies = re.findall(r'<image [^>]*href="([^"]*)"', spiking)
    probe = "".join(f'<img hidden src="{source}">' for source in copies) + PROBE
    probed = re.sub(r"<meta http-equiv=[^>]*>", "", spiking).replace("</body>", probe + "</body>")
    (tmp_path / "probed.html").write_text(probed)
    (tmp_path / "frame.html").write_text(FRAME.replace("{}", str(width)))
    wait = "--virtual-time-budget=20000"
    dom, _ = chromium(tmp_path, size, wait, "--dump-dom", f"file://{tmp_path}/frame.html")
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)[1])
    assert found["sideways"] == 0  # the page itself does not scroll sideways
    # one of them is there for narrow and for broad screens
    assert len(found["figures"]) == spiking.count("<svg ") - 1 >= 7
    labels = [figure["label"] for figure in found["figures"]]
    assert any(label.endswith(", narrow") for label in labels) == (width < 640)
    # that a table goes on to the side is seen where scroll bars are not shown
    assert all(shadows.count("gradient") == 4 for shadows in found["scrolled"])
    assert bool(found["scrolled"]) == (width < 1100)
    for figure in found["figures"]:
        assert figure["width"] > 200 and figure["height"] > 50, figure
        assert figure["shapes"] > 3 and figure["texts"] > 3, figure
        assert figure["images"] == figure["wanted"], figure
        assert not figure["outside"] and not figure["overlaps"], figure
