"""The report to print: one A4 page in a browser, whatever the slice and the names are; figures and pictures by hand."""

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from modeling_unet.comparison import compare
from modeling_unet.report import MAX_LESIONS, MAX_PICTURE_SIDE, Profile, draw_report
from modeling_unet.segmentation import Segmentation


A4_PT = 210 / 25.4 * 72, 297 / 25.4 * 72
HOSTILE = "<script>alert(1)</script>\"'><img src=http://example.org/x onerror=alert(2)>&\udc80\n\u202e</title></style>"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def segmentation_of(probability: np.ndarray, **kwargs) -> Segmentation:
    image = np.repeat(noise(*probability.shape)[..., None], 3, axis=2)
    return Segmentation(image, probability.astype(np.float32), **kwargs)


def one_lesion(height: int = 60, width: int = 80, **kwargs) -> Segmentation:
    """A square of 6 × 6 px at 0.75."""
    probability = np.zeros((height, width))
    probability[10:16, 20:26] = 0.75
    return segmentation_of(probability, **kwargs)


def many_lesions(**kwargs) -> Segmentation:
    """20 squares of 16 px and as many specks of 4 px."""
    probability = np.zeros((120, 200))
    for row in range(4):
        for column in range(5):
            probability[row * 30 : row * 30 + 4, column * 40 : column * 40 + 4] = 0.9
            probability[row * 30 + 10 : row * 30 + 12, column * 40 : column * 40 + 2] = 0.9
    return segmentation_of(probability, **kwargs)


def crowded() -> str:
    """All that a report can have, and names that try to break out of it."""
    segmentation = many_lesions(spacing=(0.5, 1.5))
    return draw_report(
        segmentation,
        title=HOSTILE * 100,
        model=HOSTILE * 100,
        revision=HOSTILE * 100,
        comparison=compare(segmentation.mask, np.zeros_like(segmentation.mask), segmentation.spacing),
        style="heatmap",
        warnings=[HOSTILE * 100] * 50,
        volume={name: ["1,234.5 mL", "12,345,678 voxels"] for name in ("Volume", "Lesions", "Slices", "Planes")},
        profile=Profile([*range(5000)], 1234.5, 4000),
    )


def draw(segmentation: Segmentation, **kwargs) -> str:
    return draw_report(segmentation, **{"title": "scan.png", "model": "brain-tumor-unet", "revision": "r1", **kwargs})


def text_of(report: str) -> str:
    """What a reader sees, tags as spaces."""
    body = report.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def pictures_of(report: str) -> list[np.ndarray]:
    found = re.findall(r'href="data:image/png;base64,([^"]*)"', report)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")) for content in found]


# --------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(chromium) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


CASES = {
    "usual": lambda: draw(one_lesion(512, 512, spacing=(0.5, 0.5))),
    "nothing found": lambda: draw(segmentation_of(np.zeros((40, 40)))),
    "crowded": crowded,
    "tall": lambda: draw(one_lesion(1500, 40)),
    "wide": lambda: draw(one_lesion(40, 1500, spacing=(9.0, 0.1))),
    "all tumour": lambda: draw(segmentation_of(np.ones((30, 50)))),
}


@pytest.mark.parametrize("case", CASES)
def test_it_prints_on_exactly_one_a4_page(page, case):
    page.set_content(CASES[case]())
    pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    (box,) = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", pdf)
    assert tuple(map(float, box)) == pytest.approx(A4_PT, abs=1)
    # The page is not cut off: its foot, with the disclaimer, is on the paper.
    page.emulate_media(media="print")
    paper, foot = page.locator("main").bounding_box(), page.locator("footer").bounding_box()
    assert foot["y"] + foot["height"] < paper["y"] + paper["height"]
    assert page.locator(".pictures svg").first.bounding_box()["height"] > 60


def test_it_asks_nobody_and_runs_nothing(page):
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.set_content(crowded())
    assert asked == []
    # Nor is anything of its own kept from it by the policy that it states.
    assert complaints == []


@pytest.mark.parametrize("case", ["usual", "crowded"])
def test_a_phone_needs_no_horizontal_scrolling(page, case):
    page.set_viewport_size({"width": 390, "height": 800})
    page.set_content(CASES[case]())
    assert page.evaluate("document.documentElement.scrollWidth") == 390


# ---------------------------------------------------------------------------------------------------- what stands in it


def test_what_comes_from_outside_is_text_and_nothing_else():
    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.found = set()

        def handle_starttag(self, tag, attributes):
            self.found |= {tag, *(name for name, _ in attributes)}

    tags = Tags()
    report = crowded()
    tags.feed(report)
    assert not tags.found & {"script", "img", "link", "iframe", "object", "src", "onerror", "onload"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    report.encode("utf-8")


def test_figures_by_hand():
    text = text_of(draw(one_lesion(spacing=(0.5, 0.5)), title="scan.png", model="unet", revision="r1"))
    assert "scan.png Tumour found" in text
    assert "Area 9 mm² 36 px 0.75 % of the slice" in text
    assert "Longest diameter 4.2 mm 8.5 px" in text
    assert "Lesions 1 Highest probability 75 %" in text
    assert "1 9 4.2 36 8.5 75 % 22, 12" in text  # the table's only row; the centre is at (22.5, 12.5)
    assert "Model unet Revision r1 Mask probability above 0.5 lesions from 10 px" in text
    assert "80 × 60 px 0.5 × 0.5 mm a pixel" in text
    assert "Not a medical device" in text


def test_without_spacing_nothing_is_in_mm():
    text = text_of(draw(one_lesion(), comparison=compare(one_lesion().mask, one_lesion().mask)))
    assert "mm" not in text
    assert "Area 36 px 0.75 % of the slice" in text


def test_nothing_found():
    report = draw(segmentation_of(np.zeros((40, 40))), revision=None)
    text = text_of(report)
    assert "No tumour found" in text and "Lesions 0" in text
    assert "<table>" not in report and "enlarged" not in text
    assert "Revision not stated" in text


def test_a_comparison_by_hand():
    segmentation = one_lesion(spacing=(0.5, 0.5))
    truth = np.roll(segmentation.mask, 3, axis=1)
    text = text_of(draw(segmentation, comparison=compare(segmentation.mask, truth, segmentation.spacing)))
    assert "Dice 0.500 IoU 0.333 HD95 1.5 mm 3.0 px True area 36 px" in text
    empty = compare(segmentation.mask, np.zeros_like(truth))
    assert "HD95 undefined one of the masks is empty" in text_of(draw(segmentation, comparison=empty))
    assert "Dice" not in text_of(draw(segmentation))


def test_a_long_list_of_lesions_is_cut_and_says_so():
    report = draw(many_lesions())
    assert report.count("<tr><td>") == report.count("</text>") == MAX_LESIONS
    assert f"And {20 - MAX_LESIONS} smaller ones, {16 * (20 - MAX_LESIONS)} px together." in text_of(report)
    assert "Pieces of fewer than 10 px, 80 px together, are no lesions." in text_of(report)
    assert "smaller ones" not in text_of(draw(one_lesion()))


def test_warnings_are_cut_and_it_says_so():
    text = text_of(draw(one_lesion(), warnings=(f"Warning {number}." for number in range(5))))
    assert "Warning 0. Warning 1. And 3 more." in text
    assert "And " not in text_of(draw(one_lesion(), warnings=["Warning 0."]))


@pytest.mark.parametrize("style", ["fill", "contour", "heatmap"])
def test_the_pictures_are_overlay_and_slice(style):
    segmentation = one_lesion()
    overlay, plain = pictures_of(draw(segmentation, color="#34c759", alpha=0.7, style=style))
    np.testing.assert_array_equal(overlay, segmentation.overlay("#34c759", 0.7, style))
    np.testing.assert_array_equal(plain, segmentation.image)


def test_large_pictures_are_made_smaller():
    report = draw(segmentation_of(np.zeros((1500, 3000))))
    assert [picture.shape for picture in pictures_of(report)] == [(MAX_PICTURE_SIDE // 2, MAX_PICTURE_SIDE, 3)] * 2


def test_where_pixels_are_not_square_proportions_are_true():
    report = draw(one_lesion(60, 80, spacing=(1.5, 0.5)))  # 90 mm high and 40 mm wide; half a mm is one unit
    assert 'viewBox="0.00 0.00 80.00 180.00"' in report
    assert 'width="80.00" height="180.00" preserveAspectRatio="none"' in report


@pytest.mark.parametrize(
    ("width", "spacing", "length", "drawn"),
    [(512, 0.5, "50 mm", 100), (512, 0.05, "5 mm", 100), (512, 1.0, "100 mm", 100), (100, 1.0, "20 mm", 20)],
)
def test_the_scale_bar_by_hand(width, spacing, length, drawn):
    report = draw(segmentation_of(np.zeros((60, width)), spacing=(spacing, spacing)))
    assert f">{length}</text>" in report
    assert re.search(rf'<rect fill="#fff" [^>]*width="{drawn:.2f}"', report)


def test_the_colour_bar_is_that_of_the_heat_map():
    report = draw(one_lesion(), style="heatmap")
    ends = cv2.applyColorMap(np.uint8([[0, 255]]), cv2.COLORMAP_PLASMA)[0, :, ::-1].tolist()
    first, last = (f"rgb({red}, {green}, {blue})" for red, green, blue in ends)
    assert re.search(rf"linear-gradient\(to right, {re.escape(first)}, .*{re.escape(last)}\)", report)
    assert "linear-gradient" not in draw(one_lesion())


@pytest.mark.parametrize("look", [{"color": "red"}, {"alpha": 2}, {"style": "stripes"}])
def test_a_look_that_is_not_allowed_is_refused(look):
    with pytest.raises(ValueError, match="allowed are"):
        draw(one_lesion(), **look)


def test_the_profile_of_a_volume_by_hand():
    report = draw(one_lesion(), volume={"Volume": ["1.8 mL"]}, profile=Profile([0, 0, 40, 80, 0, 20], 0.0125, 3))
    sentence = "Tumour from slice 3 to 6 of 6; most in slice 4: 1.00 mL. This is slice 4."
    assert f'aria-label="{sentence}"' in report and sentence in text_of(report)
    # Bars stand on the line below, as high as their share of the highest; the slice of the report is marked.
    assert 'viewBox="0 0 6 100"' in report and '<rect x="3" width="1" height="100"/>' in report
    assert '<path d="M2 100v-50.0h1V100zM3 100v-100.0h1V100zM5 100v-25.0h1V100z"/>' in report


@pytest.mark.parametrize(
    ("areas", "voxel_ml", "sentence"),
    [
        ([0, 1200, 0], None, "Tumour in slice 2 of 3; most in slice 2: 1,200 px. This is slice 1."),
        ([0, 0], 0.001, "No tumour in any of 2 slices. This is slice 1."),
    ],
)
def test_what_a_profile_says(areas, voxel_ml, sentence):
    assert sentence in text_of(draw(one_lesion(), volume={"Volume": ["1.8 mL"]}, profile=Profile(areas, voxel_ml, 0)))


def test_a_mask_that_was_corrected_is_not_said_to_be_the_networks_alone():
    own, corrected = (text_of(draw(one_lesion(), by_hand=by_hand)) for by_hand in (False, True))
    assert "as the network sees it" in own and "checked by nobody" in own
    assert "as the network sees it" not in corrected and "checked by nobody" not in corrected
    assert corrected.count("corrected by hand") == 2
