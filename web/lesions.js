/* Probability → mask → lesions and their measurements, as segmentation.py of the Python package measures them.

   A mask is a Uint8Array of 0 and 1, row by row; coordinates count pixels from the top left corner. */

/* The pieces of a mask, whose pixels touch at a side, or at a corner if `diagonal`: {labels, pieces}; labels an Int32Array, 0
   outside, and pieces[label - 1] = {area, box: [x, y, width, height], centroid: [x, y]}. */
export function labelPieces(mask, width, height, diagonal = true) {
    const labels = new Int32Array(mask.length), pieces = [], runs = [], aside = diagonal ? 1 : 0;
    for (let start = 0; start < mask.length; start++) {
        if (!mask[start] || labels[start]) continue;
        const label = pieces.length + 1;
        let left = width, right = 0, top = height, bottom = 0, sumX = 0, sumY = 0, area = 0;
        // Takes the run of pixels in a row that one of them belongs to, and gives where the next one may begin.
        const take = (pixel, row) => {
            let first = pixel, end = pixel + 1;
            while (first > row && mask[first - 1]) first--;
            while (end < row + width && mask[end]) end++;
            for (let at = first; at < end; at++) labels[at] = label;
            runs.push(first, end);
            return end + 1;
        };
        take(start, start - start % width);
        while (runs.length) {
            const end = runs.pop(), first = runs.pop(), x = first % width, row = first - x, y = row / width, size = end - first;
            area += size;
            sumX += size * (2 * x + size - 1) / 2;
            sumY += size * y;
            if (x < left) left = x;
            if (x + size - 1 > right) right = x + size - 1;
            if (y < top) top = y;
            if (y > bottom) bottom = y;
            for (const next of [row - width, row + width]) {
                if (next < 0 || next >= mask.length) continue;
                const last = next + Math.min(x + size + aside, width);
                for (let pixel = next + Math.max(x - aside, 0); pixel < last;)
                    if (mask[pixel] && !labels[pixel]) pixel = take(pixel, next);
                    else pixel++;
            }
        }
        pieces.push({area, box: [left, top, right - left + 1, bottom - top + 1], centroid: [sumX / area, sumY / area]});
    }
    return {labels, pieces};
}

/* {mask, labels, pieces, isLarge}: as `measure` cuts it; isLarge says of each piece whether it is a lesion. A mask that was
   corrected by hand, `byHand`, follows no settings. */
export function cutMask({width, height, probability, byHand}, {threshold, minArea}, usualMinArea) {
    const mask = byHand?.slice() ?? new Uint8Array(probability.length), limit = Math.fround(threshold);
    if (!byHand) for (let pixel = 0; pixel < mask.length; pixel++) mask[pixel] = probability[pixel] > limit ? 1 : 0;
    const {labels, pieces} = labelPieces(mask, width, height);
    const isLarge = pieces.map(piece => piece.area >= (minArea || usualMinArea));
    if (minArea && !byHand) mask.forEach((value, pixel) => { if (value && !isLarge[labels[pixel] - 1]) mask[pixel] = 0; });
    return {mask, labels, pieces, isLarge};
}

/* What is measured of a slice at these settings; the network does not run.

   slice: {width, height, probability, byHand}. settings: {threshold, minArea, spacing}; a minimum of 0 leaves all pieces in the
   mask and takes the package's own for lesions, any other hides smaller pieces. The spacing is that of [row, column] in mm,
   or null. */
export function measure(slice, {spacing, ...settings}, usualMinArea) {
    const {width, probability} = slice, {mask, labels, pieces, isLarge} = cutMask(slice, settings, usualMinArea);
    const highest = probability.reduce((most, value) => Math.max(most, value), 0);
    const sums = new Float64Array(pieces.length + 1);
    for (let pixel = 0; pixel < mask.length; pixel++) if (labels[pixel]) sums[labels[pixel]] += probability[pixel];
    const inMm2 = area => spacing ? area * spacing[0] * spacing[1] : null;
    const lesions = pieces.flatMap(({area, box, centroid}, index) => {
        if (!isLarge[index]) return [];
        const corners = cornersOf(labels, index + 1, width, box);
        return [{
            area_px: area, area_mm2: inMm2(area), box, centroid, longest_diameter_px: longestDistance(corners),
            longest_diameter_mm: spacing ? longestDistance(corners, spacing) : null, mean_probability: sums[index + 1] / area,
        }];
    }).sort((one, other) => other.area_px - one.area_px);
    const area = mask.reduce((sum, value) => sum + value, 0);
    const longest = name => lesions.length ? Math.max(...lesions.map(lesion => lesion[name])) : null;
    return {
        mask, lesions, spacing, tumor_found: lesions.length > 0, highest_probability: highest, area_px: area,
        area_percent: 100 * area / mask.length, area_mm2: inMm2(area),
        longest_diameter_px: longest('longest_diameter_px'),
        longest_diameter_mm: spacing ? longest('longest_diameter_mm') : null,
    };
}

/* Corners of the convex hull of a piece's pixels, each a full square: the two that lie farthest apart are among them. */
function cornersOf(labels, label, width, [left, top, boxWidth, boxHeight]) {
    const corners = [];
    for (let y = top; y < top + boxHeight; y++) {
        let first = -1, last = -1;
        for (let x = left; x < left + boxWidth; x++)
            if (labels[y * width + x] === label) {
                if (first < 0) first = x;
                last = x;
            }
        if (first >= 0) corners.push([first, y], [first, y + 1], [last + 1, y], [last + 1, y + 1]);
    }
    return convexHull(corners);
}

function longestDistance(points, [row, column] = [1, 1]) {
    let longest = 0;
    for (const [x, y] of points)
        for (const [otherX, otherY] of points) longest = Math.max(longest, Math.hypot((x - otherX) * column, (y - otherY) * row));
    return longest;
}

/* The corners of the smallest convex polygon around points [x, y]: Andrew's monotone chain. */
export function convexHull(points) {
    const sorted = [...points].sort((one, other) => one[0] - other[0] || one[1] - other[1]);
    const half = ordered => {
        const chain = [];
        for (const point of ordered) {
            while (chain.length > 1 && turn(chain.at(-2), chain.at(-1), point) <= 0) chain.pop();
            chain.push(point);
        }
        return chain.slice(0, -1);
    };
    return sorted.length < 3 ? sorted : [...half(sorted), ...half(sorted.reverse())];
}

const turn = ([x, y], [x1, y1], [x2, y2]) => (x1 - x) * (y2 - y) - (y1 - y) * (x2 - x);

/* Dice and IoU of two masks; 1 where both are empty. */
export function overlap(mask, truth) {
    let both = 0, either = 0;
    for (let pixel = 0; pixel < mask.length; pixel++) {
        both += mask[pixel] & truth[pixel];
        either += mask[pixel] | truth[pixel];
    }
    return {dice: either ? 2 * both / (either + both) : 1, iou: either ? both / either : 1};
}
