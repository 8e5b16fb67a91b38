/* What is shown of a slice: itself in 8 bits, and the layers of colour over it, as overlay.py of the package draws them.

   Pictures are {width, height, channels, data}, ready for `encodePng`. */

import {percentile, roundToEven} from './raster.js';

const WINDOW_PERCENTILE = 99.8;
const COLOURED_DIFFERENCE = 0.15, COLOURED_SHARE = 0.0002; // as `is_coloured`
const MIN_CONTOUR_WIDTH = 2, CONTOUR_WIDTH_PER_SIDE = 1 / 200;

/* A picture of any depth in 8 bits; deeper ones from their minimum to the 99.8th percentile. */
export function toDisplay({width, height, channels, depth, data}) {
    if (depth === 8) return {width, height, channels, data};
    const low = data.reduce((lowest, value) => Math.min(lowest, value), Infinity);
    let high = percentile(data, WINDOW_PERCENTILE);
    if (high === low) high = data.reduce((highest, value) => Math.max(highest, value), 0);
    const scale = 1 / Math.max(high - low, Number.MIN_VALUE);
    const shown = Uint8Array.from(data, value => high === low ? 0 : roundToEven(255 * Math.min((value - low) * scale, 1)));
    return {width, height, channels, data: shown};
}

/* Whether the colours show different things, so that their average shows none of them; box: [x, y, width, height]. */
export function isColoured({width, channels, data}, [left, top, boxWidth, boxHeight]) {
    if (channels === 1) return false;
    const spans = new Uint8Array(boxWidth * boxHeight);
    let lowest = 255, highest = 0, index = 0;
    for (let y = top; y < top + boxHeight; y++)
        for (let x = left; x < left + boxWidth; x++) {
            const at = 3 * (y * width + x), [red, green, blue] = [data[at], data[at + 1], data[at + 2]];
            const high = Math.max(red, green, blue), low = Math.min(red, green, blue);
            spans[index++] = high - low;
            if (high > highest) highest = high;
            if (low < lowest) lowest = low;
        }
    const limit = COLOURED_DIFFERENCE * (highest - lowest);
    return spans.reduce((count, span) => count + (span > limit), 0) / spans.length > COLOURED_SHARE;
}

/* The shape of a mask, for CSS to colour: opaque inside. */
export const fillShape = (mask, width, height) => shape(width, height, pixel => 255 * mask[pixel]);

/* The shape of its outline, half inside and half outside. */
export function contourShape(mask, width, height) {
    const coverage = contourCoverage(mask, width, height);
    return shape(width, height, pixel => roundToEven(255 * coverage[pixel]));
}

function shape(width, height, alphaOf) {
    const data = new Uint8Array(4 * width * height);
    for (let pixel = 0; pixel < width * height; pixel++) data[4 * pixel + 3] = alphaOf(pixel);
    return {width, height, channels: 4, data};
}

/* Probability as colour and as opacity; colours: 256 of [red, green, blue]. */
export function heatMap(probability, width, height, colors) {
    const data = new Uint8Array(4 * probability.length);
    for (let pixel = 0; pixel < probability.length; pixel++) {
        const level = roundToEven(Math.fround(255 * probability[pixel]));
        data.set(colors[level], 4 * pixel);
        data[4 * pixel + 3] = level;
    }
    return {width, height, channels: 4, data};
}

/* A slice with its overlay, RGB; layer: one of those above; color: [red, green, blue], or null for the layer's own. */
export function blend(display, layer, color, opacity) {
    const {width, height, channels, data} = display, blended = new Uint8Array(3 * width * height);
    for (let pixel = 0; pixel < width * height; pixel++) {
        const share = opacity / 255 * layer.data[4 * pixel + 3];
        for (let channel = 0; channel < 3; channel++) {
            const below = data[channels * pixel + (channels === 3 ? channel : 0)];
            const above = color ? color[channel] : layer.data[4 * pixel + channel];
            blended[3 * pixel + channel] = roundToEven(Math.fround(below + share * (above - below)));
        }
    }
    return {width, height, channels: 3, data: blended};
}

function contourCoverage(mask, width, height) {
    const lineWidth = Math.max(MIN_CONTOUR_WIDTH, Math.min(width, height) * CONTOUR_WIDTH_PER_SIDE);
    const toOutside = distances(mask, width, height, 0), toInside = distances(mask, width, height, 1);
    return Float32Array.from(mask, (_, pixel) => {
        const distance = Math.max(toOutside[pixel], toInside[pixel]);
        return Math.min(Math.max(lineWidth / 2 + 0.5 - (distance - 0.5), 0), 1);
    });
}

/* Distance of each pixel from the nearest one of a value; beyond the frame all are 0. Felzenszwalb and Huttenlocher
   (2012): exact, in the time of two passes. */
export function distances(mask, width, height, wanted) {
    const paddedWidth = width + 2, paddedHeight = height + 2, far = (paddedWidth + paddedHeight) ** 2;
    const squares = new Float64Array(paddedWidth * paddedHeight).fill(wanted ? far : 0);
    for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) squares[(y + 1) * paddedWidth + x + 1] = mask[y * width + x] === wanted ? 0 : far;
    for (let x = 0; x < paddedWidth; x++) envelope(squares, x, paddedWidth, paddedHeight);
    for (let y = 0; y < paddedHeight; y++) envelope(squares, y * paddedWidth, 1, paddedWidth);
    const found = new Float32Array(width * height);
    for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) found[y * width + x] = Math.sqrt(squares[(y + 1) * paddedWidth + x + 1]);
    return found;
}

function envelope(values, start, step, count) {
    const line = Float64Array.from({length: count}, (_, index) => values[start + index * step]);
    const places = new Int32Array(count), borders = new Float64Array(count + 1);
    const crossing = (one, other) => (line[one] + one * one - line[other] - other * other) / (2 * one - 2 * other);
    let last = 0;
    [borders[0], borders[1]] = [-Infinity, Infinity];
    for (let index = 1; index < count; index++) {
        let at = crossing(index, places[last]);
        while (at <= borders[last]) at = crossing(index, places[--last]);
        places[++last] = index;
        [borders[last], borders[last + 1]] = [at, Infinity];
    }
    for (let index = 0, piece = 0; index < count; index++) {
        while (borders[piece + 1] < index) piece++;
        values[start + index * step] = (index - places[piece]) ** 2 + line[places[piece]];
    }
}
