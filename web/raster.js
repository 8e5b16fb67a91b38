/* Pictures as arrays, worked on as OpenCV works on them, so that a head is found where Python finds it.

   A plane is {width, height, data}, row by row; a mask is a plane of 0 and 1. Windows of an even size reach one pixel
   farther up and left. */

import {convexHull, labelPieces} from './lesions.js';

export const planeOf = (width, height, data) => ({width, height, data});
export const maskOf = (plane, isInside) => changed(plane, Uint8Array, (value, pixel) => isInside(value, pixel) ? 1 : 0);
export const mapped = (plane, change) => changed(plane, Float32Array, change);

export function countOf({data}) {
    let sum = 0;
    for (let pixel = 0; pixel < data.length; pixel++) sum += data[pixel];
    return sum;
}

function changed({width, height, data}, Values, change) {
    const values = new Values(data.length);
    for (let pixel = 0; pixel < data.length; pixel++) values[pixel] = change(data[pixel], pixel);
    return planeOf(width, height, values);
}

/* The mask of what is brighter than a level, and lies in another mask. */
export function above({width, height, data}, level, free) {
    const mask = new Uint8Array(data.length);
    for (let pixel = 0; pixel < data.length; pixel++) if (data[pixel] > level) mask[pixel] = free.data[pixel];
    return planeOf(width, height, mask);
}

/* The values of a plane that lie in a mask, one after another. */
export function within({data}, mask) {
    const values = new Float32Array(countOf(mask));
    for (let pixel = 0, at = 0; pixel < data.length; pixel++) if (mask.data[pixel]) values[at++] = data[pixel];
    return values;
}

/* Colours are averaged, values are not rescaled: {width, height, channels: 1|3, data} → a plane. */
export function greyOf({width, height, channels, data}) {
    if (channels === 1) return planeOf(width, height, new Float32Array(data));
    const grey = new Float32Array(width * height);
    for (let pixel = 0, at = 0; pixel < grey.length; pixel++, at += 3) grey[pixel] = (data[at] + data[at + 1] + data[at + 2]) / 3;
    return planeOf(width, height, grey);
}

/* The half to the even number, as Python rounds. */
export function roundToEven(value) {
    const below = Math.floor(value), rest = value - below;
    return rest > 0.5 || (rest === 0.5 && below % 2) ? below + 1 : below;
}

/* The value below which so many percent of the values lie, as NumPy interpolates it. */
export const percentile = (values, percent) => percentileWithin(new Float32Array(values), percent);
export const median = values => percentile(values, 50);

/* The same, of a typed array that need not keep its order. */
export function percentileWithin(values, percent) {
    if (!values.length) return NaN;
    const place = (values.length - 1) * percent / 100, below = Math.floor(place), low = ranked(values, below);
    let high = below + 1 < values.length ? Infinity : low;
    for (let index = below + 1; index < values.length; index++) if (values[index] < high) high = values[index];
    return low + (high - low) * (place - below);
}

/* Hoare's selection: the value of that rank, and in the array no larger one before it, and no smaller one behind. */
function ranked(values, rank) {
    for (let first = 0, last = values.length - 1; first < last;) {
        const pivot = values[first + last >> 1];
        let low = first, high = last;
        while (low <= high) {
            while (values[low] < pivot) low++;
            while (values[high] > pivot) high--;
            if (low > high) break;
            const value = values[low];
            values[low++] = values[high];
            values[high--] = value;
        }
        if (rank <= high) last = high;
        else if (rank >= low) first = low;
        else break;
    }
    return values[rank];
}

/* Every so many pixels of a plane, along both sides. */
export function thinned({width, height, data}, step) {
    const thin = planeOf(Math.ceil(width / step), Math.ceil(height / step), null);
    thin.data = new data.constructor(thin.width * thin.height);
    for (let y = 0, at = 0; y < height; y += step) for (let x = 0; x < width; x += step) thin.data[at++] = data[y * width + x];
    return thin;
}

/* What lies in a rectangle of a plane, which may begin or end outside: there it is 0. */
export function cropped({width, height, data}, left, top, wide, high) {
    const part = planeOf(wide, high, new data.constructor(wide * high));
    const first = Math.max(left, 0), last = Math.min(left + wide, width);
    for (let y = Math.max(top, 0); y < Math.min(top + high, height) && first < last; y++)
        part.data.set(data.subarray(y * width + first, y * width + last), (y - top) * wide + first - left);
    return part;
}

// ------------------------------------------------------------------------------------------------------------- resizing

/* INTER_AREA: the mean of what each new pixel covers. Several channels are done one by one, [height, width, channels].

   It makes no side longer. */
export function shrunk({width, height, channels = 1, data}, wide, high) {
    const columns = shares(width, wide), rows = shares(height, high);
    const result = {width: wide, height: high, channels, data: new Float32Array(wide * high * channels)};
    const line = new Float64Array(wide * channels), sum = new Float64Array(wide * channels);
    let done = -1;
    const shrinkLine = row => {
        if (row === done) return;
        done = row;
        line.fill(0);
        for (let column = 0; column < wide; column++) {
            const [first, weights] = columns[column];
            for (let index = 0, at = (row * width + first) * channels; index < weights.length; index++)
                for (let channel = 0; channel < channels; channel++, at++)
                    line[column * channels + channel] += weights[index] * data[at];
        }
    };
    rows.forEach(([first, weights], row) => {
        sum.fill(0);
        for (let index = 0; index < weights.length; index++) {
            shrinkLine(first + index);
            for (let at = 0; at < line.length; at++) sum[at] += weights[index] * line[at];
        }
        result.data.set(sum, row * wide * channels);
    });
    return result;
}

/* Of every new pixel along a side: the first old one that it covers, and the share that it has of this and the next. */
function shares(length, wanted) {
    const scale = length / wanted;
    return Array.from({length: wanted}, (_, index) => {
        const start = index * scale, end = Math.min(start + scale, length), cell = end - start;
        // As OpenCV has it, less than a thousandth of a pixel is none.
        const first = Math.ceil(start) - start > 1e-3 ? Math.floor(start) : Math.ceil(start);
        const last = end - Math.floor(end) > 1e-3 ? Math.ceil(end) : Math.floor(end);
        const covered = pixel => Math.min(pixel + 1, end) - Math.max(pixel, start);
        return [first, Array.from({length: last - first}, (_, pixel) => covered(first + pixel) / cell)];
    });
}

/* INTER_LINEAR: between the four nearest centres of pixels. */
export function stretched({width, height, data}, wide, high) {
    const columns = neighbours(width, wide), rows = neighbours(height, high), result = new Float32Array(wide * high);
    const across = (row, {low, high: next, share}) => data[row * width + low] * (1 - share) + data[row * width + next] * share;
    for (let y = 0, at = 0; y < high; y++)
        for (let x = 0; x < wide; x++) {
            const {low, high: next, share} = rows[y];
            result[at++] = across(low, columns[x]) * (1 - share) + across(next, columns[x]) * share;
        }
    return planeOf(wide, high, result);
}

function neighbours(length, wanted) {
    return Array.from({length: wanted}, (_, index) => {
        const place = Math.min(Math.max((index + 0.5) * length / wanted - 0.5, 0), length - 1), low = Math.floor(place);
        return {low, high: Math.min(low + 1, length - 1), share: place - low};
    });
}

/* INTER_NEAREST. */
export function repeated({width, height, data}, wide, high) {
    const result = new data.constructor(wide * high);
    for (let y = 0, at = 0; y < high; y++) {
        const row = Math.min(Math.floor(y * height / high), height - 1) * width;
        for (let x = 0; x < wide; x++) result[at++] = data[row + Math.min(Math.floor(x * width / wide), width - 1)];
    }
    return planeOf(wide, high, result);
}

// ----------------------------------------------------------------------------------------------------------- morphology

/* Erosion and dilation with a square of so many pixels; what lies outside the plane does not count. */
export const lowest = (plane, size) => isMask(plane) ? grown(plane, size, 1) : extreme(plane, size, -1);
export const highest = (plane, size) => isMask(plane) ? grown(plane, size, 0) : extreme(plane, size, 1);
export const opened = (plane, size) => highest(lowest(plane, size), size);
const isMask = ({data}) => data instanceof Uint8Array;

/* Calls with 1, 1, 2, 4, … until they make up a size: so far away lies what is joined with what is joined already. */
function doubled(size, join) {
    for (let done = 1; done < size;) {
        const away = Math.min(done, size - done);
        join(away);
        done += away;
    }
}

/* Dilation of the pixels that are not `ground`, 0 or 1, in words of 32. */
function grown({width, height, data}, size, ground) {
    const before = size >> 1, stride = (width + size - 1 >> 5) + 1, words = new Int32Array(stride * (height + size - 1));
    for (let y = 0, from = 0; y < height; y++)
        for (let x = before, row = (y + before) * stride; x < width + before; x++)
            if (data[from++] !== ground) words[row + (x >> 5)] |= 1 << (x & 31);
    doubled(size, away => {
        const jump = away >> 5, right = away & 31, left = 32 - right;
        for (let at = 0; at < words.length - jump; at++)
            words[at] |= right ? words[at + jump] >>> right | words[at + jump + 1] << left : words[at + jump];
    });
    doubled(size, away => {
        for (let at = 0, next = away * stride; next < words.length; at++, next++) words[at] |= words[next];
    });
    const result = new Uint8Array(data.length);
    for (let y = 0, to = 0; y < height; y++)
        for (let x = 0, row = y * stride; x < width; x++) result[to++] = words[row + (x >> 5)] >>> (x & 31) & 1 ^ ground;
    return planeOf(width, height, result);
}

function extreme({width, height, data}, size, sign) {
    const before = size >> 1, wide = width + size - 1, neutral = -sign * Infinity;
    const lines = new Float32Array(wide * height).fill(neutral), rows = new Float32Array(width * (height + size - 1)).fill(neutral);
    for (let y = 0; y < height; y++) lines.set(data.subarray(y * width, (y + 1) * width), y * wide + before);
    doubled(size, away => gather(lines, away, sign));
    for (let y = 0; y < height; y++) rows.set(lines.subarray(y * wide, y * wide + width), (y + before) * width);
    doubled(size, away => gather(rows, away * width, sign));
    return planeOf(width, height, rows.slice(0, data.length));
}

/* Makes every value the larger one of itself and another, so far behind it; or the smaller one. */
function gather(values, away, sign) {
    const end = values.length - away;
    if (sign > 0) for (let at = 0; at < end; at++) { if (values[at + away] > values[at]) values[at] = values[at + away]; }
    else for (let at = 0; at < end; at++) if (values[at + away] < values[at]) values[at] = values[at + away];
}

/* Dilation of a mask with OpenCV's ellipse, as wide as high. */
export function grownRound({width, height, data}, size) {
    const radius = size >> 1, result = new Uint8Array(data.length), reach = [];
    for (let dy = -radius; dy <= radius; dy++) reach.push(roundToEven(Math.sqrt(radius * radius - dy * dy)));
    for (let y = 0; y < height; y++)
        for (let first = y * width, end, row = first + width; (first = data.indexOf(1, first)) >= 0 && first < row; first = end) {
            for (end = first; end < row && data[end];) end++;
            for (let dy = Math.max(-radius, -y); dy <= Math.min(radius, height - 1 - y); dy++) {
                const line = (y + dy) * width, half = reach[dy + radius], shift = dy * width;
                result.fill(1, Math.max(first + shift - half, line), Math.min(end + shift + half, line + width));
            }
        }
    return planeOf(width, height, result);
}

/* The mean of the square around every pixel; at the edges the plane is mirrored. */
export function blurred({width, height, data}, size) {
    const across = new Float64Array(data.length), result = new Float32Array(data.length);
    for (let y = 0; y < height; y++) sums(data, across, y * width, 1, width, size);
    for (let x = 0; x < width; x++) sums(across, result, x, width, height, size);
    return planeOf(width, height, result.map(sum => sum / (size * size)));
}

function sums(source, target, start, step, count, size) {
    const half = size >> 1, at = index => {
        while (index < 0 || index >= count) index = count === 1 ? 0 : index < 0 ? -index : 2 * (count - 1) - index;
        return source[start + index * step];
    };
    let sum = 0;
    for (let index = -half; index <= half; index++) sum += at(index);
    for (let index = 0; index < count; index++) {
        target[start + index * step] = sum;
        sum += at(index + half + 1) - at(index - half);
    }
}

// -------------------------------------------------------------------------------------------------------------- outlines

/* A mask without its holes. */
export function filled({width, height, data}) {
    const solid = new Uint8Array(data.length);
    for (let pixel = 0; pixel < data.length; pixel++) solid[pixel] = data[pixel] ? 0 : 1;
    const {labels, pieces} = labelPieces(solid, width, height, false);
    const isSolid = [true, ...pieces.map(({box: [x, y, w, h]}) => x > 0 && y > 0 && x + w < width && y + h < height)];
    for (let pixel = 0; pixel < data.length; pixel++) solid[pixel] = isSolid[labels[pixel]] ? 1 : 0;
    return planeOf(width, height, solid);
}

/* What a piece of that label fills of a box of labels, as a mask. */
export function pieceOf(labels, width, label, [left, top, wide, high]) {
    const piece = new Uint8Array(wide * high);
    for (let y = 0, at = 0; y < high; y++)
        for (let x = 0, from = (top + y) * width + left; x < wide; x++, at++, from++) if (labels[from] === label) piece[at] = 1;
    return planeOf(wide, high, piece);
}

/* The outlines of the pieces of a mask that lie in no hole of another one, largest first.

   Each is {points, area, box, inside}: the pixels along its edge, one by one, [x, y]; the area within the line through
   their centres; and the mask of the piece in its box, without holes. */
export function outlines(mask) {
    const {width, height} = mask, solid = filled(mask), {labels, pieces} = labelPieces(solid.data, width, height);
    return pieces.map(({box}, index) => {
        const [x, y] = box, inside = pieceOf(labels, width, index + 1, box);
        const points = traced(inside).map(([column, row]) => [column + x, row + y]);
        return {points, area: polygonArea(points), box, inside};
    }).sort((one, other) => other.area - one.area);
}

const AROUND = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]; // clockwise from the right

/* Along the edge of a mask of one piece, from its first pixel back to it. */
function traced({width, height, data}) {
    const isInside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x];
    const start = data.indexOf(1), points = [];
    let [x, y] = [start % width, Math.floor(start / width)], from = 5, first = null;
    for (;;) {
        let turn = 0;
        while (turn < 8 && !isInside(x + AROUND[(from + turn) % 8][0], y + AROUND[(from + turn) % 8][1])) turn++;
        if (turn === 8) return [[x, y]];
        const direction = (from + turn) % 8;
        if (y * width + x === start) {
            if (direction === first) return points;
            first ??= direction;
        }
        points.push([x, y]);
        x += AROUND[direction][0];
        y += AROUND[direction][1];
        from = direction + 6;
    }
}

export function polygonArea(points) {
    let sum = 0;
    points.forEach(([x, y], index) => {
        const [nextX, nextY] = points[(index + 1) % points.length];
        sum += x * nextY - nextX * y;
    });
    return Math.abs(sum) / 2;
}

export const perimeter = points => points.reduce((sum, [x, y], index) => {
    const [nextX, nextY] = points[(index + 1) % points.length];
    return sum + Math.hypot(nextX - x, nextY - y);
}, 0);

/* Corners of the convex hull, as OpenCV lists them: from the last one in x, then y, on to where y is highest. */
export function hullOf(points) {
    const hull = convexHull(points);
    let last = 0;
    hull.forEach(([x, y], index) => { if (x > hull[last][0] || (x === hull[last][0] && y > hull[last][1])) last = index; });
    return [...hull.slice(last), ...hull.slice(0, last)];
}

/* The area of the smallest rectangle, turned as it likes, around a convex polygon: one side lies on one of its. */
export function smallestRectangle(hull) {
    return Math.min(...hull.map(([x, y], index) => {
        const [nextX, nextY] = hull[(index + 1) % hull.length], length = Math.hypot(nextX - x, nextY - y);
        const along = hull.map(point => ((nextX - x) * point[0] + (nextY - y) * point[1]) / length);
        const across = hull.map(point => ((nextX - x) * point[1] - (nextY - y) * point[0]) / length);
        return [along, across].reduce((area, places) => area * (Math.max(...places) - Math.min(...places)), 1);
    }));
}

/* The pixels of a convex polygon, with those that its sides touch, as a mask. */
export function drawnPolygon(corners, width, height) {
    const left = new Int32Array(height).fill(width), right = new Int32Array(height).fill(-1);
    corners.forEach(([x, y], index) => {
        const [nextX, nextY] = corners[(index + 1) % corners.length];
        const steps = Math.max(Math.abs(nextX - x), Math.abs(nextY - y), 1);
        for (let step = 0; step <= steps; step++) {
            const column = Math.round(x + (nextX - x) * step / steps), row = Math.round(y + (nextY - y) * step / steps);
            left[row] = Math.min(left[row], column);
            right[row] = Math.max(right[row], column);
        }
    });
    const data = new Uint8Array(width * height);
    for (let row = 0; row < height; row++)
        if (right[row] >= 0) data.fill(1, row * width + left[row], row * width + right[row] + 1);
    return planeOf(width, height, data);
}

/* approxPolyDP of a closed polygon: Douglas and Peucker's corners, none of whose sides is farther off than that. */
export function simplified(points, distance) {
    const count = points.length, point = index => points[index % count];
    const apart = (one, other) => (point(one)[0] - point(other)[0]) ** 2 + (point(one)[1] - point(other)[1]) ** 2;
    let start = 0, far = 0;
    for (let turn = 0; turn < 3; turn++) {
        start = (start + far) % count;
        far = 0;
        for (let index = 1, most = 0; index < count; index++)
            if (apart(start + index, start) > most) [most, far] = [apart(start + index, start), index];
    }
    if (!far || apart(start + far, start) <= distance * distance) return [point(start)];
    const corners = [];
    const split = (from, to) => {
        const [x, y] = point(from), [dx, dy] = [point(to)[0] - x, point(to)[1] - y];
        let most = 0, at = from;
        for (let index = from + 1; index < to; index++) {
            const off = Math.abs((point(index)[1] - y) * dx - (point(index)[0] - x) * dy);
            if (off > most) [most, at] = [off, index];
        }
        if (most * most <= distance * distance * (dx * dx + dy * dy)) corners.push([x, y]);
        else {
            split(from, at);
            split(at, to);
        }
    };
    split(start, start + far);
    split(start + far, start + count);
    return withoutStraight(corners, distance);
}

/* Without corners that hardly are any; those between a level or an upright pair stay, as in OpenCV. */
function withoutStraight(corners, distance) {
    const kept = [];
    let before = corners.at(-1), left = corners.length;
    for (let index = 0; index < corners.length; index++) {
        const here = corners[index], after = index + 1 < corners.length ? corners[index + 1] : kept[0] ?? corners[0];
        const [dx, dy] = [after[0] - before[0], after[1] - before[1]];
        const off = Math.abs((here[0] - before[0]) * dy - (here[1] - before[1]) * dx);
        const goesOn = (here[0] - before[0]) * (after[0] - here[0]) + (here[1] - before[1]) * (after[1] - here[1]) >= 0;
        if (left > 2 && off * off <= distance * distance / 2 * (dx * dx + dy * dy) && dx && dy && goesOn) {
            left--;
            kept.push(before = after);
            index++;
        } else kept.push(before = here);
    }
    return kept.slice(0, left);
}
