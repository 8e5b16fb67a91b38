"""Pictures: display window, colours, blending and the region that each style may touch."""

import cv2
import numpy as np
import pytest

from modeling_unet.overlay import COLORMAP, STYLES, draw_layer, draw_overlay, parse_color, to_display


def noise(height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def square(height: int = 40, width: int = 50) -> np.ndarray:
    """A mask of rows 10 … 19 and columns 20 … 31."""
    mask = np.zeros((height, width), bool)
    mask[10:20, 20:32] = True
    return mask


def ramp(height: int = 40, width: int = 50) -> np.ndarray:
    """A probability of 0 in the left half, rising to 1 at the right border."""
    return np.tile(np.linspace(-1, 1, width, dtype=np.float32).clip(0), (height, 1))


class TestToDisplay:
    def test_grey_8_bit_keeps_its_values(self):
        image = noise()
        display = to_display(image)
        assert display.dtype == np.uint8 and display.shape == (40, 50, 3)
        for channel in range(3):
            np.testing.assert_array_equal(display[..., channel], image)

    def test_rgb_8_bit_keeps_its_values_in_a_copy(self):
        image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        display = to_display(image)
        np.testing.assert_array_equal(display, image)
        assert not np.shares_memory(display, image)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
    def test_window_from_minimum_to_the_998th_permille(self, dtype):
        # Of the 1001 values 1000 … 2000 the 99.8th percentile is 1998.
        image = np.arange(1000, 2001).astype(dtype).reshape(7, 143)
        display = to_display(image)[..., 0].ravel()
        expected = {1000: 0, 1100: 26, 1200: 51, 1996: 254, 1998: 255, 2000: 255}  # 100 / 998 · 255 = 25.55
        assert {value: display[value - 1000] for value in expected} == expected

    def test_minimum_below_zero_becomes_black(self):
        display = to_display(np.linspace(-1, 1, 10_000, dtype=np.float32).reshape(100, 100))
        assert display[0, 0, 0] == 0 and display[-1, -1, 0] == 255
        assert abs(int(display[50, 0, 0]) - 128) <= 1

    def test_scale_free(self):
        image = np.random.default_rng(0).random((64, 64), dtype=np.float32)
        np.testing.assert_array_equal(to_display(image), to_display(image * 4096))

    def test_rgb_16_bit_is_windowed_with_its_channels_together(self):
        image = np.zeros((20, 20, 3), np.uint16)
        image[..., 0], image[..., 1] = 1000, 500
        np.testing.assert_array_equal(to_display(image)[0, 0], (255, 128, 0))

    @pytest.mark.parametrize("value", [0, 7, 60_000])
    @pytest.mark.parametrize("dtype", [np.uint16, np.float32])
    def test_constant_image_is_black(self, value, dtype):
        with np.errstate(all="raise"):
            assert not to_display(np.full((20, 20), value, dtype)).any()

    def test_few_bright_pixels_on_a_constant_ground_stay_visible(self):
        image = np.full((100, 100), 10, np.uint16)
        image[3, 4], image[5, 6] = 60, 20
        display = to_display(image)[..., 0]
        assert display[3, 4] == 255 and display[5, 6] == 51 and np.count_nonzero(display) == 2

    @pytest.mark.parametrize("shape", [(4,), (4, 4, 1), (4, 4, 4), (3, 4, 4), (0, 4)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"image has shape .* allowed are \[H, W\] and \[H, W, 3\]"):
            to_display(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_refused(self, value):
        image = np.zeros((4, 4), np.float32)
        image[1, 1] = value
        with pytest.raises(ValueError, match="NaN or infinite"):
            to_display(image)


class TestColor:
    @pytest.mark.parametrize(
        "color", ["#ff3b30", "#FF3B30", "ff3b30", (255, 59, 48), [255, 59, 48], np.uint8([255, 59, 48])]
    )
    def test_all_spellings(self, color):
        assert parse_color(color) == (255, 59, 48)

    @pytest.mark.parametrize(
        "color", ["red", "#fff", "#ff3b30ff", "#gg3b30", "", (1, 2), (0, 0, 256), (-1, 0, 0), (0.5, 0, 0), (1, 2, 3, 4)]
    )
    def test_others_are_refused(self, color):
        with pytest.raises(ValueError, match=r"color is .* allowed are"):
            parse_color(color)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
class TestEveryStyle:
    def test_alpha_0_is_the_slice(self, style, shape):
        image = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
        overlay = draw_overlay(image, square(), alpha=0, style=style, probability=ramp())
        np.testing.assert_array_equal(overlay, to_display(image))

    def test_arguments_are_left_alone(self, style, shape):
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        arguments = image, square(), ramp()
        copies = [argument.copy() for argument in arguments]
        overlay = draw_overlay(image, arguments[1], style=style, probability=arguments[2])
        assert overlay.dtype == np.uint8 and overlay.shape == (40, 50, 3)
        assert (overlay != to_display(image)).any()
        for argument, copy in zip(arguments, copies, strict=True):
            np.testing.assert_array_equal(argument, copy)

    def test_layer_blends_to_the_overlay(self, style, shape):
        """A browser that stacks the two pictures with CSS opacity shows what `draw_overlay` draws."""
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        layer = draw_layer(square(), "#34c759", style, ramp()).astype(float)
        assert layer.shape == (40, 50, 4)
        display = to_display(image).astype(float)
        blended = display + 0.7 * layer[..., 3:] / 255 * (layer[..., :3] - display)
        overlay = draw_overlay(image, square(), "#34c759", 0.7, style, ramp())
        assert np.abs(overlay - blended).max() <= 0.51


class TestFill:
    def test_blend_by_hand(self):
        overlay = draw_overlay(np.full((40, 50), 100, np.uint8), square(), (200, 0, 50), alpha=0.5)
        np.testing.assert_array_equal(overlay[square()], np.broadcast_to((150, 50, 75), (120, 3)))

    def test_outside_equals_the_slice(self):
        image = noise()
        overlay = draw_overlay(image, square(), alpha=0.8)
        np.testing.assert_array_equal(overlay[~square()], to_display(image)[~square()])

    def test_alpha_1_is_the_colour(self):
        overlay = draw_overlay(noise(), square(), "#34c759", alpha=1)
        np.testing.assert_array_equal(overlay[square()], np.broadcast_to((0x34, 0xC7, 0x59), (120, 3)))

    def test_default_is_orange_at_45_percent(self):
        overlay = draw_overlay(np.zeros((40, 50), np.uint8), square())
        np.testing.assert_array_equal(overlay[12, 22], (104, 72, 0))  # 0.45 · (230, 159, 0)

    @pytest.mark.parametrize("mask", [square().astype(np.uint8), square().astype(np.uint8) * 255, square() * 1.0])
    def test_masks_of_other_types(self, mask):
        np.testing.assert_array_equal(draw_overlay(noise(), mask), draw_overlay(noise(), square()))


class TestContour:
    def drawn(self, mask: np.ndarray) -> np.ndarray:
        """Opacity of the contour, 0 … 255."""
        return draw_layer(mask, style="contour")[..., 3]

    def test_line_by_hand(self):
        coverage = self.drawn(square())
        # One pixel on either side of the edge in full colour, at rows 9 | 10 and 19 | 20, columns 19 | 20 and 31 | 32.
        np.testing.assert_array_equal(coverage[7:13, 25], (0, 0, 255, 255, 0, 0))
        np.testing.assert_array_equal(coverage[17:23, 25], (0, 0, 255, 255, 0, 0))
        np.testing.assert_array_equal(coverage[15, 17:23], (0, 0, 255, 255, 0, 0))
        np.testing.assert_array_equal(coverage[15, 29:35], (0, 0, 255, 255, 0, 0))
        # Diagonally outside a corner the edge is √2 - ½ away; half the width plus ½ less that is 0.586 of a pixel.
        assert coverage[9, 19] == coverage[20, 32] == round((2 - 2**0.5) * 255)
        # 40 pixels along the inside, 44 along the outside, and the four corners.
        assert np.count_nonzero(coverage) == (10 * 12 - 8 * 10) + 2 * (10 + 12) + 4

    def test_blend_and_exact_surroundings(self):
        image = noise()
        image[9:11] = 100
        overlay = draw_overlay(image, square(), (200, 0, 50), alpha=0.5, style="contour")
        np.testing.assert_array_equal(overlay[9:11, 25], [(150, 50, 75)] * 2)
        untouched = self.drawn(square()) == 0
        assert untouched[square()].any()
        np.testing.assert_array_equal(overlay[untouched], to_display(image)[untouched])

    def test_mask_at_the_border_is_closed_along_it(self):
        mask = np.zeros((30, 30), bool)
        mask[:10, :10] = True
        coverage = self.drawn(mask)
        assert (coverage[0, :10] == 255).all() and (coverage[:10, 0] == 255).all() and coverage[5, 5] == 0
        whole = self.drawn(np.ones((30, 30), bool))
        assert (whole[[0, -1]] == 255).all() and (whole[:, [0, -1]] == 255).all() and not whole[1:-1, 1:-1].any()

    def test_holes_have_an_outline_too(self):
        mask = np.zeros((60, 60), bool)
        mask[5:55, 5:55] = True
        mask[20:40, 20:40] = False
        np.testing.assert_array_equal(self.drawn(mask)[30, 17:23], (0, 0, 255, 255, 0, 0))

    def test_single_pixel_is_visible(self):
        mask = np.zeros((512, 512), bool)
        mask[100, 100] = True
        assert (self.drawn(mask)[99:102, 100] == 255).all()

    @pytest.mark.parametrize(("side", "width"), [(16, 2), (256, 2), (512, 2.56), (1000, 5), (2000, 10)])
    def test_width_grows_with_the_image(self, side, width):
        mask = np.zeros((side, side), bool)
        mask[: side // 2] = True
        across = self.drawn(mask)[side // 4 : side // 4 * 3, side // 2] / 255
        assert across.sum() == pytest.approx(width, abs=0.02)

    @pytest.mark.parametrize("style", ["fill", "contour"])
    def test_empty_mask_draws_nothing(self, style):
        overlay = draw_overlay(noise(), np.zeros((40, 50), bool), alpha=1, style=style)
        np.testing.assert_array_equal(overlay, to_display(noise()))


class TestHeatmap:
    def test_weight_is_alpha_times_probability(self):
        probability = ramp()
        overlay = draw_overlay(noise(), square(), alpha=0.6, style="heatmap", probability=probability)
        colors = cv2.applyColorMap(np.rint(probability * 255).astype(np.uint8), COLORMAP)[..., ::-1].astype(float)
        display = to_display(noise()).astype(float)
        expected = display + 0.6 * probability[..., None] * (colors - display)
        assert np.abs(overlay - expected).max() <= 1

    def test_zero_probability_is_pure_anatomy(self):
        overlay = draw_overlay(noise(), square(), alpha=1, style="heatmap", probability=ramp())
        np.testing.assert_array_equal(overlay[:, :25], to_display(noise())[:, :25])

    def test_certain_tumour_is_a_saturated_yellow(self):
        """Neither grey as the anatomy, nor with red and blue swapped."""
        overlay = draw_overlay(noise(), square(), alpha=1, style="heatmap", probability=np.ones((40, 50)))
        red, green, blue = overlay[0, 0].tolist()
        assert red > 220 and green > 220 and blue < 60

    def test_probability_is_needed(self):
        with pytest.raises(ValueError, match=r"heatmap.* needs the probability"):
            draw_overlay(noise(), square(), style="heatmap")

    @pytest.mark.parametrize("value", [-0.1, 1.1, 255, np.nan])
    def test_range_is_checked(self, value):
        probability = ramp()
        probability[3, 3] = value
        with pytest.raises(ValueError, match=r"probability spans .* from 0 to 1"):
            draw_overlay(noise(), square(), style="heatmap", probability=probability)

    def test_size_is_checked(self):
        with pytest.raises(ValueError, match=r"\(50, 40\).*\(40, 50\)"):
            draw_overlay(noise(), square(), style="heatmap", probability=ramp().T)


class TestErrors:
    @pytest.mark.parametrize("alpha", [-0.01, 1.01, 45, float("nan")])
    def test_alpha(self, alpha):
        with pytest.raises(ValueError, match=r"alpha is .* from 0 to 1"):
            draw_overlay(noise(), square(), alpha=alpha)

    def test_style(self):
        with pytest.raises(ValueError, match="style is 'outline'; allowed are fill, contour, heatmap"):
            draw_overlay(noise(), square(), style="outline")

    def test_mask_of_another_size(self):
        with pytest.raises(ValueError, match=r"mask has size \(50, 40\), but the image has size \(40, 50\)"):
            draw_overlay(noise(), square().T)

    @pytest.mark.parametrize("shape", [(40,), (1, 40, 50, 1), (0, 50)])
    def test_mask_of_another_shape(self, shape):
        with pytest.raises(ValueError, match=r"mask has shape .* allowed is \[H, W\]"):
            draw_overlay(noise(), np.zeros(shape, bool))
