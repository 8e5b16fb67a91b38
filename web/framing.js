/* Where the heads are in whatever picture somebody has, step by step as framing.py of the Python package finds them:

       picture → findFrames → cutOut → (network) → paste → probability at the picture's own size, 0 outside the frames

   rules: the constants of framing.py, which settings.json holds. The working copy is a plane of raster.js, 0 … 1. */

import {
    above, blurred, countOf, cropped, drawnPolygon, filled, greyOf, grownRound, highest, hullOf, lowest, mapped, maskOf, median, opened,
    outlines, percentile, percentileWithin, pieceOf, perimeter, planeOf, polygonArea, repeated, roundToEven, shrunk, simplified,
    smallestRectangle, stretched, thinned, within,
} from './raster.js';
import {labelPieces} from './lesions.js';

// -------------------------------------------------------------------------------------------------------------- a frame

/* What a frame shows of a picture of that size: [x, y, width, height]. */
export function boxOf(frame, width, height) {
    const left = Math.max(frame.x, 0), top = Math.max(frame.y, 0);
    return [left, top, Math.min(frame.x + frame.width, width) - left, Math.min(frame.y + frame.height, height) - top];
}

/* The head alone on black, or all of a slice, of a picture's grey values. */
export function cutOut(frame, grey) {
    const {width, height} = grey, [x, y, w, h] = boxOf(frame, width, height), part = cropped(grey, x, y, w, h);
    const seen = frame.inverted ? mapped(part, value => -value) : part;
    if (!frame.head) return seen;
    const {width: wide, height: high} = frame.head;
    const [left, right] = [x, x + w].map(column => roundToEven(column * wide / width));
    const [top, bottom] = [y, y + h].map(row => roundToEven(row * high / height));
    // Of one pixel, it is all of the picture.
    const [column, row] = [Math.min(left, wide - 1), Math.min(top, high - 1)];
    const head = cropped(frame.head, column, row, Math.max(right - left, 1), Math.max(bottom - top, 1));
    return cropped(levelledIn(seen, repeated(head, w, h)), frame.x - x, frame.y - y, frame.width, frame.height);
}

/* Puts the probability of a frame back into that of the whole picture, of that size; the higher counts where two meet. */
export function paste(frame, probability, whole, width, height) {
    const [x, y, w, h] = boxOf(frame, width, height);
    for (let row = y; row < y + h; row++)
        for (let column = x; column < x + w; column++) {
            const value = probability[(row - frame.y) * frame.width + column - frame.x], at = row * width + column;
            if (value > whole[at]) whole[at] = value;
        }
}

// -------------------------------------------------------------------------------------------------------------- finding

/* The frames of the heads in a picture, {x, y, width, height, inverted, head}; none where its one head fills it as in the
   training data, or none is found. Without a head of its own, a frame shows all that lies in it. */
export function findFrames(picture, rules) {
    const {width, height} = picture;
    const glance = normalized(smaller(picture, rules.GLANCE_SIDE)).grey;
    const all = [0, 0, width, height];
    if (!glance) return [];
    if (isFilled(glance, rules)) return isRaised(picture, rules) ? [filledFrame(picture, all, false, rules)] : [];
    const small = smaller(picture, rules.WORKING_SIDE), {grey, colours} = normalized(small);
    if (!grey || Math.min(grey.width, grey.height) < rules.MIN_HEAD_SIDE) return [];
    const slices = findSlices(picture, small, grey, rules);
    const interfaces = interfaceOf(grey, colours, rules), panels = findPanels(grey, rules);
    let heads = [], inverted = false;
    if (panels) {
        // Beside a light box the picture is dark all over.
        const some = within(grey, panels).filter((_, index) => index % 4 === 0);
        const [dark, bright] = percentiles(some, [0.2, 99.8]), scale = Math.max(bright - dark, 1e-6);
        const inside = mapped(grey, value => Math.min(Math.max((value - dark) / scale, 0), 1));
        heads = findHeads(inside, maskOf(interfaces, (value, pixel) => value || !panels.data[pixel]), rules);
    }
    if (!heads.length) {
        heads = findHeads(grey, interfaces, rules);
        const isNothing = !heads.length && !slices.length;
        if (isNothing && isFilled(negativeOf(glance), rules)) return [filledFrame(picture, all, true, rules)];
        const negative = findHeads(negativeOf(grey), interfaces, rules);
        inverted = isNegative(heads, negative);
        if (inverted) heads = negative;
    }
    const scale = width / grey.width, box = frame => boxOf(frame, width, height);
    const found = slices.map(frame => ({frame, area: frame.width * frame.height / scale ** 2 * rules.HEAD_OF_SLICE}));
    for (const head of heads) {
        const frame = frameOf(head, inverted, picture, grey, rules);
        if (slices.every(slice => overlapOf(box(frame), box(slice)) < 0.2)) found.push({frame, area: head.area});
    }
    const least = rules.SMALLEST_OF_SEVERAL * Math.max(0, ...found.map(({area}) => area));
    return found.filter(({area}) => area > least).slice(0, rules.MAX_FRAMES).map(({frame}) => frame);
}

/* Whether all of a picture is so bright that nothing of it would count as the ground of a head. */
function isRaised(picture, {GLANCE_SIDE, FOREGROUND_FRACTION}) {
    const {data} = greyOf(smaller(picture, GLANCE_SIDE));
    return data.reduce((least, value) => Math.min(least, value), Infinity) > FOREGROUND_FRACTION * percentile(data, 99);
}

/* The frame of a slice in a box that one head fills; its black is made 0 where it is none. */
function filledFrame(picture, [x, y, width, height], inverted, rules) {
    const raised = inverted || isRaised(partOf(picture, x, y, width, height), rules);
    return {x, y, width, height, inverted, head: raised ? planeOf(1, 1, Uint8Array.of(1)) : null};
}

function partOf({width, channels, data}, x, y, w, h) {
    const part = {width: w, height: h, channels, data: new data.constructor(w * h * channels)};
    for (let row = 0; row < h; row++) {
        const start = ((y + row) * width + x) * channels;
        part.data.set(data.subarray(start, start + w * channels), row * w * channels);
    }
    return part;
}

/* The frames of the slices that lie, as in the training data, on an even page of another grey than their own black. */
function findSlices(picture, small, grey, rules) {
    const {width, height} = grey;
    const values = greyOf(small);
    const scale = picture.width / width;
    const frames = [];
    const counts = new Uint32Array(256);
    for (const value of grey.data) counts[roundToEven(Math.fround(255 * value))]++;
    const [darkest, brightest] = percentiles(values.data, [0, 100]);
    const levels = [...counts.keys()].sort((one, other) => counts[other] - counts[one]).slice(0, rules.PAGES);
    for (const level of levels) {
        const page = maskOf(grey, value => Math.abs(value - Math.fround(level / 255)) <= Math.fround(2 * rules.EVEN));
        if (countOf(page) < rules.SMALLEST_PAGE * page.data.length) continue;
        const ground = median(within(values, page));
        const onPage = [], foreign = maskOf(page, value => !value);
        for (const {area, box: [x, y, w, h]} of outlines(maskOf(page, value => !value))) {
            const isAll = w === width && h === height;
            // An outline runs through the middle of its pixels.
            if (isAll || Math.min(w, h) < rules.MIN_HEAD_SIDE || area < rules.FILLED_RECTANGLE * (w - 1) * (h - 1)) continue;
            // What tells its black from the page is in its corners, but for what JPEG makes of the edge.
            const nearEnds = (start, length) => [5, 6, 7, 8].flatMap(step => [start + step, start + length - 1 - step]);
            const corners = nearEnds(y, h).flatMap(row => nearEnds(x, w).map(column => values.data[row * width + column]));
            const apart = Math.abs(median(corners) - ground);
            if (apart < rules.LEAST_APART * (brightest - darkest)) continue;
            const box = exactBox(picture, [x, y, w, h], scale, ground, apart, rules);
            // What ends with the picture is rather a part of a window.
            if (!box || edgesOf(box, picture) > 2) continue;
            if (frames.some(frame => overlapOf(box, boxOf(frame, picture.width, picture.height)) > 0.2)) continue;
            const glance = normalized(smaller(partOf(picture, ...box), rules.GLANCE_SIDE)).grey;
            if (!glance) continue;
            const isPositive = isFilled(glance, rules);
            if (!isPositive && !isFilled(negativeOf(glance), rules)) continue;
            onPage.push(filledFrame(picture, box, !isPositive, rules));
            for (let row = Math.max(y - 5, 0); row < Math.min(y + h + 5, height); row++) {
                foreign.data.fill(0, row * width + Math.max(x - 5, 0), row * width + Math.min(x + w + 5, width));
            }
        }
        // Among bars and icons a rectangle is rather the canvas of a viewer, in which the slice has a place of its own.
        if (countOf(foreign) <= rules.MAX_BESIDE * foreign.data.length) frames.push(...onPage);
    }
    return frames;
}

/* How many of its four sides a box shares with a picture. */
const edgesOf = ([x, y, width, height], picture) =>
    (x === 0) + (y === 0) + (x + width === picture.width) + (y + height === picture.height);

/* The box in a picture of what was found at about a box of its working copy; null unless it ends there, in straight lines.

   scale: px of the picture for one of the copy; ground: grey value of the page around; apart: from that to the slice's black. */
function exactBox(picture, about, scale, ground, apart, {JPEG_BLOCK, STRAIGHT}) {
    const reach = Math.ceil(2 * scale), spans = [], [left, top, wide, high] = about;
    for (const [start, length, across, thickness, isRow] of [[left, wide, top, high, true], [top, high, left, wide, false]]) {
        const [size, other] = isRow ? [picture.width, picture.height] : [picture.height, picture.width];
        const first = Math.max(Math.trunc(start * scale) - reach, 0);
        const end = Math.min(Math.trunc((start + length) * scale) + reach, size);
        const from = Math.trunc((across + 2) * scale), to = Math.min(Math.trunc((across + thickness - 2) * scale), other);
        const [x, y, w, h] = isRow ? [first, from, end - first, to - from] : [from, first, to - from, end - first];
        const {data, width} = greyOf(partOf(picture, x, y, w, h));
        const sharesOver = limit => {
            const counts = new Float64Array(end - first);
            for (let at = 0; at < data.length; at++)
                if (Math.abs(data[at] - ground) > limit) counts[isRow ? at % width : Math.floor(at / width)]++;
            return counts.map(count => count / (to - from));
        };
        const far = sharesOver(Math.fround(apart / 2)), places = [...far.keys()].filter(place => far[place] > 0.5);
        if (!places.length || Math.max(places[0], far.length - 1 - places.at(-1)) > 2 * reach + JPEG_BLOCK) return null;
        // Some of the head may be as grey as the page.
        const near = sharesOver(Math.fround(apart / 16)), most = some => Math.max(...some.map(place => near[place]));
        if (Math.min(most(places.slice(0, 3)), most(places.slice(-3))) < STRAIGHT) return null;
        spans.push([first + places[0], places.at(-1) - places[0] + 1]);
    }
    const [[x, width], [y, height]] = spans;
    return [x, y, width, height];
}

const negativeOf = plane => mapped(plane, value => 1 - value);
const percentiles = (values, percents) => {
    const some = new Float32Array(values);
    return percents.map(percent => percentileWithin(some, percent));
};

/* A copy whose longer side has so many px at most. */
function smaller(picture, side) {
    const {width, height} = picture, scale = Math.min(side / Math.max(width, height), 1);
    return shrunk(picture, Math.max(roundToEven(width * scale), 1), Math.max(roundToEven(height * scale), 1));
}

/* Grey values, 0 … 1, or null where all are the same; and the colours in their unit, or null. */
function normalized(small) {
    const {channels, data} = small, grey = greyOf(small);
    const low = grey.data.reduce((least, value) => Math.min(least, value), Infinity);
    const high = percentile(thinned(grey, 2).data, 99.8);
    if (high <= low) return {grey: null, colours: null};
    const colours = channels === 3 ? data.map(value => value / (high - low)) : null;
    return {grey: mapped(grey, value => Math.min(Math.max((value - low) / (high - low), 0), 1)), colours};
}

/* Whether one head on black fills a picture as in the training data. */
function isFilled(grey, rules) {
    const {width, height, data} = grey, bright = Math.fround(0.1 * percentile(thinned(grey, 2).data, 99)), edge = [];
    for (let x = 0; x < width; x++) edge.push(data[x], data[(height - 1) * width + x]);
    for (let y = 0; y < height; y++) edge.push(data[y * width], data[(y + 1) * width - 1]);
    if (median(edge) >= bright) return false;
    const foreground = maskOf(grey, value => value > bright), {labels, pieces} = labelPieces(foreground.data, width, height);
    const largest = pieces.reduce((most, piece, index) => piece.area > pieces[most].area ? index : most, 0);
    const [x, y, w, h] = pieces[largest].box;
    const piece = pieceOf(labels, width, largest + 1, pieces[largest].box);
    if (outlines(piece)[0].area > rules.MAX_FILLED_EXTENT * w * h) return false;
    const smallest = borderOf(grey, rules) > rules.BORDER ? rules.SMALLEST_SHARE_IN_BORDER : rules.SMALLEST_SHARE;
    if (Math.max(w, h) / Math.max(width, height) < smallest) return false;
    return countOf(foreground) - countOf(cropped(foreground, x, y, w, h)) < rules.FOREIGN * data.length;
}

/* How wide the even border is that a picture has on all four sides, as a share of the side. */
function borderOf({width, height, data}, {EVEN}) {
    let [left, right, top, bottom] = [width, -1, height, -1];
    data.forEach((value, pixel) => {
        if (Math.abs(value - data[0]) <= Math.fround(2 * EVEN)) return;
        const x = pixel % width, y = Math.floor(pixel / width);
        [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
    });
    if (right < 0) return 1;
    return Math.min(left / width, 1 - (right + 1) / width, top / height, 1 - (bottom + 1) / height);
}

/* What is even and bright over a large area, or coloured, as nothing in a slice is. */
function interfaceOf(grey, colours, {EVEN, LEVELS, LARGE, COLOURED}) {
    const {width, height, data} = grey, high = highest(grey, 3), low = lowest(grey, 3);
    const spread = pixel => Math.fround(high.data[pixel] - low.data[pixel]);
    const isEven = pixel => spread(pixel) < Math.fround(EVEN) && data[pixel] > Math.fround(LEVELS[0]);
    const {labels, pieces} = labelPieces(maskOf(grey, (_, pixel) => isEven(pixel)).data, width, height, false);
    const isLarge = label => label && pieces[label - 1].area > LARGE * data.length;
    const even = highest(maskOf(planeOf(width, height, labels), isLarge), 3);
    if (!colours) return even;
    // A photograph has a tint of its own, which is no colour here.
    const means = [0, 1, 2].map(channel => {
        let sum = 0;
        for (let at = channel; at < colours.length; at += 3) sum += colours[at];
        return sum / data.length;
    });
    const balance = means.map(mean => (means[0] + means[1] + means[2]) / 3 / Math.max(mean, 1e-6));
    const coloured = planeOf(width, height, new Uint8Array(data.length));
    for (let pixel = 0; pixel < data.length; pixel++) {
        const red = colours[3 * pixel], green = colours[3 * pixel + 1], blue = colours[3 * pixel + 2];
        const own = Math.max(red, green, blue) - Math.min(red, green, blue);
        const [evenRed, evenGreen, evenBlue] = [red * balance[0], green * balance[1], blue * balance[2]];
        const even = Math.max(evenRed, evenGreen, evenBlue) - Math.min(evenRed, evenGreen, evenBlue);
        if (Math.min(own, even) > COLOURED) coloured.data[pixel] = 1;
    }
    // Thin lines that somebody drew over a head must not cut it in pieces.
    const thick = highest(opened(coloured, 7), 3);
    return maskOf(even, (value, pixel) => value || thick.data[pixel]);
}

/* Within the dark quadrilaterals on bright ground, such as films on a light box; null without any. */
function findPanels(grey, rules) {
    const {width, height, data} = grey, panels = planeOf(width, height, new Uint8Array(data.length));
    for (const level of rules.PANEL_LEVELS.map(Math.fround)) {
        for (const {points, area: own} of outlines(opened(maskOf(grey, value => value < level), 5))) {
            const hull = hullOf(points), area = polygonArea(hull), share = area / data.length;
            if (!(rules.PANEL < share && share < 0.97) || own < 0.7 * area || !isPolygon(hull, rules)) continue;
            const panel = drawnPolygon(hull, width, height), near = highest(panel, 5);
            const around = maskOf(highest(panel, 15), (value, pixel) => value && !near.data[pixel]), size = countOf(around);
            if (!size || countOf(maskOf(around, (value, pixel) => value && data[pixel] > level)) <= 0.6 * size) continue;
            lowest(panel, 5).data.forEach((value, pixel) => { if (value) panels.data[pixel] = 1; });
        }
    }
    return panels.data.includes(1) ? panels : null;
}

/* Whether a convex outline has few corners, as a film seen from aside, cut off perhaps. */
function isPolygon(hull, {MAX_CORNERS, FILLED_POLYGON}) {
    const corners = simplified(hull, 0.03 * perimeter(hull));
    return corners.length <= MAX_CORNERS && polygonArea(corners) > FILLED_POLYGON * polygonArea(hull);
}

/* What looks like a head, the likeliest first, without those that are far smaller or overlap. */
function findHeads(grey, interfaces, rules) {
    const ground = groundOf(grey, rules), levelled = mapped(grey, (value, pixel) => value - ground.data[pixel]);
    const smooth = blurred(grey, 3);
    const low = lowest(smooth, 7);
    const edges = mapped(highest(smooth, 7), (value, pixel) => value - low.data[pixel]);
    const free = maskOf(interfaces, value => !value);
    const bright = rules.LEVELS.map(level => above(grey, Math.fround(level), free));
    const evened = rules.LEVELLED_LEVELS.map(level => above(levelled, Math.fround(level), free));
    const candidates = [...bright, ...evened].flatMap(part => headsIn(part, grey, edges, interfaces, rules));
    const heads = [];
    for (const head of candidates.sort((one, other) => other.score - one.score))
        if (heads.every(other => overlapOf(head.box, other.box) < 0.2)) heads.push(head);
    return heads.filter(head => head.area > rules.SMALLEST_OF_SEVERAL * heads[0].area).slice(0, rules.MAX_FRAMES);
}

/* What is dark in the neighbourhood of every pixel, as lamps and reflections brighten it. */
function groundOf(grey, {GROUND}) {
    const {width, height} = grey, small = shrunk(grey, Math.max(width >> 2, 1), Math.max(height >> 2, 1));
    const side = roundToEven(GROUND * Math.max(small.width, small.height)) | 1;
    return stretched(blurred(lowest(small, side), side), width, height);
}

function headsIn(bright, grey, edges, interfaces, rules) {
    const {width, height} = bright, {labels, pieces} = labelPieces(opened(bright, 3).data, width, height, false), heads = [];
    pieces.forEach(({box: [x, y, w, h]}, index) => {
        const least = Math.min(w, h);
        if (least < rules.MIN_HEAD_SIDE || Math.max(w, h) >= 2 * least) return;
        const piece = cropped(pieceOf(labels, width, index + 1, [x, y, w, h]), -1, -1, w + 2, h + 2);
        // Letters, scale bars and cross-hairs may hang on to it.
        const [outline] = outlines(opened(filled(piece), Math.max(roundToEven(0.05 * least), 3)));
        const head = outline && judged(movedBy(outline, x - 1, y - 1), grey, edges, interfaces, rules);
        if (head) heads.push(head);
    });
    return heads;
}

const movedBy = ({points, box: [x, y, w, h], ...others}, right, down) => (
    {...others, points: points.map(([column, row]) => [column + right, row + down]), box: [x + right, y + down, w, h]});

/* A head, if it has its shape, and is bright and uneven on a ground that is neither. */
function judged({points, area, box, inside: shape}, grey, edges, interfaces, rules) {
    const [x, y, w, h] = box, {width, height} = grey, corners = hullOf(points), hull = polygonArea(corners);
    if (Math.min(w, h) < rules.MIN_HEAD_SIDE || Math.max(w, h) > 1.8 * Math.min(w, h)) return null;
    if (area < rules.MIN_SOLIDITY * hull || area > rules.MAX_EXTENT * smallestRectangle(corners)) return null;
    // Wider than the scalp, which of a negative is a dark ring around the bright skull.
    const margin = Math.max(roundToEven(0.1 * Math.max(w, h)), 3);
    const left = Math.max(x - margin, 0);
    const top = Math.max(y - margin, 0);
    const wide = Math.min(x + w + margin, width) - left, high = Math.min(y + h + margin, height) - top;
    const seen = plane => cropped(plane, left, top, wide, high), view = seen(grey), foreign = seen(interfaces);
    const inside = cropped(shape, left - x, top - y, wide, high), near = highest(inside, 5);
    const usualInside = median(within(view, inside));
    // The bright page that a narrow panel lies on is not its ground.
    const around = maskOf(highest(inside, 2 * margin + 1), (value, pixel) => (
        value && !near.data[pixel] && !(foreign.data[pixel] && view.data[pixel] > usualInside)));
    if (countOf(around) < 0.5 * margin * (w + h)) return null;
    const step = Math.max(roundToEven(Math.max(wide, high) / 64), 1), slope = slopeOf(view, around, step);
    const thin = thinned(view, step), places = pixel => [pixel % thin.width * step, Math.floor(pixel / thin.width) * step];
    const levelled = mapped(thin, (value, pixel) => value - slope(...places(pixel)));
    const values = within(levelled, thinned(inside, step)), ground = within(levelled, thinned(around, step));
    if (!ground.length) return null;
    // Where a panel ends, or a neck is cut off, other things follow.
    const [darkest, dark] = percentiles(ground, [10, 70]), contrast = median(values) - dark;
    if (contrast < Math.max(rules.MIN_CONTRAST, 1.5 * (dark - darkest))) return null;
    // It ends at an edge all around, unlike the bright side of an uneven black, but for where the picture ends.
    const free = points.filter(([column, row]) => (
        column > 3 && column < width - 4 && row > 3 && row < height - 4 && !interfaces.data[row * width + column]));
    const sharp = free.filter(([column, row]) => edges.data[row * width + column] > rules.MIN_RIM * contrast);
    const sharpness = free.length ? sharp.length / free.length : 0;
    if (sharpness < rules.MIN_SHARPNESS || deviationOf(values) < rules.MIN_UNEVENNESS * contrast) return null;
    return {points, area, box, score: area * (area / hull) ** 6 * sharpness ** 4};
}

function deviationOf(values) {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    return Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
}

/* The even slope (x, y) → grey that most of the ground lies on, but for letters and the edges of a film. */
function slopeOf(grey, ground, step) {
    const values = thinned(grey, step), {width, data} = values, places = [];
    thinned(ground, step).data.forEach((value, pixel) => { if (value) places.push(pixel); });
    const terms = pixel => [1, Math.floor(pixel / width), pixel % width];
    let usual = places, weights = [0, 0, 0];
    for (let turn = 0; turn < 3; turn++) {
        weights = fitted(usual.map(pixel => [...terms(pixel), data[pixel]]));
        const errors = Float64Array.from(places, pixel => Math.abs(data[pixel] - dot(terms(pixel), weights)));
        const limit = 2.5 * percentileWithin(errors.slice(), 50) + 1e-6;
        usual = places.filter((_, index) => errors[index] <= limit);
    }
    return (x, y) => Math.fround(weights[0] + weights[1] * y / step + weights[2] * x / step);
}

const dot = (one, other) => one[0] * other[0] + one[1] * other[1] + one[2] * other[2];

/* Least squares for three weights; where the places lie on one line, some weights stay 0. */
function fitted(samples) {
    const rows = [0, 1, 2].map(() => [0, 0, 0, 0]), weights = [0, 0, 0];
    for (const sample of samples)
        for (let row = 0; row < 3; row++)
            for (let column = 0; column < 4; column++) rows[row][column] += sample[row] * sample[column];
    const most = Math.max(...rows.map((row, index) => row[index]));
    for (let pivot = 0; pivot < 3; pivot++) {
        if (Math.abs(rows[pivot][pivot]) < 1e-12 * most) continue;
        for (let row = 0; row < 3; row++) {
            if (row === pivot) continue;
            const share = rows[row][pivot] / rows[pivot][pivot];
            rows[row] = rows[row].map((value, column) => value - share * rows[pivot][column]);
        }
    }
    rows.forEach((row, index) => { if (Math.abs(row[index]) >= 1e-12 * most) weights[index] = row[3] / row[index]; });
    return weights;
}

/* Whether the heads of the negative are the true ones: small things are bright in it, and a panel around a bright head dark. */
function isNegative(positive, negative) {
    if (!positive.length || !negative.length) return negative.length > 0;
    return negative[0].area > 12 * positive[0].area;
}

/* Area that two boxes share, as a share of the smaller. */
function overlapOf([x, y, w, h], [otherX, otherY, otherW, otherH]) {
    const wide = Math.min(x + w, otherX + otherW) - Math.max(x, otherX);
    const high = Math.min(y + h, otherY + otherH) - Math.max(y, otherY);
    return Math.max(wide, 0) * Math.max(high, 0) / Math.min(w * h, otherW * otherH);
}

function frameOf({points, box: [x, y, w, h]}, inverted, picture, {width, height}, {HEAD_SHARE, AROUND}) {
    const longest = Math.max(w, h), scale = picture.width / width, side = roundToEven(longest * scale / HEAD_SHARE);
    const head = grownRound(drawnPolygon(hullOf(points), width, height), 2 * Math.max(roundToEven(AROUND * longest), 1) + 1);
    const [left, top] = [(x + w / 2) * scale, (y + h / 2) * scale].map(middle => roundToEven(middle - side / 2));
    return {x: left, y: top, width: side, height: side, inverted, head};
}

/* Makes the ground of a head 0, which may rise evenly from side to side, and blackens all but the head. */
function levelledIn(grey, head) {
    const {width, data} = grey, shown = within(grey, head);
    // The bright page that a narrow panel lies on is not its ground.
    const usual = shown.length ? median(shown) : Infinity;
    const ground = maskOf(grey, (value, pixel) => !head.data[pixel] && value < usual), count = countOf(ground);
    const alone = toValue => mapped(grey, (value, pixel) => head.data[pixel] ? Math.max(toValue(value, pixel), 0) : 0);
    if (count <= 0.02 * data.length) {
        const dark = percentile(data, 2);
        return alone(value => value - dark);
    }
    const dark = median(within(grey, ground)), bright = percentile(data, 99);
    if (dark >= 0 && dark <= 0.04 * bright) return alone(value => value);
    const slope = slopeOf(grey, ground, Math.max(roundToEven(Math.max(width, grey.height) / 128), 1));
    return alone((value, pixel) => value - slope(pixel % width, Math.floor(pixel / width)));
}
