"""The demo page in a real browser: it says what Python says, for pictures of any size, and of files that are none."""

import functools
import json
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from conftest import SAMPLE, write_dataset
from datasets import load_dataset
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from training_runs import snapshot

from benchmarks.write_readme import PRETRAINED
from demo import build as build_script
from slimresnet.formats.format import ExportError
from slimresnet.formats.onnx_float32 import open_onnxruntime
from slimresnet.formats.onnx_int8 import QUANTIZED_ONNX_FILE
from slimresnet.hub.files import collect_page
from slimresnet.run_folder.changes import change, recorded
from slimresnet.run_folder.names import OWN_NAME

needs_a_browser = pytest.mark.skipif(
    not all(map(shutil.which, ("npm", "chromium", "chromedriver"))),
    reason="the page needs npm, and its tests chromium and chromedriver (apt-get install chromium chromium-driver)",
)


def build(folder, dataset, *flags):
    build_script.run(
        build_script.parse([str(PRETRAINED), f"--output_dir={folder}", f"--dataset_name={dataset}", *flags])
    )
    return folder


@pytest.fixture(scope="module")
def few_images(tmp_path_factory):
    """Of the sample, 10 images of each class to take the ranges of int8 from, and 2 to show."""
    folder = tmp_path_factory.mktemp("few")
    for split, number in (("train", 10), ("test", 2)):
        rows = load_dataset(str(SAMPLE), split=split)
        labels = np.array(rows["label"])
        chosen = np.concatenate([np.flatnonzero(labels == label)[:number] for label in range(10)])
        write_dataset(folder, split, rows[chosen]["img"], labels[chosen].tolist(), rows.features["label"].names)
    return folder


@pytest.fixture(scope="module")
def page(few_images, tmp_path_factory):
    return build(tmp_path_factory.mktemp("demo") / "page", few_images)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """The page in a window of a phone's width, loaded."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(page)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=390,844",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(f"http://127.0.0.1:{server.server_port}/")
        wait_for(driver, lambda: status(driver) == "Ready.")
        yield driver
    finally:
        driver.quit()
        server.shutdown()
        server.server_close()


def wait_for(driver, condition):
    WebDriverWait(driver, timeout=120, poll_frequency=0.05).until(lambda _: condition())


def status(driver):
    return driver.find_element(By.ID, "status").text


def answer_to(driver, act):
    """Probabilities by name of the class, after `act` has made the page show others."""
    driver.execute_script("document.getElementById('bars').replaceChildren()")
    act()
    wait_for(driver, lambda: driver.find_elements(By.CSS_SELECTOR, "#bars li"))
    rows = driver.execute_script(
        "return [...document.querySelectorAll('#bars li')]"
        ".map(row => [row.firstChild.textContent, Number(row.dataset.probability)])"
    )
    assert [share for _, share in rows] == sorted((share for _, share in rows), reverse=True)
    return dict(rows)


def choose(driver, file):
    return answer_to(driver, lambda: driver.find_element(By.ID, "file").send_keys(str(file)))


def seen(driver):
    """The 32×32 pixels that the page shows, uint8 `[32, 32, 3]`."""
    values = driver.execute_script(
        "return [...document.getElementById('seen').getContext('2d').getImageData(0, 0, 32, 32).data]"
    )
    return np.array(values, dtype=np.uint8).reshape(32, 32, 4)[..., :3]


def expected(page, pixels, flip=False):
    """What Python says of uint8 `[32, 32, 3]`."""
    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].contiguous()
    network = open_onnxruntime(page / "model.onnx")
    logits = (network(planes) + network(planes.flip(3))) / 2 if flip else network(planes)
    names = json.loads((page / "about.json").read_text())["labels"]
    return dict(zip(names, logits[0].softmax(dim=0).tolist(), strict=True))


def assert_close(answer, reference):
    assert answer == pytest.approx(reference, abs=0.02)
    assert max(answer, key=answer.get) == max(reference, key=reference.get)


@pytest.mark.browser
@pytest.mark.slow
@needs_a_browser
class TestPage:
    def test_test_images_get_pythons_probabilities_without_and_with_the_mirror_image(self, browser, page):
        about = json.loads((page / "about.json").read_text())
        assert len(about["samples"]) == 10
        buttons = browser.find_elements(By.CSS_SELECTOR, "#samples button")
        flip = browser.find_element(By.ID, "flip")
        for button, sample in zip(buttons, about["samples"], strict=True):
            pixels = np.asarray(Image.open(page / sample["file"]))
            assert_close(answer_to(browser, button.click), expected(page, pixels))
            assert np.array_equal(seen(browser), pixels)
            assert_close(answer_to(browser, flip.click), expected(page, pixels, flip=True))
            assert status(browser) == f"Test image: {sample['label']}"
            assert browser.find_element(By.ID, "time").text.endswith(" ms")
            answer_to(browser, flip.click)

    @pytest.mark.parametrize("width, height", [(100, 60), (20, 48), (333, 32)])
    def test_pictures_of_other_sizes_are_resized_as_in_python(self, browser, page, tmp_path, width, height):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "noise.png")
        answer = choose(browser, tmp_path / "noise.png")
        resized = np.asarray(Image.fromarray(noise).resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(seen(browser).astype(int) - resized).max() <= 1
        assert_close(answer, expected(page, seen(browser)))

    def test_a_file_that_is_no_picture_is_said_to_be_none_and_the_last_answer_stays(self, browser, page):
        button = browser.find_element(By.CSS_SELECTOR, "#samples button")
        before = answer_to(browser, button.click)
        browser.execute_script(
            "const data = new DataTransfer();"
            "data.items.add(new File(['words'], 'notes.txt', { type: 'text/plain' }));"
            "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true }));"
        )
        wait_for(browser, lambda: status(browser).startswith("notes.txt is no picture"))
        assert browser.find_element(By.ID, "status").get_attribute("class") == "error"
        assert answer_to(browser, browser.find_element(By.ID, "flip").click) != before
        answer_to(browser, browser.find_element(By.ID, "flip").click)
        assert answer_to(browser, button.click) == before
        assert browser.find_element(By.ID, "status").get_attribute("class") == ""

    def test_a_dropped_picture_is_answered(self, browser, page):
        answer = answer_to(
            browser,
            lambda: browser.execute_async_script(
                "const done = arguments[0];"
                "fetch('samples/5.png').then((response) => response.blob()).then((blob) => {"
                "  const data = new DataTransfer();"
                "  data.items.add(new File([blob], 'dropped.png', { type: 'image/png' }));"
                "  document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true }));"
                "  done();"
                "})"
            ),
        )
        assert status(browser) == "dropped.png"
        assert_close(answer, expected(page, np.asarray(Image.open(page / "samples/5.png"))))

    def test_it_fits_a_phone_and_nothing_comes_from_elsewhere(self, browser):
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        origin = browser.execute_script("return location.origin")
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert loaded and all(name.startswith((f"{origin}/", f"blob:{origin}/")) for name in loaded)
        # What the page's security policy stops, and every failed request, is logged as severe.
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []

    def test_names_are_text(self, browser, page):
        """Of classes, test images and the network: no element comes of them, and no program."""
        content = (page / "about.json").read_text()
        about, name = json.loads(content), "<img src=x onerror='window.ran = 1'><b>{}</b>"
        about |= {"name": name, "labels": [name.replace("{}", str(label)) for label in range(10)]}
        about["samples"] = [sample | {"label": name} for sample in about["samples"]]
        try:
            (page / "about.json").write_text(json.dumps(about))
            browser.refresh()
            wait_for(browser, lambda: status(browser) == "Ready.")
            answer = answer_to(browser, browser.find_element(By.CSS_SELECTOR, "#samples button").click)
            assert answer.keys() == set(about["labels"]) and status(browser) == f"Test image: {name}"
            assert browser.find_element(By.TAG_NAME, "h1").text == name
            assert not browser.find_elements(By.CSS_SELECTOR, "b, [src=x], #bars img, h1 *, #status *")
            assert browser.execute_script("return window.ran") is None
        finally:
            (page / "about.json").write_text(content)
            browser.refresh()
            wait_for(browser, lambda: status(browser) == "Ready.")

    def test_a_page_takes_the_place_of_a_page_and_of_nothing_else(self, page, few_images, tmp_path, monkeypatch):
        def export(model, *, output_dir, **_):  # it has been done once for the page
            (output_dir / QUANTIZED_ONNX_FILE).parent.mkdir(parents=True)
            shutil.copyfile(page / "model.onnx", output_dir / QUANTIZED_ONNX_FILE)

        monkeypatch.setattr(build_script, "export", export)
        with pytest.raises(ExportError, match=r"is there already.*--overwrite_output_dir"):
            build(page, few_images)
        folder = tmp_path / "letters"
        folder.mkdir()
        (folder / "letter.txt").write_text("dear")
        with pytest.raises(ExportError, match=r"is there already"):
            build(folder, few_images, "--overwrite_output_dir")
        assert list(snapshot(folder)) == [folder / "letter.txt"]
        copy = shutil.copytree(page, tmp_path / "copy")
        with change(copy) as made:  # a file of the page that was
            (made.files / "stale.js").write_text("")
        (copy / "letter.txt").write_text("dear")
        build(copy, few_images, "--overwrite_output_dir")
        assert collect_page(copy).keys() == collect_page(page).keys() == recorded(copy).keys()
        assert set(os.listdir(copy)) - set(os.listdir(page)) == {"letter.txt"}


def test_without_npm_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match=r"npm brings: install Node\.js"):
        build(tmp_path / "page", SAMPLE)
    assert os.listdir(tmp_path / "page") == [OWN_NAME]
